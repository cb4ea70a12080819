"""What a dataset holds, in numbers: sizes, lengths, balance, duplicates, contradictions and leaks, with a few examples.

Everything is counted by SQL (see `duplicates`): only aggregates and the examples reach Python, so that memory is flat
in the number of rows. Equal datasets give equal surveys, whatever the order of their rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from data_jobs import cautions
from data_jobs.database import parquet
from data_jobs.duplicates import opened
from data_jobs.findings import FINDINGS, LEAKS, find, near_rows

SIDE_EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Pixels of a picture's shortest side, the first of each bar of the histogram; the last bar is open."""
LENGTH_EDGES = (0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)
"""Characters of a text, likewise."""
MOST_REJECTS = 24
"""Rejects that are shown with their picture."""
# Letters of Unicode's Arabic blocks (0600, 0750, 08A0, FB50, FE70), less digits, marks and punctuation.
_ARABIC = (
    r"[\x{0620}-\x{063F}\x{0641}-\x{064A}\x{066E}-\x{066F}\x{0671}-\x{06D3}\x{06D5}\x{06EE}-\x{06EF}\x{06FA}-\x{06FF}"
    r"\x{0750}-\x{077F}\x{08A0}-\x{08C9}\x{FB50}-\x{FBB1}\x{FBD3}-\x{FD3D}\x{FD50}-\x{FDFB}\x{FE70}-\x{FEFC}]"
)


def survey(datasets: Mapping[str, Path]) -> dict[str, Any]:
    """The numbers of one dataset directory, or of several that are splits of one another, by their names.

    Returns, ready for JSON:

    - `labels`: rows by "match" and "mismatch"; `splits`: rows by name;
    - `pictures`: `distinct` (by bytes) and `short_side`, their histogram in pixels of the shortest side;
    - `texts`: `distinct` (by text key), `length`, their histogram in characters, and `persian`, the rows whose text
      holds a letter of the Arabic script;
    - `duplicates`: `pairs`, the rows that repeat another's picture, text and label; `same_picture_several_names`;
      `near_groups` of different pictures that look alike, `near_pictures` in them, `largest_near_group`;
    - `contradictions`: pairs of a picture and a text that carry both labels;
    - `leaks`: by duplicates.LINKS, the values that occur in more than one split; empty for a single dataset;
    - `rejects`: by `codes` with count and first case, and `examples` that name a picture;
    - `examples` of near_groups, contradictions, duplicates, several_names and leaks: each a list of
      {"size", "rows"}: how many rows (of near groups: pictures) the group has, and findings.MOST_ROWS of them;
    - `warnings`: see `cautions`.

    A histogram is a list of {"from", "to", "count"}; "to" is not included, and None in the last one.
    """
    with opened(datasets) as database:
        near_rows(database)
        numbers = _totals(database, datasets)
        found = {name: find(database, finding) for name, finding in FINDINGS.items()}
        leaks = {link: find(database, leak) for link, leak in LEAKS.items()} if len(datasets) > 1 else {}
        numbers["rejects"] = _rejects(database, datasets)
    near, repeated = found["near_groups"], found["duplicates"]
    numbers |= {
        "duplicates": {
            "pairs": repeated.members - repeated.groups,
            "same_picture_several_names": found["several_names"].groups,
            "near_groups": near.groups,
            "near_pictures": near.members,
            "largest_near_group": near.largest,
        },
        "contradictions": found["contradictions"].groups,
        "leaks": {link: leak.groups for link, leak in leaks.items()},
        "examples": {
            **{name: one.examples for name, one in found.items()},
            "leaks": {link: leak.examples for link, leak in leaks.items()},
        },
    }
    return numbers | {"warnings": cautions.warnings_of(numbers)}


def _totals(database: duckdb.DuckDBPyConnection, datasets: Mapping[str, Path]) -> dict[str, Any]:
    labels = dict(database.execute("SELECT label, count(*) FROM pairs GROUP BY label").fetchall())
    splits = dict(database.execute("SELECT split, count(*) FROM pairs GROUP BY split").fetchall())
    pictures = "SELECT min(least(width, height)) AS value FROM pairs GROUP BY image_sha256"
    texts = "SELECT min(length(text)) AS value FROM pairs GROUP BY text_key"
    persian = f"SELECT count(*) FILTER (regexp_matches(text, '{_ARABIC}')) FROM pairs"
    sides, lengths = _histogram(database, pictures, SIDE_EDGES), _histogram(database, texts, LENGTH_EDGES)
    return {
        "labels": {"match": labels.get(1, 0), "mismatch": labels.get(0, 0)},
        "splits": {name: splits.get(name, 0) for name in datasets},
        "pictures": {"distinct": sum(bar["count"] for bar in sides), "short_side": sides},
        "texts": {
            "distinct": sum(bar["count"] for bar in lengths),
            "length": lengths,
            "persian": database.execute(persian).fetchall()[0][0],
        },
    }


def _histogram(
    database: duckdb.DuckDBPyConnection, values: str, edges: Sequence[int]
) -> list[dict[str, int | None]]:
    ends = [*edges[1:], None]
    within = [
        f"value >= {start}" + (f" AND value < {end}" if end else "")
        for start, end in zip(edges, ends, strict=True)
    ]
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in within)
    (row,) = database.execute(f"SELECT {counts} FROM ({values})").fetchall()
    return [
        {"from": start, "to": end, "count": count} for start, end, count in zip(edges, ends, row, strict=True)
    ]


def _rejects(database: duckdb.DuckDBPyConnection, datasets: Mapping[str, Path]) -> dict[str, Any]:
    """The rejects by code, most frequent first; as examples the codes take turns, so that a rare one is seen too."""
    parts = " UNION ALL ".join(f"SELECT * FROM {parquet(folder / 'rejects')}" for folder in datasets.values())
    fields = ("source", "line", "image_path", "message", "suggestion")
    first = ", ".join(f"'{name}': {name}" for name in fields)
    codes = database.execute(
        f"SELECT code, count(*), min({{{first}}}) FROM ({parts}) GROUP BY code ORDER BY 2 DESC, 1"
    ).fetchall()
    examples = database.execute(
        f"""
        SELECT code, {", ".join(fields)} FROM ({parts}) WHERE image_path IS NOT NULL
        ORDER BY row_number() OVER (PARTITION BY code ORDER BY source, line, image_path, message), code
        LIMIT {MOST_REJECTS}
        """
    ).fetchall()
    return {
        "codes": [{"code": code, "count": count, "first": case} for code, count, case in codes],
        "examples": [dict(zip(("code", *fields), values, strict=True)) for values in examples],
    }
