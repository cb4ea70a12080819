"""Image folders: both kinds of metadata state the same pairs, and a broken line is named and lost alone."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from data_jobs import dataset, sources
from data_jobs.drawing import draw, random_products
from data_jobs.errors import InputError
from data_jobs.image_folder import ImageFolder
from data_jobs.items import Item, Note, Passage, Record, Reject
from data_jobs.text import text_key


def _read(folder: Path | str) -> list[Item]:
    return list(sources.read(ImageFolder.open(str(folder))))


def _csv(folder: Path, content: str | bytes) -> list[Item]:
    folder.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "metadata.csv").write_bytes(data)
    return _read(folder)


def _jsonl(folder: Path, *lines: Any) -> list[Item]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(texts), "utf-8", "surrogateescape")
    return _read(folder)


def _records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def _rejects(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.code) for item in items if isinstance(item, Reject)]


def test_a_csv_and_json_lines_state_the_same_pairs(tmp_path: Path) -> None:
    table = _csv(tmp_path / "a", "file_name,text,price\nin/1.jpg, Red mug ,12\n2.jpg,ماگ,\n")
    lines = _jsonl(
        tmp_path / "b",
        {"file_name": "in/1.jpg", "text": " Red mug ", "price": 12},
        {"file_name": "2.jpg", "text": "ماگ", "price": None},
    )
    key = text_key("red mug")
    for folder, name, first, items in (("a", "csv", 2, table), ("b", "jsonl", 1, lines)):
        source, photo = str(tmp_path / folder / f"metadata.{name}"), str(tmp_path / folder / "in/1.jpg")
        assert len(items) == 4
        assert items[0] == Record(source, first, photo, "Red mug", 1, key, key, {"price": "12"})
        assert items[1] == Passage(source, first, key, key, "", "Red mug", photo, {"price": "12"})
        other = _records(items)[1]
        assert (other.line, other.text, other.metadata) == (first + 1, "ماگ", {})


@pytest.mark.parametrize("label", [1, "1", 1.0, "match", True, "", None])
def test_without_a_label_or_with_a_true_one_it_is_a_match(tmp_path: Path, label: object) -> None:
    first, _, second, _ = _jsonl(
        tmp_path,
        {"file_name": "1.jpg", "text": "mug", "label": label},
        {"file_name": "2.jpg", "text": "hat"},
    )
    assert isinstance(first, Record) and isinstance(second, Record)
    assert (first.label, second.label) == (1, 1)


@pytest.mark.parametrize("label", [0, "0", 0.0, "Mismatch", False])
def test_a_mismatch_is_no_passage(tmp_path: Path, label: object) -> None:
    (record,) = _jsonl(tmp_path, {"file_name": "1.jpg", "text": "mug", "label": label})
    assert isinstance(record, Record) and record.label == 0


@pytest.mark.parametrize("label", [2, 0.5, "cat", [1], {"a": 1}])
def test_other_labels_are_refused(tmp_path: Path, label: object) -> None:
    assert _rejects(_jsonl(tmp_path, {"file_name": "1.jpg", "text": "mug", "label": label})) == [
        (1, "bad_label")
    ]


def test_a_label_in_csv_may_be_missing_or_empty(tmp_path: Path) -> None:
    items = _csv(tmp_path, "label,file_name,text\n,1.jpg,mug\n0,2.jpg,hat\nperhaps,3.jpg,sock\n")
    assert [(record.line, record.label) for record in _records(items)] == [(2, 1), (3, 0)]
    assert _rejects(items) == [(4, "bad_label")]


def test_the_description_is_text_or_else_caption(tmp_path: Path) -> None:
    items = _jsonl(
        tmp_path / "b",
        {"file_name": "1.jpg", "caption": "mug"},
        {"file_name": "2.jpg", "caption": "a photo", "text": "hat"},
        {"file_name": "3.jpg", "caption": "sock", "text": ""},
        {"file_name": "4.jpg", "caption": "shoe", "text": None},
    )
    records = _records(items)
    assert [record.text for record in records] == ["mug", "hat", "sock", "shoe"]
    assert [record.metadata for record in records] == [{}, {"caption": "a photo"}, {}, {}]
    (record,) = _records(_csv(tmp_path / "c", "file_name;Caption\n1.jpg;mug\n"))
    assert (record.text, record.line) == ("mug", 2)
    first, second = _records(_csv(tmp_path / "d", "file_name,text,caption\n1.jpg,mug,a photo\n2.jpg,,hat\n"))
    assert (first.text, first.metadata, second.text) == ("mug", {"caption": "a photo"}, "hat")


def test_file_name_is_the_picture_whatever_other_columns_say(tmp_path: Path) -> None:
    (record, _) = _jsonl(tmp_path, {"file_name": "1.jpg", "text": "mug", "image_path": "/old/place.jpg"})
    assert isinstance(record, Record)
    assert record.image_path == str(tmp_path / "1.jpg")


def test_a_group_id_names_the_picture(tmp_path: Path) -> None:
    first, second = _records(_csv(tmp_path, "file_name,text,group_id\n1.jpg,mug,g7\n2.jpg,hat,g7\n"))
    assert first.image_group == second.image_group == second.text_group == "g7"


def test_other_fields_are_metadata_as_json_has_them(tmp_path: Path) -> None:
    (record, _) = _jsonl(
        tmp_path,
        {
            "file_name": "1.jpg",
            "text": "mug",
            "objects": {"bbox": [[1, 2.5]], "name": ["گل", None]},
            "sold": True,
            "Price": 12,
            "nothing": None,
        },
    )
    assert isinstance(record, Record)
    objects = '{"bbox": [[1, 2.5]], "name": ["گل", null]}'
    assert record.metadata == {"objects": objects, "sold": "True", "price": "12"}


def test_nested_folders_and_splits_have_their_own_metadata(tmp_path: Path) -> None:
    for name in ("train", "val/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\n1.jpg,mug\nclass/2.jpg,hat\n")
    (tmp_path / "val" / "deep" / "Metadata.JSONL").write_text('{"file_name": "1.jpg", "caption": "sock"}')
    (tmp_path / "val" / "metadata.json").write_text("[]")  # neither this
    (tmp_path / "val" / "labels.csv").write_text("file_name,text\n1.jpg,mug\n")  # nor this
    source = ImageFolder.open(str(tmp_path))
    assert source.files() == [
        str(tmp_path / "train/metadata.csv"),
        str(tmp_path / "val/deep/Metadata.JSONL"),
    ]
    assert [record.image_path for record in _records(_read(tmp_path))] == [
        str(tmp_path / "train/1.jpg"),
        str(tmp_path / "train/class/2.jpg"),
        str(tmp_path / "val/deep/1.jpg"),
    ]


def test_each_broken_line_is_rejected_by_line_and_code(tmp_path: Path) -> None:
    mug = {"file_name": "1.jpg", "text": "ماگ قرمز با طرح گل"}
    items = _jsonl(
        tmp_path,
        mug,
        '{"file_name": "2.jpg", "text": "cut',
        {"text": "mug"},
        {"file_name": "4.jpg"},
        {"file_name": "5.jpg", "text": "  "},
        '["6.jpg", "mug"]',
        '"7.jpg"',
        '{"file_name": "8.jpg", "text": "caf\udce9"}',  # a byte that is not UTF-8
        '{"file_name": "9.jpg", "text": "\\ud83d"}',
        '{"file_name": "10.jpg", "text": "mug", "na\udce9me": 1}',
        {"file_name": "11.jpg", "text": ["a mug", "a red mug"]},
        {"file_name": "12.jpg", "caption": ["a mug", "a red mug"]},
        "",
        mug,
    )
    assert _rejects(items) == [
        (2, "unreadable_json"),
        (3, "missing_value"),
        (4, "empty_text"),
        (5, "empty_text"),
        *[(6, "not_a_record")] * 2,  # a list is a list of records
        (7, "not_a_record"),
        (8, "unreadable_text"),
        (9, "unreadable_text"),
        (10, "unreadable_text"),
        (11, "bad_text"),
        (12, "bad_text"),
    ]
    assert [record.line for record in _records(items)] == [1, 14]
    for item in items:
        if isinstance(item, Reject):
            (item.message + item.suggestion).encode()  # can be written


def test_broken_rows_of_a_csv_and_its_dialect(tmp_path: Path) -> None:
    rows = ["file_name;text", "1.jpg;ماگ", ";کلاه", '3.jpg;"جوراب', "4.jpg", "5.jpg;كفش", "6.jpg;a;b"]
    items = _csv(tmp_path, "\r\n".join(rows).encode("utf-16"))
    assert [(item.line, item.code) for item in items if isinstance(item, Note)] == [
        (1, "read_as_utf_16"),
        (1, "delimiter_semicolon"),
    ]
    assert _rejects(items) == [
        (3, "missing_value"),
        (4, "unclosed_quote"),
        (5, "empty_text"),
        (7, "wrong_columns"),
    ]
    assert [record.text for record in _records(items)] == ["ماگ", "كفش"]


def test_a_line_of_a_damaged_letter_in_a_csv(tmp_path: Path) -> None:
    content = "file_name,text\n1.jpg,ماگ قرمز\n".encode() + b"2.jpg,\xda\xe1\n" + "3.jpg,کلاه\n".encode()
    assert _rejects(_csv(tmp_path, content)) == [(3, "unreadable_text")]


def test_metadata_without_a_line_is_said(tmp_path: Path) -> None:
    assert _rejects(_jsonl(tmp_path, "")) == [(1, "empty_file")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,text\n1.jpg,mug\n", "lacks file_name."),
        ("file_name,words\n1.jpg,mug\n", "lacks text."),
        ("", "lacks file_name, text."),
    ],
)
def test_a_csv_of_other_columns_is_an_error_at_once(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        _csv(tmp_path / "deep", content)
    assert refusal.value.code == "wrong_columns"
    assert said in refusal.value.message and "deep/metadata.csv" in refusal.value.message


def test_what_is_no_image_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = {
        "empty": ("missing_source", "no metadata.csv or metadata.jsonl in"),
        "file": ("missing_source", "There is no folder"),
        "nowhere": ("missing_source", "There is no folder"),
    }
    for name, (code, said) in cases.items():
        with pytest.raises(InputError, match=said) as refusal:
            ImageFolder.open(str(tmp_path / name))
        assert refusal.value.code == code and name in refusal.value.message
    with pytest.raises(InputError) as refusal:
        ImageFolder.open("nope://photos")
    assert refusal.value.code == "unknown_protocol"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three drawn photos, of which one is cut, described in two folders by CSV and by JSON lines."""
    folder = tmp_path / "photos [1]"
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    for i, product in enumerate(random_products(3, seed=4)):
        draw(product, 48).save(folder / ("val" if i == 2 else "train") / f"{i}.png")
    (folder / "train" / "cut.png").write_bytes((folder / "train" / "0.png").read_bytes()[:200])
    (folder / "train" / "metadata.csv").write_text(
        "file_name,text,label\n0.png,mug,1\n./1.png,hat,0\ncut.png,mug,1\n"
    )
    (folder / "val" / "metadata.jsonl").write_text(
        '{"file_name": "../train/0.png", "caption": "a mug"}\n{"file_name": "2.png", "text": "sock"}\n{"broken'
    )
    return folder


COUNTS = {"read": 6, "written": 4, "rejected": 2}


def test_an_image_folder_becomes_a_dataset(tmp_path: Path, photos: Path) -> None:
    report = dataset.from_source(ImageFolder.open(str(photos)), tmp_path / "out", image_size=32)
    assert report["pairs"] == COUNTS
    assert report["codes"] == {"truncated_image": 1, "unreadable_json": 1}
    assert (
        report["passages"]["unique"] == 3
    )  # a photo that is refused takes no passage with it: mug, a mug, sock


def test_the_same_folder_in_an_archive(tmp_path: Path, photos: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(photos.rglob("*.*")):
            archive.write(path, f"in/{path.relative_to(photos)}")
    address = f"zip://in::{tmp_path}/all.zip"
    source = ImageFolder.open(address)
    assert [path.partition("::")[0] for path in source.files()] == [
        "zip://in/train/metadata.csv",
        "zip://in/val/metadata.jsonl",
    ]
    report = dataset.from_source(source, tmp_path / "out", image_size=32)
    assert report["pairs"] == COUNTS and report["inputs"] == [address]


def test_columns_are_checked_at_once_in_an_archive_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/metadata.csv", "path,words\n")
    with pytest.raises(InputError) as refusal:
        ImageFolder.open(f"zip://in::{tmp_path}/all.zip")
    assert refusal.value.code == "wrong_columns"


def test_damaged_metadata_in_an_archive_is_one_reject(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a/metadata.jsonl", '{"file_name": "1.jpg", "text": "mug"}')
        archive.writestr("b/metadata.jsonl", '{"file_name": "2.jpg", "text": "hat"}')
    content = bytearray((tmp_path / "all.zip").read_bytes())
    content[content.index(b"mug")] ^= 0xFF
    (tmp_path / "all.zip").write_bytes(content)
    items = _read(f"zip://::{tmp_path}/all.zip")
    assert _rejects(items) == [(1, "unreadable_json")]
    assert [record.text for record in _records(items)] == ["hat"]
