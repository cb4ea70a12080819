"""The dataset directory: counts reconcile, order does not matter, and readers agree."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import save_photos

from data_jobs import dataset, schema, text
from data_jobs.dataset import MARKER, Part, finish, from_csv, read_pairs, read_report, summed, write_part
from data_jobs.drawing import describe, random_products
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Passage, Record, Reject

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
    return [write_part(f"{n:03d}", items, folder, image_size=32) for n, items in enumerate(parts)]


def _fingerprint(folder: Path, *parts: list[Item]) -> str:
    _write(folder, *parts)
    report = finish(folder, image_size=32, inputs=["pairs.csv"])
    fingerprint: str = report["fingerprint"]
    return fingerprint


def test_counts_reconcile(tmp_path: Path, records: list[Record]) -> None:
    gone = replace(records[0], image_path=str(tmp_path / "gone.jpg"))
    broken = Reject("pairs.csv", 9, None, "bad_label", "message", "suggestion")
    notes = [Note("f.json", 1, "no_photos"), Note("f.json", 2, "no_photos")]
    _write(
        tmp_path,
        [*records[:2], gone, broken, _passage("a", "kebab")],
        [*records[2:], *notes, _passage("a", "kebab"), _passage("b", "stew")],
    )
    report = finish(tmp_path, image_size=32, inputs=["pairs.csv"])
    assert report["pairs"] == {"read": 8, "written": 6, "rejected": 2}
    assert report["labels"] == {"match": 5, "mismatch": 1}
    assert report["passages"] == {"read": 3, "unique": 2}
    assert report["codes"] == {"missing_image": 1, "bad_label": 1, "no_photos": 2}
    assert (report["text_normalizer"], report["image_size"]) == (text.VERSION, 32)
    assert report == read_report(tmp_path) == json.loads((tmp_path / MARKER).read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "docstore.parquet", "pairs", "rejects", "rejects.csv", "report.html", MARKER,
    ]  # fmt: skip
    assert read_pairs(tmp_path).num_rows == 6
    assert pq.read_table(tmp_path / "rejects")["code"].to_pylist() == ["bad_label", "missing_image"]
    listed = (tmp_path / "rejects.csv").read_text().splitlines()
    assert listed[0] == "source,line,image_path,code,message,suggestion"
    assert [row.split(",")[3] for row in listed[1:]] == ["missing_image", "bad_label"]  # by file and line
    docstore = pq.read_table(tmp_path / "docstore.parquet")
    assert docstore.schema == schema.DOCSTORE
    assert docstore["id"].to_pylist() == ["a", "b"]


def test_a_part_that_is_not_in_the_ledger_is_dropped(tmp_path: Path, records: list[Record]) -> None:
    kept, lost = _write(
        tmp_path, [*records[:2], _passage("a", "kebab")], [*records, _passage("b", "stew")]
    )  # fmt: skip
    (tmp_path / "ledger" / f"{lost.name}.json").unlink()  # its worker died before it entered the part
    (tmp_path / "pairs" / ".part-002.parquet.1a2b").write_text("half-written")
    report = finish(tmp_path, image_size=32, inputs=["pairs.csv"])
    assert report["pairs"]["written"] == read_pairs(tmp_path).num_rows == 2
    assert pq.read_table(tmp_path / "docstore.parquet")["id"].to_pylist() == ["a"]
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == [f"part-{kept.name}.parquet"]


def test_a_part_in_the_ledger_is_not_done_again(tmp_path: Path, records: list[Record]) -> None:
    (first,) = _write(tmp_path, [*records])
    written = (tmp_path / "pairs" / "part-000.parquet").stat().st_mtime_ns
    assert write_part("000", [Note("f", 1, "x")], tmp_path, image_size=32) == first
    assert (tmp_path / "pairs" / "part-000.parquet").stat().st_mtime_ns == written


def test_a_part_written_twice_is_the_same_part(tmp_path: Path, records: list[Record]) -> None:
    (first,) = _write(tmp_path, [*records])
    bytes_of = (tmp_path / "pairs" / "part-000.parquet").read_bytes()
    (tmp_path / "ledger" / "000.json").unlink()
    assert _write(tmp_path, [*records]) == [first]
    assert (tmp_path / "pairs" / "part-000.parquet").read_bytes() == bytes_of
    assert len(list((tmp_path / "pairs").iterdir())) == 1


@pytest.mark.parametrize("killed_at", ["report", "ledger", "passages"])
def test_finishing_again_after_a_kill_loses_nothing(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    chunks: list[list[Item]] = [[*records, _passage("a", "kebab")], [_passage("b", "stew")]]
    _write(tmp_path, *chunks)
    remove = dataset.shutil.rmtree

    def killed(path: str | Path, *rest: Any, **options: Any) -> None:
        if Path(path).name == killed_at:
            raise KeyboardInterrupt
        remove(path, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(dataset.shutil, "rmtree", killed)
        if killed_at == "report":
            patched.setattr(dataset.page, "write", lambda *_: killed("report"))
        with pytest.raises(KeyboardInterrupt):
            finish(tmp_path, image_size=32, inputs=["f.json"])
    _write(tmp_path, *chunks)  # what --resume does: the chunks again, those in the ledger for nothing
    report = finish(tmp_path, image_size=32, inputs=["f.json"])
    assert report["pairs"]["written"] == 6
    assert pq.read_table(tmp_path / "docstore.parquet")["id"].to_pylist() == ["a", "b"]


def test_a_passage_does_not_name_a_photo_that_was_refused(tmp_path: Path, records: list[Record]) -> None:
    gone = replace(records[0], image_path=str(tmp_path / "gone.jpg"))
    passages = [_passage("a", "kebab", gone.image_path), _passage("b", "stew", records[1].image_path)]
    _write(tmp_path, [gone, records[1], *passages])
    finish(tmp_path, image_size=32, inputs=["f.json"])
    kept = pq.read_table(tmp_path / "docstore.parquet")["image_path"].to_pylist()
    assert kept == [None, records[1].image_path]


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
        _write(folder, *([item] for item in order))
        finish(folder, image_size=32, inputs=[])
        (row,) = pq.read_table(folder / "docstore.parquet").to_pylist()
        kept.add((row["title"], row["image_path"]))
    assert kept == {("kebab", "k.jpg")}


def test_passages_without_pairs_are_a_dataset(tmp_path: Path) -> None:
    _write(tmp_path, [_passage("a", "kebab")])
    report = finish(tmp_path, image_size=32, inputs=["f.json"])
    assert report["pairs"] == {"read": 0, "written": 0, "rejected": 0}
    assert read_pairs(tmp_path).schema.names == schema.PAIRS.names
    assert read_pairs(tmp_path).num_rows == 0


def test_nothing_usable_is_an_error_which_shows_the_first_rows(tmp_path: Path, records: list[Record]) -> None:
    _write(tmp_path, [replace(record, image_path="gone.jpg") for record in records])
    with pytest.raises(
        InputError, match=r"pairs.csv: None of the 6 rows can be used: missing_image 6"
    ) as refusal:
        finish(tmp_path, image_size=32, inputs=["pairs.csv"])
    assert refusal.value.code == "nothing_usable"
    assert "pairs.csv:2: The picture gone.jpg cannot be read" in refusal.value.message


def test_a_source_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pairs.csv: holds no rows") as refusal:
        finish(tmp_path, image_size=32, inputs=["pairs.csv"])
    assert refusal.value.code == "nothing_usable"
    report = finish(tmp_path, image_size=32, inputs=["pairs.csv"], may_be_empty=True)
    assert report["pairs"] == {"read": 0, "written": 0, "rejected": 0}


def test_the_counts_of_several_datasets_add_up(tmp_path: Path, records: list[Record]) -> None:
    reports = []
    for name, members in {"a": records[:4], "b": records[4:], "all": records}.items():
        _write(tmp_path / name, [*members])
        reports.append(finish(tmp_path / name, image_size=32, inputs=[name]))
    total = summed(reports[:2])
    for count in ("pairs", "labels", "codes", "fingerprint"):
        assert total[count] == reports[2][count], count
    assert total["inputs"] == ["a", "b"]


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
        _write(folder, *parts)
        finish(folder, image_size=32, inputs=[])
        tables.append(read_pairs(folder))
    assert tables[0].equals(tables[1])
    identities = tables[0]["pair_id"].to_pylist()
    assert identities == sorted(identities) and len(set(identities)) == 6


def test_columns_can_be_chosen(tmp_path: Path, records: list[Record]) -> None:
    _write(tmp_path, [*records])
    finish(tmp_path, image_size=32, inputs=[])
    table = read_pairs(tmp_path, ["text", "label"])
    assert set(table.column_names) == {"text", "label", "pair_id"}
    assert table["text"].to_pylist() == read_pairs(tmp_path)["text"].to_pylist()


def test_another_directory_is_no_dataset(tmp_path: Path) -> None:
    for read in (read_pairs, read_report):
        with pytest.raises(InputError, match=r"holds no report\.json") as refusal:
            read(tmp_path)
        assert refusal.value.code == "not_a_dataset"
        assert "data_jobs.ingest" in refusal.value.suggestion


def test_a_dataset_of_another_format_is_refused(tmp_path: Path, records: list[Record]) -> None:
    _write(tmp_path, [*records])
    finish(tmp_path, image_size=32, inputs=[])
    report = read_report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({**report, "format_version": 1}))
    with pytest.raises(InputError, match="has format version 1") as refusal:
        read_report(tmp_path)
    assert refusal.value.code == "old_dataset"
