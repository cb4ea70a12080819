"""Readers: what the formats met in the wild say, and how what is broken in them is named."""

import json
from pathlib import Path

import pytest

from data_jobs.errors import InputError
from data_jobs.sources import (
    Item,
    Note,
    Passage,
    Record,
    Reject,
    persian_json_files,
    read_csv,
    read_persian_json,
)
from data_jobs.text import text_key

HEADER = "image_path,text,label\n"


def _csv(folder: Path, content: str | bytes, **options: Path) -> list[Item]:
    path = folder / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_csv(path, **options))


def _json(folder: Path, content: object) -> list[Item]:
    path = folder / "records.json"
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return list(read_persian_json(path))


def _records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def _passages(items: list[Item]) -> list[Passage]:
    return [item for item in items if isinstance(item, Passage)]


def _rejects(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.code) for item in items if isinstance(item, Reject)]


# ------------------------------------------------------------------------------------------- CSV


def test_a_csv_row_becomes_a_record_and_a_passage(tmp_path: Path) -> None:
    record, passage = _csv(tmp_path, HEADER + "a.jpg, Red mug ,1\n")
    key = text_key("red mug")
    assert record == Record(
        str(tmp_path / "pairs.csv"), 2, str(tmp_path / "a.jpg"), "Red mug", 1, key, key, {}
    )
    assert passage == Passage(
        str(tmp_path / "pairs.csv"), 2, key, key, "", "Red mug", str(tmp_path / "a.jpg"), {}
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1256"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, newline: str) -> None:
    rows = [HEADER.strip(), "a.jpg,ماگ قرمز,1", "b.jpg,كلاه پشمي,0", ""]
    first, second = _records(_csv(tmp_path, newline.join(rows).encode(encoding)))
    assert (first.text, first.line, second.text, second.line) == ("ماگ قرمز", 2, "كلاه پشمي", 3)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_either_order_of_utf_16(tmp_path: Path, order: str) -> None:
    (record,) = _records(_csv(tmp_path, ("\ufeff" + HEADER + "a.jpg,ماگ,0\n").encode(order)))
    assert record.text == "ماگ"


def test_a_file_larger_than_one_piece_is_utf_8_to_its_end(tmp_path: Path) -> None:
    rows = "a.jpg,ماگ,0\n" + f"b.jpg,{'mug ' * 25_000},0\n" * 12
    first = _records(_csv(tmp_path, HEADER + rows))[0]
    assert first.text == "ماگ"
    first = _records(_csv(tmp_path, (HEADER + rows).encode() + b"z.jpg,\xe4,0\n"))[0]
    assert first.text == "ماگ".encode().decode("cp1256")  # a Windows letter at the end: all is Windows text


def test_quoted_commas_quotes_and_newlines(tmp_path: Path) -> None:
    content = HEADER + 'a.jpg,"red, ""large""\nmug",1\n\n"b,c.jpg",hat,0\n'
    first, second = _records(_csv(tmp_path, content))
    assert (first.text, first.line) == ('red, "large"\nmug', 2)
    assert (Path(second.image_path).name, second.line) == ("b,c.jpg", 5)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        *[(label, 1) for label in ("1", "match", "Match", "MATCH", " 1 ", "1.0", "true", "TRUE")],
        *[(label, 0) for label in ("0", "mismatch", "Mismatch", "0.0", "False")],
    ],
)
def test_labels_in_any_form(tmp_path: Path, label: str, value: int) -> None:
    (record,) = _records(_csv(tmp_path, f"{HEADER}a.jpg,mug,{label}\n"))
    assert record.label == value


def test_columns_in_any_order_and_case_and_others_as_metadata(tmp_path: Path) -> None:
    content = "Label, TEXT ,price,image_path,title,\n1,mug,۱۲,a.jpg,Mug no. 1,nameless\n0,hat,,b.jpg,,\n"
    items = _csv(tmp_path, content)
    first, second = _records(items)
    assert (first.text, first.label, first.metadata) == ("mug", 1, {"price": "۱۲", "title": "Mug no. 1"})
    assert (second.text, second.label, second.metadata) == ("hat", 0, {})
    assert [passage.title for passage in _passages(items)] == ["Mug no. 1"]


def test_group_id_names_the_picture_and_on_a_match_the_text(tmp_path: Path) -> None:
    content = "image_path,text,label,group_id\na.jpg,mug,1,g7\na.jpg,hat,0,g7\nb.jpg,hat,1,\nb.jpg,mug,0,\n"
    groups = [(r.image_group, r.text_group) for r in _records(_csv(tmp_path, content))]
    hat, mug = text_key("hat"), text_key("mug")
    assert groups == [("g7", "g7"), ("g7", hat), (hat, hat), (None, mug)]


def test_equal_texts_are_one_group_and_one_passage(tmp_path: Path) -> None:
    items = _csv(tmp_path, HEADER + "a.jpg,كيف ۲,1\nb.jpg,کیف 2,1\nc.jpg,shoe,0\n")
    first, second, _ = _records(items)
    assert first.text_group == second.image_group == text_key("کیف 2")
    assert [(passage.text, passage.line) for passage in _passages(items)] == [("كيف ۲", 2)]


def test_where_relative_paths_start(tmp_path: Path) -> None:
    content = HEADER + "in/a.jpg,mug,0\n/photos/b.jpg,mug,0\n"
    paths = [record.image_path for record in _records(_csv(tmp_path, content))]
    assert paths == [str(tmp_path / "in/a.jpg"), "/photos/b.jpg"]
    paths = [r.image_path for r in _records(_csv(tmp_path, content, image_base_path=Path("/base")))]
    assert paths == ["/base/in/a.jpg", "/photos/b.jpg"]


def test_each_broken_row_is_rejected_by_line_and_code(tmp_path: Path) -> None:
    rows = [
        "a.jpg,mug,1",
        ",mug,1",
        "b.jpg, ,1",
        "c.jpg,mug,maybe",
        "d.jpg,red, large,1",  # a comma that should have been quoted
        "e.jpg,mug",
        '"f\n.jpg",,0',
        "g.jpg",
        "h.jpg,mug,0,too,many",
    ]
    items = _csv(tmp_path, HEADER + "\n".join(rows))
    assert _rejects(items) == [
        (3, "missing_value"),
        (4, "empty_text"),
        (5, "bad_label"),
        (6, "bad_label"),
        (7, "bad_label"),
        (8, "empty_text"),
        (10, "empty_text"),
    ]
    assert [record.line for record in _records(items)] == [2, 11]
    reject = next(item for item in items if isinstance(item, Reject) and item.line == 5)
    assert reject.image_path == "c.jpg" and "'maybe'" in reject.message and "mismatch" in reject.suggestion


def test_an_unclosed_quote_names_the_line_where_it_opens(tmp_path: Path) -> None:
    items = _csv(tmp_path, HEADER + 'a.jpg,mug,1\nb.jpg,"mug,1\nc.jpg,hat,1\n')
    assert _rejects(items) == [(3, "bad_label")]


def test_an_endless_cell_is_one_reject_and_reading_goes_on(tmp_path: Path) -> None:
    endless = 'a.jpg,"' + "mug " * 40_000
    items = _csv(tmp_path, f"{HEADER}{endless}\nb.jpg,hat,0\n")
    assert _rejects(items) == [(2, "unreadable_row")]
    assert [record.line for record in _records(items)] == [3]


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("image_path,caption\na.jpg,mug\n", "wrong_columns", "lacks ['text', 'label']"),
        ("image_path;text;label\n", "wrong_columns", "image_path;text;label"),
        ("", "wrong_columns", "lacks ['image_path', 'text', 'label']"),
        ("a.jpg,mug,1\n", "wrong_columns", "['a.jpg', 'mug', '1']"),
        ('"' + "x" * 140_000, "wrong_columns", "lacks"),
        ((HEADER + "a.jpg,mug,1\n").encode("utf-16") + b"\0", "unreadable_text", "UTF-16"),
    ],
)
def test_an_unusable_csv_is_an_error(tmp_path: Path, content: str | bytes, code: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        _csv(tmp_path, content)
    assert refusal.value.code == code
    assert said in refusal.value.message and "pairs.csv" in refusal.value.message


def test_a_missing_csv_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no CSV file .*nowhere\.csv") as refusal:
        list(read_csv(tmp_path / "nowhere.csv"))
    assert refusal.value.code == "missing_source"


def test_a_header_alone_is_no_rows(tmp_path: Path) -> None:
    assert _csv(tmp_path, HEADER) == []


# ---------------------------------------------------------------------------------- Persian JSON

KEBAB = {"title": "کباب", "response": " گوشت را چرخ کنید. ", "image_path": "photos/1.jpg"}
STEW = {"title": "قورمه سبزی", "response": "سبزی را سرخ کنید."}


def _is_kebab(items: list[Item], folder: Path) -> None:
    passage, record = items
    source, photo, group = str(folder / "records.json"), str(folder / "photos/1.jpg"), text_key("کباب")
    text = "گوشت را چرخ کنید."
    assert passage == Passage(source, 1, text_key(text), group, "کباب", text, photo, {})
    assert record == Record(source, 1, photo, text, 1, group, group, {"title": "کباب"})


def test_one_record(tmp_path: Path) -> None:
    _is_kebab(_json(tmp_path, KEBAB), tmp_path)


def test_a_list_of_records(tmp_path: Path) -> None:
    items = _json(tmp_path, [KEBAB, STEW])
    _is_kebab(items[:2], tmp_path)
    assert [(passage.line, passage.title) for passage in _passages(items)] == [(1, "کباب"), (2, "قورمه سبزی")]


def test_json_lines(tmp_path: Path) -> None:
    lines = [json.dumps(KEBAB), "", json.dumps(STEW, ensure_ascii=False)]
    items = _json(tmp_path, "\r\n".join(lines))
    _is_kebab(items[:2], tmp_path)
    assert [(passage.line, passage.title) for passage in _passages(items)] == [(1, "کباب"), (3, "قورمه سبزی")]


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path) -> None:
    _is_kebab(_json(tmp_path, "\ufeff" + json.dumps(KEBAB)), tmp_path)


def test_one_broken_line_does_not_take_its_neighbours(tmp_path: Path) -> None:
    deep = '{"response": ' + "[" * 100_000
    long = '{"title": "x", "response": "y", "n": ' + "9" * 5000 + "}"
    half = '{"title": "x", "response": "\\ud83d"}'
    lines = [json.dumps(KEBAB), '{"title": "cut', deep, long, half, json.dumps(STEW)]
    items = _json(tmp_path, "\n".join(lines))
    codes = ["unreadable_json", "unreadable_json", "unreadable_json", "unreadable_text"]
    assert _rejects(items) == list(enumerate(codes, 2))
    assert [passage.line for passage in _passages(items)] == [1, 6]
    for item in items:
        if isinstance(item, Reject):
            item.message.encode()  # can be written


@pytest.mark.parametrize(
    "value",
    [{"title": "کباب"}, {"response": "  "}, {"response": 5}, {"response": None}, "text", 7, None, [1]],
)
def test_a_record_without_text_is_rejected(tmp_path: Path, value: object) -> None:
    items = _json(tmp_path, [KEBAB, value, STEW])
    assert _rejects(items) == [(2, "empty_text")]
    assert [passage.line for passage in _passages(items)] == [1, 3]


def test_a_file_that_is_not_utf_8_is_one_reject(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(json.dumps(STEW, ensure_ascii=False).encode("cp1256", errors="replace"))
    (item,) = read_persian_json(path)
    assert isinstance(item, Reject)
    assert (item.line, item.code) == (1, "unreadable_json") and "UTF-8" in item.suggestion


def test_other_fields_are_metadata_and_group_id_names_the_group(tmp_path: Path) -> None:
    record = KEBAB | {"group_id": 0, "price": 12, "note": None}
    passage, pair = _json(tmp_path, record)
    assert isinstance(passage, Passage) and isinstance(pair, Record)
    assert passage.group == pair.image_group == pair.text_group == "0"
    assert passage.metadata == {"group_id": "0", "price": "12"}


def test_the_title_is_the_group_and_without_one_the_text_is(tmp_path: Path) -> None:
    titles = ["کباب", " كباب ", "", "  ", None]
    passages = _passages(
        _json(tmp_path, [{"title": t, "response": f"متن {i}"} for i, t in enumerate(titles)])
    )
    keys = [text_key("کباب")] * 2 + [text_key(f"متن {i}") for i in (2, 3, 4)]
    assert [passage.group for passage in passages] == keys


def _touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_of_a_folder_the_photo_named_like_it_is_the_dish(tmp_path: Path) -> None:
    _touch(tmp_path / "dishes" / "قورمه_سبزی", "پیاز.jpg", "قورمه سبزي.JPG", "لوبیا.png", "notes.txt")
    passage, record = _json(tmp_path, STEW | {"folder_path": "dishes/قورمه_سبزی/"})
    assert isinstance(passage, Passage) and isinstance(record, Record)
    assert passage.image_path == record.image_path
    assert Path(record.image_path).name == "قورمه سبزي.JPG"


def test_of_a_folder_without_such_a_photo_all_are_of_the_dish(tmp_path: Path) -> None:
    _touch(tmp_path / "stew", "2.jpeg", "1.webp", "notes.txt", ".DS_Store")
    (tmp_path / "stew" / "more.jpg").mkdir()
    items = _json(tmp_path, STEW | {"folder_path": "stew"})
    assert [Path(record.image_path).name for record in _records(items)] == ["1.webp", "2.jpeg"]
    (passage,) = _passages(items)
    assert passage.image_path == str(tmp_path / "stew" / "1.webp")


@pytest.mark.parametrize(
    "places", [{}, {"folder_path": "nowhere"}, {"folder_path": "empty"}, {"image_path": ""}]
)
def test_without_photos_the_passage_stays_with_a_note(tmp_path: Path, places: dict[str, str]) -> None:
    _touch(tmp_path / "empty")
    passage, note = _json(tmp_path, STEW | places)
    assert isinstance(passage, Passage) and passage.image_path is None
    assert note == Note(str(tmp_path / "records.json"), 1, "no_photos")


@pytest.mark.parametrize(
    "places", [{"image_path": ["1.jpg", "2.jpg"]}, {"folder_path": 7}, {"image_path": {}}]
)
def test_a_path_that_is_none_is_rejected_and_the_passage_stays(
    tmp_path: Path, places: dict[str, object]
) -> None:
    items = _json(tmp_path, [STEW | places, KEBAB])
    assert _rejects(items) == [(1, "bad_image_path")]
    assert [passage.line for passage in _passages(items)] == [1, 2]


def test_a_photo_whose_name_is_no_utf_8_is_rejected_and_others_stay(tmp_path: Path) -> None:
    _touch(
        tmp_path / "stew", "1.jpg", "سبزی.jpg".encode("cp1256", "replace").decode("utf-8", "surrogateescape")
    )
    items = _json(tmp_path, STEW | {"folder_path": "stew"})
    assert _rejects(items) == [(1, "bad_image_path")]
    assert [Path(record.image_path).name for record in _records(items)] == ["1.jpg"]


def test_json_files_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    _touch(tmp_path / "b" / "deep", "2.jsonl", "photo.jpg")
    _touch(tmp_path / "a", "1.json")
    (tmp_path / "a" / "folder.json").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in persian_json_files(tmp_path)]
    assert found == ["a/1.json", "b/deep/2.jsonl"]


def test_a_folder_without_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no .json file") as refusal:
        persian_json_files(tmp_path / "nowhere")
    assert refusal.value.code == "missing_source"
