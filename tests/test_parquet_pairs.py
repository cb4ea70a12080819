"""Parquet of pairs: every layout of pictures, every row once with its line, and a broken file or row lost alone."""

import datetime
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import jpeg

from data_jobs import dataset, parquet_pairs, sources
from data_jobs.drawing import draw, random_products
from data_jobs.errors import InputError
from data_jobs.items import Item, Passage, Record, Reject
from data_jobs.parquet_pairs import ROWS, ParquetPairs
from data_jobs.text import text_key

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _read(path: Path | str, image_base_path: str | None = None) -> list[Item]:
    return list(sources.read(ParquetPairs.open(str(path), image_base_path)))


def _pairs(path: Path, columns: dict[str, Any], **options: Any) -> list[Item]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return _read(path)


def _records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def _rejects(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.code) for item in items if isinstance(item, Reject)]


def _many(path: Path, count: int, row_group_size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image_path": [f"{i}.jpg" for i in range(1, count + 1)],
        "text": [f"mug {i}" for i in range(1, count + 1)],
        "label": [0] * count,
    }
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


# ---------------------------------------------------------------------------------- what a row states


def test_a_column_of_paths(tmp_path: Path) -> None:
    columns = {"Image_Path": ["in/1.jpg", "/2.jpg"], "TEXT": [" Red mug ", "hat"], "label": [1, 0]}
    record, passage, other = _pairs(tmp_path / "a.parquet", columns)
    key, source, photo = text_key("red mug"), str(tmp_path / "a.parquet"), str(tmp_path / "in/1.jpg")
    assert record == Record(source, 1, photo, "Red mug", 1, key, key, {})
    assert passage == Passage(source, 1, key, key, "", "Red mug", photo, {})
    assert other == Record(source, 2, "/2.jpg", "hat", 0, None, text_key("hat"), {})
    based = _records(_read(tmp_path / "a.parquet", "/base"))
    assert [record.image_path for record in based] == ["/base/in/1.jpg", "/2.jpg"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(800)])
def test_a_column_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    content = jpeg("red").ljust(800, b"\0")
    columns = {"image": pa.array([content, content], kind), "text": ["mug", "hat"], "label": [0, 0]}
    first, second = _records(_pairs(tmp_path / "a.parquet", columns))
    assert first.image == content
    assert (first.image_path, second.image_path) == (
        f"{tmp_path}/a.parquet#1",
        f"{tmp_path}/a.parquet#2",
    )


def test_the_image_struct_of_hugging_face(tmp_path: Path) -> None:
    content = jpeg("red")
    images = [
        {"bytes": content, "path": "1.jpg"},
        {"bytes": content, "path": None},
        {"bytes": None, "path": "in/3.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": "6.jpg"},
    ]
    columns = {"image": pa.array(images, HF_IMAGE), "text": ["mug"] * 6, "label": [0] * 6}
    items = _pairs(tmp_path / "a.parquet", columns)
    found = [(r.line, Path(r.image_path).relative_to(tmp_path), r.image) for r in _records(items)]
    assert found == [
        (1, Path("1.jpg"), content),
        (2, Path("a.parquet#2"), content),
        (3, Path("in/3.jpg"), None),
        (6, Path("6.jpg"), b""),
    ]
    assert _rejects(items) == [(4, "missing_value"), (5, "missing_value")]


def test_a_path_beside_the_bytes_is_the_pictures_name(tmp_path: Path) -> None:
    columns = {
        "image": pa.array([{"bytes": jpeg("red"), "path": "hashed.jpg"}] * 2, HF_IMAGE),
        "image_path": ["mug.jpg", None],
        "text": ["mug"] * 2,
        "label": [0] * 2,
    }
    names = [Path(record.image_path).name for record in _records(_pairs(tmp_path / "a.parquet", columns))]
    assert names == ["mug.jpg", "hashed.jpg"]


def test_a_column_image_of_paths(tmp_path: Path) -> None:
    columns = {"image": ["in/1.jpg", None], "text": ["mug"] * 2, "label": [0] * 2}
    items = _pairs(tmp_path / "a.parquet", columns)
    (record,) = _records(items)
    assert (record.image_path, record.image) == (str(tmp_path / "in/1.jpg"), None)
    assert _rejects(items) == [(2, "missing_value")]


@pytest.mark.parametrize("image", [[[1, 2], [3]], [7, 8], [{"bytes": [1, 2]}, {"bytes": [3]}]])
def test_pixels_are_no_picture_file(tmp_path: Path, image: list[Any]) -> None:
    items = _pairs(tmp_path / "a.parquet", {"image": image, "text": ["mug"] * 2, "label": [0] * 2})
    assert _rejects(items) == [(1, "not_an_image"), (2, "not_an_image")] and len(items) == 2


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([1, 0], pa.int8()),
        pa.array([1, 0], pa.uint64()),
        pa.array([True, False]),
        pa.array([1.0, 0.0]),
        pa.array(["match", " Mismatch"]),
        pa.array(["1", "0.0"]),
        pa.array(["true", "FALSE"]).dictionary_encode(),
    ],
)
def test_labels_of_any_type(tmp_path: Path, labels: pa.Array) -> None:
    columns = {"image_path": ["1.jpg", "2.jpg"], "text": ["mug", "hat"], "label": labels}
    assert [record.label for record in _records(_pairs(tmp_path / "a.parquet", columns))] == [1, 0]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([None, None], pa.int8()),
        pa.array([None, None]),
        pa.array([float("nan"), float("inf")]),
        pa.array([0.4, 0.9]),  # a likeness is no label
        pa.array([2, -1]),
        pa.array(["", "perhaps"]),
        pa.array([[1], [0]]),
    ],
)
def test_other_labels_are_refused_row_by_row(tmp_path: Path, labels: pa.Array) -> None:
    items = _pairs(
        tmp_path / "a.parquet", {"image_path": ["1.jpg"] * 2, "text": ["mug"] * 2, "label": labels}
    )
    assert _rejects(items) == [(1, "bad_label"), (2, "bad_label")] and len(items) == 2


def test_null_is_an_empty_cell(tmp_path: Path) -> None:
    columns = {
        "image_path": ["1.jpg", None, "3.jpg", "4.jpg"],
        "text": ["mug", "mug", None, "mug"],
        "label": [1, 1, 1, None],
        "title": [None, "Mug", "Mug", "Mug"],
    }
    items = _pairs(tmp_path / "a.parquet", columns)
    assert _rejects(items) == [(2, "missing_value"), (3, "empty_text"), (4, "bad_label")]
    assert [record.metadata for record in _records(items)] == [{}]


def test_a_group_that_is_no_number_is_none(tmp_path: Path) -> None:
    columns = {
        "image_path": ["1.jpg"] * 4,
        "text": ["mug", "hat", "sock", "shoe"],
        "label": [1] * 4,
        "group_id": pa.array([7.0, float("nan"), float("nan"), None]),
    }
    groups = [record.image_group for record in _records(_pairs(tmp_path / "a.parquet", columns))]
    assert groups == ["7.0", text_key("hat"), text_key("sock"), text_key("shoe")]


def test_other_columns_are_metadata_but_for_bytes(tmp_path: Path) -> None:
    columns = {
        "image_path": ["1.jpg"],
        "text": ["mug"],
        "label": [1],
        "price": [12.5],
        "sold": [datetime.date(2024, 2, 29)],
        "tags": [["گل", None]],
        "size": [{"w": 1, "at": datetime.date(2024, 2, 29)}],
        "kind": pa.array(["cup"]).dictionary_encode(),
        "mask": pa.array([{"bytes": b"\xff" * 9, "path": None}], HF_IMAGE),
        "more": pa.array([[b"\xff"]]),
        "raw": [b"\xff"],
    }
    (record, passage) = _pairs(tmp_path / "a.parquet", columns)
    assert isinstance(record, Record) and isinstance(passage, Passage)
    assert record.metadata == {
        "price": "12.5",
        "sold": "2024-02-29",
        "tags": '["گل", null]',
        "size": '{"w": 1, "at": "2024-02-29"}',
        "kind": "cup",
    }
    json.dumps(record.metadata, ensure_ascii=False).encode()


def test_several_texts_in_one_row_are_refused(tmp_path: Path) -> None:
    columns = {"image_path": ["1.jpg"], "text": [["a mug", "a red mug"]], "label": [1]}
    (reject,) = _pairs(tmp_path / "a.parquet", columns)
    assert isinstance(reject, Reject) and reject.code == "bad_text"
    assert "a red mug" in reject.message and "one row for each" in reject.suggestion


def test_a_text_that_is_not_utf_8_costs_its_row(tmp_path: Path) -> None:
    broken = pa.array([b"mug", b"caf\xe9", "کلاه".encode()]).cast(pa.string(), safe=False)
    columns = {"image_path": ["1.jpg"] * 3, "text": broken, "label": [0] * 3}
    items = _pairs(tmp_path / "a.parquet", columns)
    assert _rejects(items) == [(2, "unreadable_text")]
    assert [record.text for record in _records(items)] == ["mug", "کلاه"]


def test_a_lost_letter_costs_its_row(tmp_path: Path) -> None:
    columns = {"image_path": ["1.jpg"] * 2, "text": ["caf\ufffd", "mug"], "label": [0] * 2}
    assert _rejects(_pairs(tmp_path / "a.parquet", columns)) == [(1, "unreadable_text")]


def test_a_pair_id_alone_makes_no_dataset_of_ours(tmp_path: Path) -> None:
    columns = {"image_path": ["1.jpg"], "text": ["mug"], "label": [0], "pair_id": [4711]}
    (record,) = _records(_pairs(tmp_path / "a.parquet", columns))
    assert record.metadata == {"pair_id": "4711"}


# ---------------------------------------------------------------------------------- rows, groups, files


@pytest.mark.parametrize(
    ("count", "row_group_size"),
    [(1, 1), (255, 300), (256, 256), (257, 300), (1000, 257), (1000, 300), (1030, 513)],
)
def test_every_row_comes_once_with_its_line(tmp_path: Path, count: int, row_group_size: int) -> None:
    _many(tmp_path / "a.parquet", count, row_group_size)
    source = ParquetPairs.open(str(tmp_path / "a.parquet"))
    raws = list(source.raws(source.files()[0]))
    assert sum(raw.rows for raw in raws) == count and max(raw.rows for raw in raws) <= ROWS
    for raw in raws:  # each by itself and in any order, as workers read them
        lines = [record.line for record in _records(list(source.items(raw)))]
        assert lines == list(range(raw.line, raw.line + raw.rows))
    records = [record for raw in reversed(raws) for record in _records(list(source.items(raw)))]
    assert sorted(record.line for record in records) == list(range(1, count + 1))
    assert all(record.text == f"mug {record.line}" for record in records)
    assert all(record.image_path == str(tmp_path / f"{record.line}.jpg") for record in records)


def test_a_file_without_rows(tmp_path: Path) -> None:
    _many(tmp_path / "a.parquet", 0, 10)
    assert _read(tmp_path / "a.parquet") == []


def test_a_folder_of_files_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/part-1.parquet", "a/part-0.parquet"):
        _many(tmp_path / name, 2, 1)
    (tmp_path / "notes.txt").write_text("no Parquet")
    (tmp_path / "._b.parquet").write_text("what macOS puts into archives")
    source = ParquetPairs.open(str(tmp_path))
    names = [str(Path(file).relative_to(tmp_path)) for file in source.files()]
    assert names == ["a/part-0.parquet", "a/part-1.parquet", "b.parquet"]
    assert [record.line for record in _records(list(sources.read(source)))] == [1, 2] * 3


@pytest.mark.parametrize("damaged", ["a", "b", "c"])
def test_a_cut_file_among_good_ones_is_one_reject(tmp_path: Path, damaged: str) -> None:
    for name in "abc":
        _many(tmp_path / f"{name}.parquet", 300, 300)
    content = (tmp_path / f"{damaged}.parquet").read_bytes()
    (tmp_path / f"{damaged}.parquet").write_bytes(content[:-20])
    items = _read(tmp_path)
    assert len(_records(items)) == 600
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.line, reject.code) == (1, "unreadable_parquet")
    assert reject.source == str(tmp_path / f"{damaged}.parquet") and reject.source in reject.message


def test_damage_within_a_row_group_costs_its_rows(tmp_path: Path) -> None:
    _many(tmp_path / "a.parquet", 900, 300)
    parquet = pq.ParquetFile(tmp_path / "a.parquet")
    start = parquet.metadata.row_group(1).column(1).data_page_offset
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "a.parquet").write_bytes(content)
    items = _read(tmp_path / "a.parquet")
    assert _rejects(items) == [(line, "unreadable_parquet") for line in range(301, 601)]
    assert [record.line for record in _records(items)] == [*range(1, 301), *range(601, 901)]


def test_wrong_columns_in_a_later_file_are_one_reject(tmp_path: Path) -> None:
    _many(tmp_path / "a.parquet", 2, 2)
    pq.write_table(pa.table({"image_path": ["1.jpg"], "caption": ["mug"]}), tmp_path / "b.parquet")
    _many(tmp_path / "c.parquet", 2, 2)
    items = _read(tmp_path)
    assert _rejects(items) == [(1, "wrong_columns")]
    assert len(_records(items)) == 4


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["mug"], "label": [1]}, "lacks image_path or image."),
        (
            {"image": [b""], "caption": ["mug"]},
            "the columns caption, image; it lacks text, label.",
        ),
    ],
)
def test_wrong_columns_in_the_first_file_are_an_error(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as refusal:
        _pairs(tmp_path / "a.parquet", columns)
    assert refusal.value.code == "wrong_columns"
    assert said in refusal.value.message and str(tmp_path / "a.parquet") in refusal.value.message


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.parquet").write_text("<html>404</html>")
    cases = {"nowhere": "missing_source", "empty": "missing_source", "page.parquet": "unreadable_parquet"}
    for name, code in cases.items():
        with pytest.raises(InputError, match=name) as refusal:
            ParquetPairs.open(str(tmp_path / name))
        assert refusal.value.code == code
    with pytest.raises(InputError) as refusal:
        ParquetPairs.open("nope://a.parquet")
    assert refusal.value.code == "unknown_protocol"


@pytest.mark.parametrize(
    "name", ["it's [1] *.parquet", "گل ماگ.parquet", "label=7/a#b%20.parquet", "a:b.parquet"]
)
def test_files_of_any_name(tmp_path: Path, name: str) -> None:
    _many(tmp_path / name, 2, 2)
    assert [record.label for record in _records(_read(tmp_path / name))] == [0, 0]
    assert len(_records(_read(tmp_path))) == 2


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for text in ("mug", "hat and sock"):
        (record,) = _records(_pairs(path, {"image_path": ["1.jpg"], "text": [text], "label": [0]}))
        assert record.text == text
        os.utime(path, (1, 1))


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    rows, size = 5000, 8_000  # 40 MB
    columns = {"image": [os.urandom(size) for _ in range(rows)], "text": ["mug"] * rows, "label": [0] * rows}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=rows, use_dictionary=False)
    source = ParquetPairs.open(str(tmp_path / "a.parquet"))
    raws = list(source.raws(source.files()[0]))
    before = pa.total_allocated_bytes()
    parquet = parquet_pairs._open(source.files()[0])
    batches = parquet.iter_batches(batch_size=ROWS)
    next(batches)
    assert pa.total_allocated_bytes() - before < 20_000_000
    assert [record.line for record in _records(list(source.items(raws[2])))] == list(range(513, 769))


# ---------------------------------------------------------------------------------- whole datasets


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four drawn photos and a CSV of five pairs, with groups, metadata and a mismatch."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, product in enumerate(random_products(4, seed=6)):
        draw(product, 48).save(folder / f"{i}.png")
    rows = [
        "image_path,text,label,group_id,title,price",
        "0.png,mug,1,g0,A mug,۱۲",
        "1.png,hat,1,,,",
        "2.png,sock,0,g2,,",
        "3.png,sock,0,,,5",
        "gone.png,shoe,1,,,",
        "3.png,خورش,1,,,",
    ]
    (folder / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


KEPT = [
    "pair_id",
    "image_path",
    "text",
    "text_key",
    "label",
    "image_group",
    "text_group",
    "metadata",
    "source",
    "line",
]


def test_a_dataset_of_ours_keeps_what_it_says(tmp_path: Path, photos: Path) -> None:
    first = dataset.from_csv(photos / "pairs.csv", tmp_path / "one", image_size=48)
    assert first["pairs"] == {"read": 6, "written": 5, "rejected": 1}
    second = dataset.from_source(ParquetPairs.open(str(tmp_path / "one")), tmp_path / "two", image_size=24)
    assert second["pairs"] == {"read": 5, "written": 5, "rejected": 0}
    assert second["labels"] == first["labels"] == {"match": 3, "mismatch": 2}
    one, two = (dataset.read_pairs(tmp_path / name) for name in ("one", "two"))
    assert two.select(KEPT).equals(one.select(KEPT))
    assert two["line"].to_pylist().count(7) == 1 and set(two["width"].to_pylist()) == {48}
    docstores = [pq.read_table(tmp_path / name / "docstore.parquet") for name in ("one", "two")]
    assert docstores[1].equals(docstores[0].filter(pa.compute.is_valid(docstores[0]["image_path"])))
    assert second["passages"]["unique"] == 3


def test_a_folder_of_datasets_of_ours_joins_their_pairs(tmp_path: Path, photos: Path) -> None:
    for name in ("train", "val"):
        dataset.from_csv(photos / "pairs.csv", tmp_path / "sets" / name, image_size=32)
    source = ParquetPairs.open(str(tmp_path / "sets"))
    assert {Path(file).parent.name for file in source.files()} == {"pairs"}
    report = dataset.from_source(source, tmp_path / "out", image_size=32)
    assert report["pairs"] == {"read": 10, "written": 10, "rejected": 0}


def test_pictures_of_every_layout_become_a_dataset(tmp_path: Path, photos: Path) -> None:
    content = [(photos / f"{i}.png").read_bytes() for i in range(4)]
    texts: dict[str, Any] = {"text": ["mug", "hat", "sock", "shoe"], "label": [1, 1, 0, 1]}
    layouts: dict[str, Any] = {
        "image_path": [f"{i}.png" for i in range(4)],
        "image": pa.array([*content[:3], content[3][:150]]),
    }
    written = []
    for name, column in layouts.items():
        pq.write_table(pa.table({name: column, **texts}), photos / f"{name}.parquet")
        source = ParquetPairs.open(str(photos / f"{name}.parquet"))
        report = dataset.from_source(source, tmp_path / name, image_size=32)
        written.append((report["pairs"], report["codes"]))
    assert written == [
        ({"read": 4, "written": 4, "rejected": 0}, {}),
        ({"read": 4, "written": 3, "rejected": 1}, {"truncated_image": 1}),
    ]
    one, two = (dataset.read_pairs(tmp_path / name, ["line", "image_sha256"]) for name in layouts)
    assert set(two["image_sha256"].to_pylist()) < set(one["image_sha256"].to_pylist())


def test_inside_an_archive(tmp_path: Path, photos: Path) -> None:
    columns = {"image_path": ["in/0.png", "gone.png"], "text": ["mug", "hat"], "label": [1, 0]}
    pq.write_table(pa.table(columns), photos / "a.parquet")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(photos / "a.parquet", "set/a.parquet")
        archive.write(photos / "0.png", "set/in/0.png")
    for address in (f"zip://set/a.parquet::{tmp_path}/x.zip", f"zip://set::{tmp_path}/x.zip"):
        source = ParquetPairs.open(address)
        assert source.files() == [f"zip://set/a.parquet::{tmp_path}/x.zip"]
        report = dataset.from_source(source, tmp_path / "out", image_size=32, overwrite=True)
        assert report["pairs"] == {"read": 2, "written": 1, "rejected": 1}
        assert report["codes"] == {"missing_image": 1}
        (pair,) = dataset.read_pairs(tmp_path / "out").to_pylist()
        assert pair["image_path"] == f"zip://set/in/0.png::{tmp_path}/x.zip"


def test_a_dataset_of_ours_in_an_archive(tmp_path: Path, photos: Path) -> None:
    dataset.from_csv(photos / "pairs.csv", tmp_path / "one", image_size=48)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in (tmp_path / "one").rglob("*.*"):
            archive.write(path, f"one/{path.relative_to(tmp_path / 'one')}")
    report = dataset.from_source(
        ParquetPairs.open(f"zip://::{tmp_path}/x.zip"), tmp_path / "two", image_size=48
    )
    assert report["pairs"] == {"read": 5, "written": 5, "rejected": 0}
