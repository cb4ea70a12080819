"""Near duplicates against all pairs by brute force, components against union-find, on chains, stars and chance."""

import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_jobs import schema
from data_jobs.duplicates import LINKS, NEAR_DISTANCE, components, near_pairs, opened

Row = dict[str, Any]
TOP = 2**64 - 1


def _write(folder: Path, rows: Sequence[Row], parts: int = 1) -> Path:
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    for number in range(parts):
        table = pa.Table.from_pylist([{**row, "image": b""} for row in rows[number::parts]], schema.PAIRS)
        pq.write_table(table, folder / "pairs" / f"part-{number}.parquet")
    return folder


# ---------------------------------------------------------------------------------- near pairs


def _near(folder: Path, hashes: Sequence[int], threads: int = 2) -> list[tuple[int, int]]:
    rows = [pair(f"p{i}", image_phash=value) for i, value in enumerate(hashes)]
    with opened({"all": _write(folder, rows)}, threads=threads) as database:
        near_pairs(database)
        return database.execute("SELECT a, b FROM near ORDER BY a, b").fetchall()


def _all_near(hashes: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair of distinct values is compared."""
    values = np.unique(np.array(hashes, np.uint64))
    found = []
    for i, one in enumerate(values):
        others = values[i + 1 :]
        close = others[np.bitwise_count(others ^ one) <= NEAR_DISTANCE]
        found += [(int(one), int(other)) for other in close]
    return found


def test_near_pairs_are_those_of_all_pairs(tmp_path: Path) -> None:
    """1500 values by chance, and around 300 of them others at every distance from 0 to 8."""
    chance = np.random.default_rng(3)
    hashes = [int(value) for value in chance.integers(0, TOP, 1500, np.uint64, endpoint=True)]
    for value in hashes[:300]:
        for distance in range(9):
            flipped = chance.choice(64, distance, replace=False)
            hashes.append(value ^ sum(1 << int(bit) for bit in flipped))
    expected = _all_near(hashes)
    assert len(expected) > 300 * 4  # those at distances 1 to 4 from their centre, and some among themselves
    assert _near(tmp_path, hashes) == expected


def test_four_changed_bits_are_found_wherever_they_are(tmp_path: Path) -> None:
    """All ways to change up to four of sixteen bits that lie at the blocks' edges."""
    edges = [0, 10, 11, 21, 22, 32, 33, 43, 44, 53, 54, 63]
    base = 0x9E3779B97F4A7C15
    changed = [base ^ sum(1 << bit for bit in bits) for n in range(6) for bits in combinations(edges, n)]
    assert _near(tmp_path, changed) == _all_near(changed)


def test_the_least_and_greatest_values(tmp_path: Path) -> None:
    hashes = [0, 0, 1, 0b1111, 0b11111, TOP, TOP ^ (1 << 63), TOP >> 4, TOP >> 5, 1 << 63]
    found = _near(tmp_path, hashes)
    assert found == _all_near(hashes)
    assert (0, 0b1111) in found and (0, 0b11111) not in found and (0, 1 << 63) in found
    assert (TOP >> 4, TOP) in found and (TOP >> 5, TOP) not in found


def test_equal_hashes_and_single_rows_are_no_pairs(tmp_path: Path) -> None:
    assert _near(tmp_path / "one", [7]) == []
    assert _near(tmp_path / "same", [7] * 5) == []


# ---------------------------------------------------------------------------------- components


def _components(
    datasets: dict[str, Path], links: Sequence[str] = tuple(LINKS), threads: int = 2
) -> list[tuple[str, str, str]]:
    with opened(datasets, threads=threads) as database:
        components(database, links)
        return database.execute("SELECT split, pair_id, component FROM components ORDER BY ALL").fetchall()


def _by_union_find(
    splits: dict[str, list[Row]], links: Sequence[str] = tuple(LINKS)
) -> list[tuple[str, str, str]]:
    parent: dict[tuple[str, Any], tuple[str, Any]] = {}

    def root(node: tuple[str, Any]) -> tuple[str, Any]:
        parent.setdefault(node, node)
        while parent[node] != node:
            node = parent[node]
        return node

    rows = [(split, row) for split, members in splits.items() for row in members]
    for link in links:
        for _, row in rows:
            if row[LINKS[link]] is not None:
                parent[root(("pair", row["pair_id"]))] = root((link, row[LINKS[link]]))
    if "near-image" in links:
        for one, other in _all_near([row["image_phash"] for _, row in rows]):
            parent[root(("near-image", one))] = root(("near-image", other))
    names: dict[tuple[str, Any], str] = {}
    for _, row in rows:
        node = root(("pair", row["pair_id"]))
        names[node] = min(names.get(node, row["pair_id"]), row["pair_id"])
    return sorted((split, row["pair_id"], names[root(("pair", row["pair_id"]))]) for split, row in rows)


def _chain(length: int) -> list[Row]:
    """Row i is linked to row i + 1 by text, picture, near picture and product in turn, and to no other."""
    rows = [pair(f"p{i:05d}") for i in range(length)]
    for i, (one, other) in enumerate(pairwise(rows)):
        match i % 4:
            case 0:
                other["text_key"] = one["text_key"]
            case 1:
                other["image_sha256"] = one["image_sha256"]
            case 2:
                other["image_phash"] = one["image_phash"] ^ 0b1111
            case 3:
                other["image_group"] = one["image_group"]
    return rows


def test_a_chain_of_a_thousand_rows_is_one_component(tmp_path: Path) -> None:
    rows = _chain(1000)
    random.Random(1).shuffle(rows)
    found = _components({"all": _write(tmp_path, rows, parts=3)})
    assert found == [("all", f"p{i:05d}", "p00000") for i in range(1000)]


@pytest.mark.parametrize("link", list(LINKS))
def test_without_a_link_the_chain_falls_apart(tmp_path: Path, link: str) -> None:
    rows = _chain(41)
    links = [name for name in LINKS if name != link]
    found = _components({"all": _write(tmp_path, rows)}, links)
    assert found == _by_union_find({"all": rows}, links)
    assert len({component for _, _, component in found}) == 11


def test_no_links_leave_every_row_by_itself(tmp_path: Path) -> None:
    found = _components({"all": _write(tmp_path, _chain(5))}, [])
    assert found == [("all", f"p{i:05d}", f"p{i:05d}") for i in range(5)]


def test_one_row(tmp_path: Path) -> None:
    assert _components({"all": _write(tmp_path, [pair("p1")])}) == [("all", "p1", "p1")]


def test_equal_values_of_different_columns_are_no_link(tmp_path: Path) -> None:
    rows = [
        pair("p1", text_key="same", image_sha256="1", image_group="p2"),
        pair("p2", text_key="2", image_sha256="same", image_group="3"),
        pair("p3", text_key="3", image_sha256="3", image_group="same"),
    ]
    found = _components({"all": _write(tmp_path, rows)})
    assert [component for _, _, component in found] == ["p1", "p2", "p3"]


def test_an_unknown_product_is_no_link(tmp_path: Path) -> None:
    rows = [pair(f"p{i}", image_group=None, label=0) for i in range(3)]
    found = _components({"all": _write(tmp_path, rows)})
    assert [component for _, _, component in found] == ["p0", "p1", "p2"]


def test_the_text_group_of_a_mismatch_is_no_link(tmp_path: Path) -> None:
    """The picture shows one product, the text describes another: the row belongs to the picture's."""
    rows = [
        pair("p1"),
        pair("p2", label=0, text_group="product of p1"),
        pair("p3", label=0, text_key="key of p1"),
    ]
    found = _components({"all": _write(tmp_path, rows)})
    assert [component for _, _, component in found] == ["p1", "p2", "p1"]


def test_components_reach_across_splits_and_equal_ids(tmp_path: Path) -> None:
    train = [pair("p1"), pair("p2"), pair("p3")]
    val = [
        pair("p2", image_sha256="x", text_key="x", image_phash=1, image_group="x"),
        pair("p4", text_key="x"),
    ]
    places = {"train": _write(tmp_path / "train", train), "val": _write(tmp_path / "val", val)}
    assert _components(places) == [
        ("train", "p1", "p1"),
        ("train", "p2", "p2"),
        ("train", "p3", "p3"),
        ("val", "p2", "p2"),
        ("val", "p4", "p2"),
    ]


@pytest.mark.parametrize(
    "name", ["it's", 'a "b" [c]*', "گل ماگ", "split=train", "label=7", "'); DROP VIEW pairs; --"]
)
def test_splits_and_folders_of_any_name(tmp_path: Path, name: str) -> None:
    rows = [pair("p1", label=0), pair("p2", text_key="key of p1"), pair("p3", text_group="'")]
    places = {name: _write(tmp_path / name, rows), "other": _write(tmp_path / "b", [pair("p4")])}
    with opened(places) as database:
        view = database.execute("SELECT * FROM pairs ORDER BY pair_id")
        assert [column[0] for column in view.description] == [
            *(column for column in schema.PAIRS.names if column != "image"),
            "split",
        ]
        found = view.fetchall()
        assert [(row[0], row[-1]) for row in found] == [
            ("p1", name),
            ("p2", name),
            ("p3", name),
            ("p4", "other"),
        ]
        assert database.execute("SELECT label FROM pairs ORDER BY pair_id").fetchall() == [
            (0,),
            (1,),
            (1,),
            (1,),
        ]
    assert [row[2] for row in sorted(_components(places), key=lambda row: row[1])] == ["p1", "p1", "p3", "p4"]


VALUES = st.integers(0, 9)
HASHES = st.integers(0, 9).map(lambda n: (n // 3) * 0x0F0F_3C3C_5555_AAAA ^ 0b111 << 5 * (n % 3))
"""Ten values in clusters: some within four bits of one another, others not."""
ROWS = st.lists(
    st.tuples(VALUES, VALUES, HASHES, st.one_of(st.none(), VALUES), VALUES, st.booleans()), max_size=14
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.sets(st.sampled_from(list(LINKS))), st.sampled_from([1, 2]))
def test_components_are_those_of_union_find(
    scratch: Path, drawn: list[Any], links: set[str], threads: int
) -> None:
    splits: dict[str, list[Row]] = {"train": [], "val": []}
    for text, sha, phash, group, number, in_val in drawn:
        values = {
            "text_key": f"{text}",
            "image_sha256": f"{sha}",
            "image_phash": phash,
            "image_group": None if group is None else f"{group}",
        }
        splits["val" if in_val else "train"].append(pair(f"p{number}", **values))
    places = {split: _write(scratch / split, rows) for split, rows in splits.items()}
    chosen = [link for link in LINKS if link in links]
    assert _components(places, chosen, threads) == _by_union_find(splits, chosen)


def test_neither_threads_nor_order_nor_parts_matter(tmp_path: Path) -> None:
    """3000 rows in about 500 components of every shape."""
    chance = np.random.default_rng(5)
    rows = []
    for i in range(3000):
        values: Row = {}
        for column in ("text_key", "image_sha256", "image_group"):
            if chance.random() < 0.4:
                values[column] = f"{column} {chance.integers(1000)}"
        rows.append(pair(f"p{i:05d}", **values))
    expected = _by_union_find({"all": rows})
    assert 300 < len({component for _, _, component in expected}) < 1500
    for number, (threads, parts) in enumerate([(1, 1), (2, 5), (2, 1)]):
        order = chance.permutation(len(rows))
        folder = _write(tmp_path / str(number), [rows[i] for i in order], parts)
        assert _components({"all": folder}, threads=threads) == expected


def test_asking_again_with_other_links_starts_anew(tmp_path: Path) -> None:
    with opened({"all": _write(tmp_path, _chain(9))}) as database:
        counts = []
        for links in (tuple(LINKS), ("text",), ("image", "text"), tuple(LINKS)):
            components(database, links)
            counts += database.execute("SELECT count(DISTINCT component) FROM components").fetchall()
    assert counts == [(1,), (7,), (5,), (1,)]
