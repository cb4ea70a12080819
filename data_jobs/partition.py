"""A dataset -> which split each row belongs to, and the datasets and CSV files of the splits.

Rows tied by any chain of duplicates.LINKS stay together. Sorting, grouping and joining are DuckDB's, so that memory
is flat in the number of rows; only counts and one group at a time pass through Python.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_jobs import duplicates, schema, splits
from data_jobs.database import parquet, quoted
from data_jobs.errors import InputError
from data_jobs.splits import Group

GIANT = 0.1
"""A component with more than this share of all rows is reported: it bends the shares and may swallow the data."""
_BATCH = 2_000


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    shares: Mapping[str, float]
    links: Sequence[str]
    shuffle: bool
    seed: int


def assign(database: duckdb.DuckDBPyConnection, plan: Plan, scratch: Path) -> dict[str, Any]:
    """Create the table `assigned(pair_id, split)` from the view `pairs`, and say how it came out.

    Returns JSON: rows, components, the largest of them, and the asked and got share of each split by label.
    Raises InputError (empty_split) when a split gets no row.
    """
    duplicates.components(database, plan.links)
    database.execute(
        """
        CREATE OR REPLACE TABLE groups AS
        SELECT component AS name, sum(label)::BIGINT AS matches, count(*) - sum(label)::BIGINT AS mismatches,
               min(image_sha256 || text_key || label) AS content,
               min({'source': source, 'line': line, 'pair_id': pairs.pair_id}) AS first
        FROM components JOIN pairs USING (pair_id) GROUP BY component
        """
    )
    # By content, so that the same pictures and texts are split alike wherever their files are.
    order = (
        f"matches + mismatches DESC, md5({quoted(plan.seed)} || content), first" if plan.shuffle else "first"
    )
    path = scratch / "groups.parquet"
    with pq.ParquetWriter(path, pa.schema([("name", pa.string()), ("split", pa.string())])) as writer:
        for batch in _batches(_chosen(database, plan, order)):
            writer.write_table(pa.table({"name": [n for n, _ in batch], "split": [s for _, s in batch]}))
    database.execute(
        f"""
        CREATE OR REPLACE TABLE assigned AS
        SELECT pair_id, chosen.split FROM components
        JOIN read_parquet({quoted(path)}) AS chosen ON component = chosen.name
        """
    )
    report = _report(database, plan)
    empty = [name for name, got in report["splits"].items() if not got["rows"]]
    if empty:
        raise InputError(
            "empty_split",
            f"Nothing is left for {', '.join(empty)}: {report['rows']} rows make {report['components']} groups that "
            f"may not be separated. {_giants(report)}",
            "Add products. Where mismatches made of other rows' texts tie all rows together: split the matches alone "
            "and make mismatches of each split (python -m data_jobs.make_mismatches), or leave text out of --links.",
        )
    return report


def write_datasets(database: duckdb.DuckDBPyConnection, dataset: Path, targets: Mapping[str, Path]) -> None:
    """Write the pairs of each split below its target as `pairs/part-*.parquet`; pictures stream through once."""
    reader = database.sql(
        f"""
        SELECT {", ".join(schema.PAIRS.names)}, split
        FROM {parquet(dataset / "pairs")} JOIN assigned USING (pair_id)
        """
    ).to_arrow_reader(_BATCH)
    with ExitStack() as stack:
        writers = {}
        for name, target in targets.items():
            (target / "pairs").mkdir(parents=True)
            path = target / "pairs" / "part-000.parquet"
            writers[name] = stack.enter_context(pq.ParquetWriter(path, schema.PAIRS, **schema.STORED))
        for batch in reader:
            table = pa.Table.from_batches([batch])
            for name, writer in writers.items():
                rows = table.filter(pc.equal(table["split"], name)).drop_columns("split")
                if rows.num_rows:
                    writer.write_table(rows.cast(schema.PAIRS))


def write_csvs(database: duckdb.DuckDBPyConnection, targets: Mapping[str, Path], base: str | None) -> None:
    """Write `image_path,text,label` and the other columns of each split as CSV, in the order of the source.

    Paths are relative to `base` where it is given, as in the source, else absolute.
    """
    found = database.execute(
        "SELECT DISTINCT unnest(json_keys(metadata)) AS name FROM pairs ORDER BY name"
    ).fetchall()
    extra = [name for (name,) in found]
    rows = database.execute(
        """
        SELECT assigned.split, image_path, text, label, metadata
        FROM pairs JOIN assigned USING (pair_id) ORDER BY source, line, pairs.pair_id
        """
    )
    with ExitStack() as stack:
        writers = {}
        for name, target in targets.items():
            stream = stack.enter_context(target.open("w", encoding="utf-8", newline=""))
            writers[name] = csv.writer(stream)
            writers[name].writerow(["image_path", "text", "label", *extra])
        while batch := rows.fetchmany(_BATCH):
            for split, image, text, label, metadata in batch:
                values = json.loads(metadata)
                place = os.path.relpath(image, base) if base is not None and os.path.isabs(image) else image
                writers[split].writerow([place, text, label, *(values.get(name, "") for name in extra)])


def _chosen(database: duckdb.DuckDBPyConnection, plan: Plan, order: str) -> Iterator[tuple[str, str]]:
    groups = _groups(database.cursor(), order)
    matches, mismatches = _one(database, "SELECT sum(matches), sum(mismatches) FROM groups")
    if plan.shuffle:
        return splits.stratified(groups, plan.shares, matches=matches or 0, mismatches=mismatches or 0)
    rows_of_kind = dict(
        database.execute(
            """
            SELECT CASE WHEN matches > 0 AND mismatches > 0 THEN 'both' WHEN matches > 0 THEN 'match'
                        ELSE 'mismatch' END AS kind, sum(matches + mismatches)::BIGINT
            FROM groups GROUP BY kind
            """
        ).fetchall()
    )
    return splits.in_order(groups, plan.shares, rows_of_kind=rows_of_kind)


def _groups(cursor: duckdb.DuckDBPyConnection, order: str) -> Iterator[Group]:
    rows = cursor.execute(f"SELECT name, matches, mismatches FROM groups ORDER BY {order}")
    while batch := rows.fetchmany(_BATCH):
        for name, matches, mismatches in batch:
            yield Group(name, matches, mismatches)


def _report(database: duckdb.DuckDBPyConnection, plan: Plan) -> dict[str, Any]:
    rows, components = _one(
        database, "SELECT coalesce(sum(matches + mismatches), 0)::BIGINT, count(*) FROM groups"
    )
    largest = database.execute(
        """
        SELECT matches + mismatches AS size, (SELECT arg_min(text, pair_id) FROM pairs
            JOIN components USING (pair_id) WHERE component = name) AS example
        FROM groups ORDER BY size DESC, first LIMIT 5
        """
    ).fetchall()
    got = {
        name: (total, matches)
        for name, total, matches in database.execute(
            "SELECT assigned.split, count(*), sum(label)::BIGINT FROM pairs JOIN assigned USING (pair_id) GROUP BY 1"
        ).fetchall()
    }
    result: dict[str, Any] = {
        "rows": rows,
        "links": list(plan.links),
        "shuffle": plan.shuffle,
        "seed": plan.seed,
        "components": components,
        "largest": [{"rows": size, "share": size / max(1, rows), "example": text} for size, text in largest],
        "splits": {},
        "warnings": [],
    }
    for name, share in plan.shares.items():
        total, matches = got.get(name, (0, 0))
        result["splits"][name] = {
            "asked": round(share, 6),
            "got": round(total / max(1, rows), 6),
            "rows": total,
            "match": matches,
            "mismatch": total - matches,
        }
    if largest and largest[0][0] > max(1, GIANT * rows):
        result["warnings"].append(_giants(result))
    return result


def _giants(report: Mapping[str, Any]) -> str:
    giant = report["largest"][0]
    return (
        f"{giant['rows']} of {report['rows']} rows ({giant['share']:.0%}) are one component, tied together by "
        f"{', '.join(report['links'])}; one of them is {giant['example'][:80]!r}."
    )


def _one(database: duckdb.DuckDBPyConnection, query: str) -> Any:
    return database.execute(query).fetchone()


def _batches(pairs: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    while batch := list(islice(pairs, 50_000)):
        yield batch
