"""Passages and rejects of many parts -> one file each: unique passages, and the rejects for a spreadsheet."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs import schema
from data_jobs.database import parquet, quoted, spilling

_ORDER = ("food_id", "title", "image_path", "passage_text", "metadata")
"""Of several passages with one id the first by these is kept, whatever the order of the parts; no photo comes last."""


def unique(passages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of schema.DOCSTORE for each id, by `_ORDER`."""

    def rank(row: dict[str, Any]) -> tuple[tuple[bool, str], ...]:
        return tuple((row[name] is None, row[name] or "") for name in _ORDER)

    return list({row["id"]: row for row in sorted(passages, key=rank, reverse=True)}.values())


def join(parts: Path, target: Path) -> int:
    """Write the unique passages of `parts` to `target`, sorted by id; the number of them."""
    rank = f"row_number() OVER (PARTITION BY id ORDER BY {', '.join(f'{n} NULLS LAST' for n in _ORDER)})"
    return _write(f"SELECT * FROM {parquet(parts)} QUALIFY {rank} = 1", target)


def select(docstore: Path, pairs: Path, target: Path) -> int:
    """Write the passages that the matches among `pairs` state to `target`, sorted by id; the number of them."""
    stated = f"SELECT text_key FROM {parquet(pairs)} WHERE label = 1"
    return _write(f"SELECT * FROM {parquet(docstore)} WHERE id IN ({stated})", target)


def _write(query: str, target: Path) -> int:
    names = ", ".join(schema.DOCSTORE.names)
    count = 0
    with spilling() as database, pq.ParquetWriter(target, schema.DOCSTORE, compression="zstd") as writer:
        for batch in database.sql(f"SELECT {names} FROM ({query}) ORDER BY id").to_arrow_reader(10_000):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema.DOCSTORE))
            count += batch.num_rows
    return count


def export_rejects(parts: Path, target: Path) -> None:
    """Write the rejects of `parts` to the CSV `target`, by file and line."""
    with spilling() as database:
        database.execute(
            f"COPY (SELECT * FROM {parquet(parts)} ORDER BY source, line, image_path, code, message)"
            f" TO {quoted(target)} (HEADER, DELIMITER ',')"
        )
