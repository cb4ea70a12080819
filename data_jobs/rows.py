"""A record -> the rows of the Parquet contract, or a named reject. The one place where a pair is checked."""

import hashlib
import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from data_jobs import files, images, perceptual, schema
from data_jobs.errors import InputError
from data_jobs.items import Passage, Record, Reject
from data_jobs.text import text_key

Row = dict[str, Any]


def pair_row(record: Record, *, image_size: int, max_pixels: int = images.MAX_PIXELS) -> Row:
    """Read, check and re-encode one pair's picture: a row of schema.PAIRS.

    Raises InputError with code missing_image, or one of `images.decode` and `images.shrink`.
    """
    data = _bytes_of(record)
    image = images.decode(data, max_pixels=max_pixels, target=image_size)
    width, height = image.info["original_size"]
    small = images.shrink(image, image_size)
    identity = f"{record.source}\0{record.line}\0{record.image_path}"
    return {
        "pair_id": hashlib.sha256(identity.encode()).hexdigest()[:20],
        "image": images.encode_jpeg(small),
        "image_path": record.image_path,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "image_phash": perceptual.phash(small),
        "width": width,
        "height": height,
        "text": record.text,
        "text_key": text_key(record.text),
        "label": record.label,
        "image_group": record.image_group,
        "text_group": record.text_group,
        "metadata": json.dumps(record.metadata, ensure_ascii=False),
        "source": record.source,
        "line": record.line,
    }


def _bytes_of(record: Record) -> bytes:
    if record.image is not None:
        return record.image
    try:
        return files.read_bytes(record.image_path)
    except files.FAILURES as error:
        reason = (
            error.strerror if isinstance(error, OSError) else None
        ) or f"{type(error).__name__}: {error}"
        raise InputError(
            "missing_image",
            f"The picture {record.image_path} cannot be read ({reason}).",
            "Check the path, and --image-base-path if paths are relative.",
        ) from error


def passage_row(passage: Passage, *, without: Collection[str | None] = ()) -> Row:
    """A row of schema.DOCSTORE; photos that are among `without` (they were rejected) are not named."""
    return {
        "id": passage.id,
        "food_id": passage.group,
        "title": passage.title,
        "passage_text": passage.text,
        "image_path": None if passage.image_path in without else passage.image_path,
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

    if threads == 1:
        results = [one(record) for record in records]  # a pool of one would cost a switch each row
    else:
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(one, records))
    rows = [result for result in results if not isinstance(result, Reject)]
    rejects = [result for result in results if isinstance(result, Reject)]
    return pa.Table.from_pylist(rows, schema.PAIRS), rejects
