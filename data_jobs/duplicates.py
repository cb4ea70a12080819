"""Which rows of a dataset show or say the same: near-duplicate pictures, and the groups that no split may cut.

All of it is SQL over the dataset's Parquet in DuckDB, whose joins and aggregations partition themselves and spill to
disk: memory is flat in the number of rows. Nothing here depends on the order of rows or
on the number of threads.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import duckdb

from data_jobs.database import MEMORY_LIMIT, parquet, quoted, spilling

NEAR_DISTANCE = 4
"""Pictures whose perceptual hashes differ in at most this many of 64 bits are near duplicates.

Measured on 2936 photos by benchmarks/near_duplicates: recompression, half the size, another brightness and a faint
watermark stay within it in 99 % of cases, an opaque bar over a corner in 57 %, a crop by 5 % in 31 %; of 4 million
pairs of unlike things none does."""

LINKS = {
    "product": "image_group",
    "image": "image_sha256",
    "near-image": "image_phash",
    "text": "text_key",
}
"""What ties two rows into one group, and the column whose equal values say so."""

_BLOCKS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # (first bit, bits) of the 64


@contextmanager
def opened(
    datasets: Mapping[str, str | Path], *, memory_limit: str = MEMORY_LIMIT, threads: int = 2
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the view `pairs`: all rows of the datasets (split name -> directory), less their pictures.

    The view has schema.PAIRS's other columns and `split`.
    """
    with spilling(memory_limit=memory_limit, threads=threads) as database:
        parts = [
            f"SELECT * EXCLUDE (image), {quoted(split)} AS split FROM {parquet(Path(folder) / 'pairs')}"
            for split, folder in datasets.items()
        ]
        database.execute(f"CREATE VIEW pairs AS {' UNION ALL '.join(parts)}")
        yield database


def near_pairs(database: duckdb.DuckDBPyConnection) -> None:
    """Create the table `near(a, b)`: distinct perceptual hashes a < b at most NEAR_DISTANCE bits apart.

    Exact, not approximate: the 64 bits are cut into six blocks, and four changed bits leave at least two blocks as they
    were, so that near hashes agree in one of the fifteen pairs of blocks (Manku et al., "Detecting
    near-duplicates for web crawling", WWW 2007). Only hashes that agree in a pair of blocks are compared.
    """
    database.execute("CREATE OR REPLACE TABLE hashes AS SELECT DISTINCT image_phash AS h FROM pairs")
    selects = []
    for number, chosen in enumerate(combinations(_BLOCKS, 2)):
        mask = sum(((1 << bits) - 1) << first for first, bits in chosen)
        selects.append(f"SELECT h, {number} AS band, h & {mask}::UBIGINT AS key FROM hashes")
    database.execute(
        f"""
        CREATE OR REPLACE TABLE near AS
        WITH banded AS ({" UNION ALL ".join(selects)})
        SELECT DISTINCT x.h AS a, y.h AS b
        FROM banded x JOIN banded y ON x.band = y.band AND x.key = y.key AND x.h < y.h
        WHERE bit_count(xor(x.h, y.h)) <= {NEAR_DISTANCE}
        """
    )


def components(database: duckdb.DuckDBPyConnection, links: Sequence[str] = tuple(LINKS)) -> None:
    """Create the table `components(pair_id, split, component)` by the chosen LINKS.

    Rows are in one component, named after its least pair_id, if a chain of links leads from one to the other.
    Connected components by alternating
    large-star and small-star steps (Kiveris et al., "Connected components in MapReduce and beyond", SoCC
    2014): each step is one aggregation and one join, and the number of steps grows with the logarithm of the
    longest chain. Creates `near` too, if near-image is among the links.
    """
    columns = [LINKS[link] for link in links]
    first, *others = ["pair_id", *columns]
    edges = [
        f"SELECT {_node(first)} AS u, {_node(column)} AS v FROM pairs WHERE {column} IS NOT NULL"
        for column in others
    ]
    if "near-image" in links:
        near_pairs(database)
        edges.append(f"SELECT {_node('image_phash', 'a')}, {_node('image_phash', 'b')} FROM near")
    database.execute(
        f"CREATE OR REPLACE TABLE edges AS SELECT DISTINCT * FROM ({' UNION ALL '.join(edges)})"
        if edges
        else "CREATE OR REPLACE TABLE edges (u UBIGINT, v UBIGINT)"
    )
    before = None
    while (now := _summary(database)) != before:
        before = now
        database.execute(_LARGE_STAR)
        database.execute(_SMALL_STAR)
    database.execute(
        f"""
        CREATE OR REPLACE TABLE components AS
        WITH roots AS (
            SELECT pair_id, split, coalesce(v, {_node("pair_id")}) AS root
            FROM pairs LEFT JOIN edges ON u = {_node("pair_id")}
        ),
        names AS (SELECT root, min(pair_id) AS component FROM roots GROUP BY root)
        SELECT pair_id, split, component FROM roots JOIN names USING (root)
        """
    )


_LARGE_STAR = """
CREATE OR REPLACE TABLE edges AS
WITH sides AS (SELECT u, v FROM edges UNION ALL SELECT v, u FROM edges),
     least_of AS (SELECT u, least(u, min(v)) AS m FROM sides GROUP BY u)
SELECT DISTINCT v AS u, m AS v FROM sides JOIN least_of USING (u) WHERE v > u
"""
_SMALL_STAR = """
CREATE OR REPLACE TABLE edges AS
WITH down AS (SELECT greatest(u, v) AS u, least(u, v) AS v FROM edges),
     least_of AS (SELECT u, min(v) AS m FROM down GROUP BY u)
SELECT DISTINCT * FROM (
    SELECT v AS u, m AS v FROM down JOIN least_of USING (u) WHERE v <> m
    UNION ALL SELECT u, m AS v FROM least_of
)
"""


def _summary(database: duckdb.DuckDBPyConnection) -> tuple[object, ...] | None:
    """Changes whenever a step changed the edges."""
    return database.execute("SELECT count(*), bit_xor(hash(u, v)), sum(hash(u, v)) FROM edges").fetchone()


def _node(column: str, value: str | None = None) -> str:
    """The graph's node for a value of a column: values of different columns are different nodes."""
    return f"hash({quoted(column)}, {value or column})"
