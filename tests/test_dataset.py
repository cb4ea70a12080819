"""The dataset directory: counts reconcile, order does not matter, and readers agree."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import save_photos

from data_jobs import schema, text
from data_jobs.dataset import MARKER, Part, chunks, finish, from_csv, read_pairs, read_report, write_part
from data_jobs.drawing import describe, random_products
from data_jobs.errors import InputError
from data_jobs.sources import Item, Note, Passage, Record, Reject

PRODUCTS = random_products(6, seed=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photos(PRODUCTS, tmp_path_factory.mktemp("photos"))


@pytest.fixture
def records(photos: Path) -> list[Record]:
    return [
        Record(
            "pairs.csv", i + 2, str(photos / f"{i}.png"), describe(product, "fa"), int(i != 5), None, f"g{i}"
        )
        for i, product in enumerate(PRODUCTS)
    ]


def _passage(identity: str, title: str, image: str | None = None) -> Passage:
    return Passage("f.json", 1, identity, f"group of {title}", title, f"passage {identity}", image)


def _write(folder: Path, *parts: list[Item]) -> list[Part]:
    folder.mkdir(exist_ok=True)
    return [write_part(items, folder, image_size=32) for items in parts]


def _fingerprint(folder: Path, *parts: list[Item]) -> str:
    report = finish(folder, _write(folder, *parts), image_size=32, inputs=["pairs.csv"])
    fingerprint: str = report["fingerprint"]
    return fingerprint


def test_counts_reconcile(tmp_path: Path, records: list[Record]) -> None:
    gone = replace(records[0], image_path=str(tmp_path / "gone.jpg"))
    broken = Reject("pairs.csv", 9, None, "bad_label", "message", "suggestion")
    notes = [Note("f.json", 1, "no_photos"), Note("f.json", 2, "no_photos")]
    parts = _write(
        tmp_path,
        [*records[:2], gone, broken, _passage("a", "kebab")],
        [*records[2:], *notes, _passage("a", "kebab"), _passage("b", "stew")],
    )
    report = finish(tmp_path, parts, image_size=32, inputs=["pairs.csv"])
    assert report["pairs"] == {"read": 8, "written": 6, "rejected": 2}
    assert report["labels"] == {"match": 5, "mismatch": 1}
    assert report["passages"] == {"read": 3, "unique": 2}
    assert report["codes"] == {"missing_image": 1, "bad_label": 1, "no_photos": 2}
    assert (report["text_normalizer"], report["image_size"]) == (text.VERSION, 32)
    assert report == read_report(tmp_path) == json.loads((tmp_path / MARKER).read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "docstore.parquet", "pairs", "rejects", MARKER,
    ]  # fmt: skip
    assert read_pairs(tmp_path).num_rows == 6
    assert pq.read_table(tmp_path / "rejects")["code"].to_pylist() == ["missing_image", "bad_label"]
    docstore = pq.read_table(tmp_path / "docstore.parquet")
    assert docstore.schema == schema.DOCSTORE
    assert docstore["id"].to_pylist() == ["a", "b"]


def test_a_part_nobody_answered_for_is_dropped(tmp_path: Path, records: list[Record]) -> None:
    kept, _ = _write(
        tmp_path, [*records[:2], _passage("a", "kebab")], [*records, _passage("b", "stew")]
    )  # fmt: skip
    report = finish(tmp_path, [kept], image_size=32, inputs=["pairs.csv"])
    assert report["pairs"]["written"] == read_pairs(tmp_path).num_rows == 2
    assert pq.read_table(tmp_path / "docstore.parquet")["id"].to_pylist() == ["a"]
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == [kept.name]


def test_a_part_survives_its_way_through_json(tmp_path: Path, records: list[Record]) -> None:
    (part,) = _write(tmp_path, [*records, Note("f.json", 1, "no_photos")])
    assert Part(**json.loads(part.to_json())) == part
    assert (part.pairs_read, part.pairs, part.matches, part.codes) == (6, 6, 5, {"no_photos": 1})


def test_the_fingerprint_depends_on_the_rows_and_not_on_order_or_parts(
    tmp_path: Path, records: list[Record]
) -> None:
    whole = _fingerprint(tmp_path / "whole", [*records])
    assert _fingerprint(tmp_path / "parts", [*records[3:]], [*reversed(records[:3])]) == whole
    assert len(whole) == 32

    first = records[0]
    others: dict[str, list[Item]] = {
        "label": [replace(first, label=0), *records[1:]],
        "text": [replace(first, text="other"), *records[1:]],
        "picture": [replace(first, image_path=records[1].image_path), *records[1:]],
        "fewer": [*records[1:]],
        "twice": [first, *records],
    }
    fingerprints = {whole, *(_fingerprint(tmp_path / name, items) for name, items in others.items())}
    assert len(fingerprints) == 6


def test_of_equal_passages_the_same_is_kept_whatever_the_order(tmp_path: Path) -> None:
    passages = [_passage("a", "kebab"), _passage("a", "kebab", "k.jpg"), _passage("a", "stew", "a.jpg")]
    kept = set()
    for i, order in enumerate(itertools.permutations(passages)):
        folder = tmp_path / str(i)
        finish(folder, _write(folder, *([item] for item in order)), image_size=32, inputs=[])
        (row,) = pq.read_table(folder / "docstore.parquet").to_pylist()
        kept.add((row["title"], row["image_path"]))
    assert kept == {("kebab", "k.jpg")}


def test_passages_without_pairs_are_a_dataset(tmp_path: Path) -> None:
    report = finish(tmp_path, _write(tmp_path, [_passage("a", "kebab")]), image_size=32, inputs=["f.json"])
    assert report["pairs"] == {"read": 0, "written": 0, "rejected": 0}
    assert read_pairs(tmp_path).schema.names == schema.PAIRS.names
    assert read_pairs(tmp_path).num_rows == 0


def test_nothing_usable_is_an_error_which_counts_the_reasons(tmp_path: Path, records: list[Record]) -> None:
    gone = [replace(record, image_path="gone.jpg") for record in records]
    parts = _write(tmp_path, [*gone])
    with pytest.raises(InputError, match=r"6 rows of pairs.csv .*'missing_image': 6") as refusal:
        finish(tmp_path, parts, image_size=32, inputs=["pairs.csv"])
    assert refusal.value.code == "nothing_usable"


def _csv(folder: Path, photos: Path, *rows: str) -> Path:
    path = folder / "pairs.csv"
    lines = [f"{photos / f'{i}.png'},{describe(product)},1" for i, product in enumerate(PRODUCTS)]
    path.write_text("\n".join(["image_path,text,label", *lines, *rows]))
    return path


def test_from_csv(tmp_path: Path, photos: Path) -> None:
    report = from_csv(_csv(tmp_path, photos, "gone.jpg,mug,0", "x,y,z"), tmp_path / "out", image_size=32)
    assert report["pairs"] == {"read": 8, "written": 6, "rejected": 2}
    pairs = read_pairs(tmp_path / "out")
    assert sorted(pairs["line"].to_pylist()) == [2, 3, 4, 5, 6, 7]
    assert set(pairs["text"].to_pylist()) == {describe(product) for product in PRODUCTS}
    rejects = pq.read_table(tmp_path / "out" / "rejects").sort_by("line").to_pylist()
    assert [(r["line"], r["code"]) for r in rejects] == [(8, "missing_image"), (9, "bad_label")]
    assert pq.read_table(tmp_path / "out" / "docstore.parquet").num_rows == 6


def test_from_csv_finds_pictures_below_the_base_path(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image_path,text,label\n0.png,mug,1\n")
    report = from_csv(tmp_path / "pairs.csv", tmp_path / "out", image_base_path=photos)
    assert report["pairs"]["written"] == 1


def test_from_csv_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image_path,text,label\ngone.jpg,mug,1\n")
    with pytest.raises(InputError, match="None of the 1 rows"):
        from_csv(tmp_path / "pairs.csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_from_csv_overwrites_a_dataset_only_when_told(tmp_path: Path, photos: Path) -> None:
    path = _csv(tmp_path, photos)
    from_csv(path, tmp_path / "out")
    before = read_report(tmp_path / "out")
    with pytest.raises(InputError, match="exists"):
        from_csv(path, tmp_path / "out", image_size=32)
    assert read_report(tmp_path / "out") == before
    from_csv(path, tmp_path / "out", image_size=32, overwrite=True)
    assert read_report(tmp_path / "out")["image_size"] == 32


def test_pairs_are_read_in_one_order(tmp_path: Path, records: list[Record]) -> None:
    tables = []
    for name, parts in {"one": [[*records]], "many": [[record] for record in reversed(records)]}.items():
        folder = tmp_path / name
        finish(folder, _write(folder, *parts), image_size=32, inputs=[])
        tables.append(read_pairs(folder))
    assert tables[0].equals(tables[1])
    identities = tables[0]["pair_id"].to_pylist()
    assert identities == sorted(identities) and len(set(identities)) == 6


def test_columns_can_be_chosen(tmp_path: Path, records: list[Record]) -> None:
    finish(tmp_path, _write(tmp_path, [*records]), image_size=32, inputs=[])
    table = read_pairs(tmp_path, ["text", "label"])
    assert set(table.column_names) == {"text", "label", "pair_id"}
    assert table["text"].to_pylist() == read_pairs(tmp_path)["text"].to_pylist()


def test_another_directory_is_no_dataset(tmp_path: Path) -> None:
    for read in (read_pairs, read_report):
        with pytest.raises(InputError, match=r"holds no report\.json") as refusal:
            read(tmp_path)
        assert refusal.value.code == "not_a_dataset"
        assert "data_jobs.ingest" in refusal.value.suggestion


def test_chunks() -> None:
    items: list[Item] = [Note("f", line, "x") for line in range(5)]
    assert [len(chunk) for chunk in chunks(iter(items), 2)] == [2, 2, 1]
    assert list(itertools.chain(*chunks(items, 2))) == items
    assert list(chunks([], 2)) == []
