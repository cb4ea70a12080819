"""Dataset directories made by hand, row by row, for tests of what reads them."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_jobs import schema


def jpeg(colour: str, side: int = 16) -> bytes:
    """One plain picture."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "JPEG")
    return out.getvalue()


def pair(pair_id: str, **values: Any) -> dict[str, Any]:
    """A row of schema.PAIRS: a match unlike any other row's, but for `values`."""
    number = int("".join(filter(str.isdigit, pair_id)) or 0)
    return {
        "pair_id": pair_id,
        "image": values.get("image") or jpeg("teal"),
        "image_path": f"/photos/{pair_id}.jpg",
        "image_sha256": f"sha of {pair_id}",
        "image_phash": (number + 1) * 0x9E3779B97F4A7C15 % 2**64,  # spread widely, so that none are near
        "width": 300,
        "height": 400,
        "text": f"text of {pair_id}",
        "text_key": f"key of {pair_id}",
        "label": 1,
        "image_group": f"product of {pair_id}",
        "text_group": f"product of {pair_id}",
        "metadata": "{}",
        "source": "pairs.csv",
        "line": number + 2,
        **values,
    }


def reject(line: int, code: str, **values: Any) -> dict[str, Any]:
    """A row of schema.REJECTS."""
    return {
        "source": "pairs.csv",
        "line": line,
        "image_path": None,
        "code": code,
        "message": f"The message of line {line}.",
        "suggestion": f"The remedy of {code}.",
        **values,
    }


def dataset(
    folder: Path, pairs: list[dict[str, Any]], rejects: list[dict[str, Any]] | None = None, *, parts: int = 2
) -> Path:
    """Write the rows, the pairs in several parts; returns the folder."""
    tables = {"pairs": (pairs, schema.PAIRS), "rejects": (rejects or [], schema.REJECTS)}
    for name, (rows, columns) in tables.items():
        (folder / name).mkdir(parents=True)
        for part in range(parts):
            table = pa.Table.from_pylist(rows[part::parts], columns)
            pq.write_table(table, folder / name / f"part-{part}.parquet", row_group_size=3)
    return folder


def counts(numbers: dict[str, Any], **values: Any) -> dict[str, Any]:
    """What `dataset.finish` counts, for the numbers of a survey: every reject was a pair, no passages."""
    written = sum(numbers["labels"].values())
    rejected = {entry["code"]: entry["count"] for entry in numbers["rejects"]["codes"]}
    return {
        "format_version": 2,
        "inputs": ["pairs.csv"],
        "text_normalizer": "fa-en-1",
        "image_size": 256,
        "pairs": {
            "read": written + sum(rejected.values()),
            "written": written,
            "rejected": sum(rejected.values()),
        },
        "labels": numbers["labels"],
        "passages": {"read": 0, "unique": 0},
        "codes": rejected,
        "fingerprint": "0" * 32,
        **values,
    }
