"""Rows that share what they should not: how many groups of them there are, and the largest few as examples.

SQL over the tables of `duplicates`, so that memory is flat in the number of rows.
"""

from dataclasses import dataclass
from typing import Any

import duckdb

from data_jobs.duplicates import LINKS, components

MOST_GROUPS = 12
"""Examples of each finding."""
MOST_ROWS = 6
"""Rows of each example."""
MOST_CHARACTERS = 300
"""Of an example's text; a longer one ends in an ellipsis."""


@dataclass(frozen=True)
class Finding:
    """Rows that share `key` and are `wrong` (an SQL condition on the group) for it.

    `size` is the SQL that says how large a group is; an example shows different values of `variety` before equal ones.
    """

    key: str
    wrong: str
    variety: str
    size: str = "count(*)"
    rows: str = "pairs"


_PICTURES = "count(DISTINCT image_sha256)"
FINDINGS = {
    "near_groups": Finding(
        "component",
        "min(image_sha256) <> max(image_sha256)",
        "image_sha256",
        size=_PICTURES,
        rows="near_rows",
    ),
    "contradictions": Finding("image_sha256 || text_key", "min(label) <> max(label)", "label"),
    "duplicates": Finding("image_sha256 || text_key || label", "count(*) > 1", "split"),
    "several_names": Finding("image_sha256", "min(image_path) <> max(image_path)", "image_path"),
}
_SEVERAL_SPLITS = "min(split) <> max(split)"
LEAKS = {
    link: Finding("component", _SEVERAL_SPLITS, "split", size=_PICTURES, rows="near_rows")
    if link == "near-image"
    else Finding(column, _SEVERAL_SPLITS, "split")
    for link, column in LINKS.items()
}


def near_rows(database: duckdb.DuckDBPyConnection) -> None:
    """Create the table `near_rows(component, image_sha256, split, pair_id)`, which some findings read.

    Its rows are the pictures of each split, by components of equal or near perceptual hashes; those that stand alone
    are left out. Creates the tables of `duplicates.components` too.
    """
    components(database, ("near-image",))
    database.execute(
        """
        CREATE OR REPLACE TABLE near_rows AS
        SELECT component, image_sha256, split, min(pair_id) AS pair_id
        FROM pairs JOIN components USING (split, pair_id)
        WHERE component IN (SELECT component FROM components GROUP BY component HAVING count(*) > 1)
        GROUP BY component, image_sha256, split
        """
    )


@dataclass(frozen=True)
class Found:
    groups: int
    members: int
    largest: int
    examples: list[dict[str, Any]]


def find(database: duckdb.DuckDBPyConnection, finding: Finding) -> Found:
    """Count the groups of a finding, and fetch the largest few: in order of size, then of their first pair_id."""
    database.execute(
        f"""
        CREATE OR REPLACE TABLE found AS
        SELECT {finding.key} AS key, {finding.size} AS size, min(pair_id) AS first
        FROM {finding.rows} WHERE {finding.key} IS NOT NULL
        GROUP BY {finding.key} HAVING {finding.wrong}
        """
    )
    totals = "SELECT count(*), coalesce(sum(size), 0), coalesce(max(size), 0) FROM found"
    ((groups, members, largest),) = database.execute(totals).fetchall()
    rows = database.execute(
        f"""
        WITH chosen AS (
            SELECT *, row_number() OVER (ORDER BY size DESC, first, key) AS rank
            FROM found ORDER BY size DESC, first, key LIMIT {MOST_GROUPS}
        ), members AS (
            SELECT rank, size, split, pair_id,
                row_number() OVER (PARTITION BY rank, {finding.variety} ORDER BY split, pair_id) AS turn
            FROM {finding.rows} JOIN chosen ON {finding.key} = key
        ), shown AS (
            SELECT *, row_number() OVER (PARTITION BY rank ORDER BY turn, split, pair_id) AS place
            FROM members QUALIFY place <= {MOST_ROWS}
        )
        SELECT DISTINCT rank, size, place, pair_id, split, image_path, source, line, label, {_shortened("text")}
        FROM shown JOIN pairs USING (split, pair_id) ORDER BY ALL
        """
    ).fetchall()
    names = ("pair_id", "split", "image_path", "source", "line", "label", "text")
    examples: dict[int, dict[str, Any]] = {}
    for rank, size, _, *values in rows:
        example = examples.setdefault(rank, {"size": size, "rows": []})
        example["rows"].append(dict(zip(names, values, strict=True)))
    return Found(groups, members, largest, list(examples.values()))


def _shortened(column: str) -> str:
    return (
        f"CASE WHEN length({column}) > {MOST_CHARACTERS}"
        f" THEN left({column}, {MOST_CHARACTERS}) || '…' ELSE {column} END AS {column}"
    )
