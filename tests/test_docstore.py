"""The docstore: of passages with one id the same is kept in any order, in memory and in DuckDB; rejects as CSV."""

import csv
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import dataset, pair, reject
from hypothesis import given
from hypothesis import strategies as st

from data_jobs import docstore, schema

Row = dict[str, Any]


def _passage(id: str, **values: Any) -> Row:
    return {
        "id": id,
        "food_id": "g1",
        "title": "Mug",
        "passage_text": "A red mug.",
        "image_path": "/a.jpg",
        "metadata": "{}",
        **values,
    }


def _write(folder: Path, parts: list[list[Row]]) -> Path:
    folder.mkdir(parents=True)
    for number, rows in enumerate(parts):
        pq.write_table(pa.Table.from_pylist(rows, schema.DOCSTORE), folder / f"part-{number}.parquet")
    return folder


def _join(folder: Path, parts: list[list[Row]]) -> list[Row]:
    target = folder / "docstore.parquet"
    count = docstore.join(_write(folder / "passages", parts), target)
    table = pq.read_table(target)
    assert table.schema.equals(schema.DOCSTORE)
    assert table.num_rows == count
    rows: list[Row] = table.to_pylist()
    return rows


TWINS = [
    # the one to be kept, and one behind it
    (_passage("a", food_id="g1"), _passage("a", food_id="g2", title="A")),
    (_passage("a", title=""), _passage("a", title="Mug")),
    (_passage("a", title="Z"), _passage("a", title="a")),  # by code point
    (_passage("a", title="ک"), _passage("a", title="😀")),
    (_passage("a", image_path="/z.jpg"), _passage("a", image_path=None)),
    (_passage("a", image_path=""), _passage("a", image_path="/a.jpg")),
    (_passage("a", passage_text="A red mug."), _passage("a", passage_text="a red mug.")),
    (_passage("a", metadata='{"price": "1"}'), _passage("a", metadata='{"price": "2"}')),
]


@pytest.mark.parametrize(("kept", "other"), TWINS)
def test_of_one_id_the_least_is_kept_in_any_order(tmp_path: Path, kept: Row, other: Row) -> None:
    for number, rows in enumerate(([kept, other], [other, kept], [other, kept, other])):
        assert docstore.unique(rows) == [kept]
        assert _join(tmp_path / f"{number} one part", [rows]) == [kept]
        assert _join(tmp_path / f"{number} parts", [[row] for row in rows]) == [kept]


def test_passages_come_sorted_by_id(tmp_path: Path) -> None:
    rows = _join(tmp_path, [[_passage("c"), _passage("a")], [_passage("b"), _passage("ب"), _passage("B")]])
    assert [row["id"] for row in rows] == ["B", "a", "b", "c", "ب"]


def test_no_passages_are_a_docstore_too(tmp_path: Path) -> None:
    assert _join(tmp_path, [[]]) == []


passages = st.builds(
    _passage,
    st.sampled_from("abc"),
    food_id=st.sampled_from(["g1", "گ"]),
    title=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2),
    image_path=st.sampled_from([None, "", "/a.jpg", "/ا.jpg"]),
)


@given(st.lists(passages, max_size=12), st.randoms(use_true_random=False))
def test_unique_in_parts_is_unique_at_once(rows: list[Row], chance: random.Random) -> None:
    """What workers drop early changes nothing at the end."""
    shuffled = rows.copy()
    chance.shuffle(shuffled)
    cut = chance.randint(0, len(rows))
    parts = docstore.unique(shuffled[:cut]) + docstore.unique(shuffled[cut:])

    def by_id(found: list[Row]) -> list[Row]:
        return sorted(found, key=lambda row: row["id"])

    assert by_id(docstore.unique(parts)) == by_id(docstore.unique(rows))


def test_duckdb_keeps_what_python_keeps(tmp_path: Path) -> None:
    chance = random.Random(7)
    titles = ["", "a", "Z", "ک", "ي", "😀", "\u200c", "é", "z\n", "'"]
    rows = [
        _passage(
            str(chance.randrange(40)),
            food_id=chance.choice(["g1", "گ"]),
            title=chance.choice(titles) + chance.choice(titles),
            image_path=chance.choice([None, "", "/a.jpg", "/ا.jpg"]),
        )
        for _ in range(600)
    ]
    expected = sorted(docstore.unique(rows), key=lambda row: str(row["id"]))
    assert _join(tmp_path, [rows[i::7] for i in range(7)]) == expected


@pytest.mark.parametrize("name", ["plain", "o'clock [2] گل", "id=x"])
def test_a_selection_has_the_passages_of_its_matches(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    _join(home, [[_passage("k1"), _passage("k2"), _passage("k3"), _passage("lonely")]])
    rows = [
        pair("p1", text_key="k1"),
        pair("p2", text_key="k1"),
        pair("p3", text_key="k2", label=0, image_group=None),
        pair("p4", text_key="k3"),
    ]
    chosen = dataset(home / "chosen", rows)
    count = docstore.select(home / "docstore.parquet", chosen / "pairs", home / "selected.parquet")
    table = pq.read_table(home / "selected.parquet")
    assert table["id"].to_pylist() == ["k1", "k3"]
    assert count == 2 and table.schema.equals(schema.DOCSTORE)


@pytest.mark.parametrize("name", ["plain", "o'clock [2] گل"])
def test_rejects_come_by_file_and_line_and_survive_any_text(tmp_path: Path, name: str) -> None:
    said = 'He said "no, never";\nthen: کلاه\tو ماگ'
    rows = [
        reject(10, "bad_label", message=said),
        reject(9, "empty_text", source="a.csv"),
        reject(2, "missing_image", image_path="/گل, ماگ.jpg"),
        reject(2, "bad_label", image_path="/گل, ماگ.jpg"),
    ]
    folder = dataset(tmp_path / name, [], rows) / "rejects"
    docstore.export_rejects(folder, tmp_path / name / "rejects.csv")
    with (tmp_path / name / "rejects.csv").open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert list(found[0]) == schema.REJECTS.names
    assert [(row["source"], row["line"], row["code"]) for row in found] == [
        ("a.csv", "9", "empty_text"),
        ("pairs.csv", "2", "bad_label"),
        ("pairs.csv", "2", "missing_image"),
        ("pairs.csv", "10", "bad_label"),
    ]
    assert found[3]["message"] == said and found[3]["image_path"] == ""
    assert found[1]["image_path"] == "/گل, ماگ.jpg"


def test_no_rejects_are_a_header(tmp_path: Path) -> None:
    docstore.export_rejects(dataset(tmp_path / "set", []) / "rejects", tmp_path / "rejects.csv")
    assert (tmp_path / "rejects.csv").read_text() == ",".join(schema.REJECTS.names) + "\n"
