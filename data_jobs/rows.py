"""A record -> the rows of the Parquet contract, or a named reject. The one place where a pair is checked."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_jobs import images, schema
from data_jobs.errors import InputError
from data_jobs.sources import Passage, Record, Reject

Row = dict[str, Any]


def pair_row(record: Record, *, image_size: int, max_pixels: int = images.MAX_PIXELS) -> Row:
    """Read, check and re-encode one pair's picture: a row of schema.PAIRS.

    Raises InputError with code missing_image, or one of `images.decode` and `images.encode_jpeg`.
    """
    try:
        data = Path(record.image_path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no path at all, such as one with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            "missing_image",
            f"The picture {record.image_path} cannot be read ({reason}).",
            "Check the path, and --image-base-path if paths are relative.",
        ) from error
    image = images.decode(data, max_pixels=max_pixels, target=image_size)
    width, height = image.info["original_size"]
    identity = f"{record.source}\0{record.line}\0{record.image_path}"
    return {
        "pair_id": hashlib.sha256(identity.encode()).hexdigest()[:20],
        "image": images.encode_jpeg(image, shortest_side=image_size),
        "image_path": record.image_path,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "width": width,
        "height": height,
        "text": record.text,
        "label": record.label,
        "image_group": record.image_group,
        "text_group": record.text_group,
        "metadata": json.dumps(record.metadata, ensure_ascii=False),
        "source": record.source,
        "line": record.line,
    }


def passage_row(passage: Passage) -> Row:
    """A row of schema.DOCSTORE."""
    return {
        "id": passage.id,
        "food_id": passage.group,
        "title": passage.title,
        "passage_text": passage.text,
        "image_path": passage.image_path,
        "metadata": json.dumps(passage.metadata, ensure_ascii=False),
    }


def reject_row(reject: Reject) -> Row:
    """A row of schema.REJECTS."""
    return {
        "source": reject.source,
        "line": reject.line,
        "image_path": reject.image_path,
        "code": reject.code,
        "message": reject.message,
        "suggestion": reject.suggestion,
    }


def check(
    records: Iterable[Record], *, image_size: int, max_pixels: int = images.MAX_PIXELS, threads: int = 1
) -> tuple[pa.Table, list[Reject]]:
    """Check many records at once: (table of schema.PAIRS, rejects), both in the order given."""

    def one(record: Record) -> Row | Reject:
        try:
            return pair_row(record, image_size=image_size, max_pixels=max_pixels)
        except InputError as error:
            return Reject.of(error, record.source, record.line, record.image_path)

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(one, records))
    rows = [result for result in results if not isinstance(result, Reject)]
    rejects = [result for result in results if isinstance(result, Reject)]
    return pa.Table.from_pylist(rows, schema.PAIRS), rejects
