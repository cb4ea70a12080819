"""DuckDB with bounded memory: joins, sorts and aggregations over Parquet that spill to disk beyond the limit."""

import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

MEMORY_LIMIT = "300MB"
"""What DuckDB keeps in memory; beyond it a query spills."""


@contextmanager
def spilling(*, memory_limit: str = MEMORY_LIMIT, threads: int = 2) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database whose tables and spilled data are in a temporary folder, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="catalens-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": folder,
            "preserve_insertion_order": False,  # orders are asked for where they matter
        }
        with duckdb.connect(f"{folder}/tables.db", config=settings) as connection:
            yield connection


def quoted(value: object) -> str:
    """`value` as an SQL string literal."""
    escaped = str(value).replace("'", "''")
    return f"'{escaped}'"


def parquet(place: Path) -> str:
    """The SQL table of a Parquet file, or of all those of a folder, whatever its name has but a backslash.

    Names such as `label=1` are taken as names, not as columns (Hive's partitions).
    """
    pattern = glob.escape(str(place)) + ("/*.parquet" if place.is_dir() else "")
    return f"read_parquet({quoted(pattern)}, hive_partitioning = false)"
