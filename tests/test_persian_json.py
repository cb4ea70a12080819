"""Persian JSON: records become passages and pairs, and what is amiss in them is named."""

import csv
import io
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO_ROOT

from data_jobs import persian_json, sources
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Passage, Record, Reject
from data_jobs.persian_json import PersianJson, json_files
from data_jobs.text import normalize, text_key

DATA = REPO_ROOT.parent / "shared" / "data"
KEBAB = {"title": "کباب", "response": " گوشت را چرخ کنید. ", "image_path": "photos/1.jpg"}
STEW = {"title": "قورمه سبزی", "response": "سبزی را سرخ کنید."}


def _items(folder: Path, content: object, encoding: str = "utf-8") -> list[Item]:
    path = folder / "records.json"
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    return _of(str(path))


def _of(path: str) -> list[Item]:
    return [
        item for line, value in persian_json.values(path) for item in persian_json.items(path, line, value)
    ]


def _records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def _passages(items: list[Item]) -> list[Passage]:
    return [item for item in items if isinstance(item, Passage)]


def _rejects(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.code) for item in items if isinstance(item, Reject)]


def _touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def _zipped(folder: Path, archive: Path) -> str:
    return shutil.make_archive(str(archive.with_suffix("")), "zip", folder)


def _is_kebab(items: list[Item], folder: Path, line: int = 1) -> None:
    passage, record = items
    source, photo = str(folder / "records.json"), str(folder / "photos" / "1.jpg")
    group, text = text_key("کباب"), "گوشت را چرخ کنید."
    assert passage == Passage(source, line, text_key(text), group, "کباب", text, photo, {})
    assert record == Record(source, line, photo, text, 1, group, group, {"title": "کباب"})


# ---------------------------------------------------------------------------------------- shapes


def test_one_record(tmp_path: Path) -> None:
    _is_kebab(_items(tmp_path, KEBAB), tmp_path)


def test_a_list_of_records_is_numbered_by_line(tmp_path: Path) -> None:
    items = _items(tmp_path, json.dumps([KEBAB, STEW], indent=2))
    _is_kebab(items[:2], tmp_path, line=2)
    assert [(passage.line, passage.title) for passage in _passages(items)] == [(2, "کباب"), (7, "قورمه سبزی")]


def test_json_lines(tmp_path: Path) -> None:
    lines = [json.dumps(KEBAB), "", json.dumps(STEW, ensure_ascii=False)]
    items = _items(tmp_path, "\r\n".join(lines))
    _is_kebab(items[:2], tmp_path)
    assert [(passage.line, passage.title) for passage in _passages(items)] == [(1, "کباب"), (3, "قورمه سبزی")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1256"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = json.dumps([STEW, KEBAB], ensure_ascii=False).replace("ی", "ي")  # cp1256 has no Persian yeh
    stew, kebab = _passages(_items(tmp_path, text, encoding))
    assert (normalize(stew.title), stew.text) == ("قورمه سبزی", "سبزي را سرخ كنيد.".replace("ك", "ک"))
    assert (kebab.title, kebab.group) == ("کباب", text_key("کباب"))


def test_one_broken_line_does_not_take_its_neighbours(tmp_path: Path) -> None:
    deep = '{"response": ' + "[" * 100_000
    long = '{"title": "x", "response": "y", "n": ' + "9" * 5000 + "}"
    half = '{"title": "x", "response": "\\ud83d"}'
    lines = [json.dumps(KEBAB), '{"title": "cut', deep, long, half, json.dumps(STEW)]
    items = _items(tmp_path, "\n".join(lines))
    codes = ["unreadable_json", "unreadable_json", "unreadable_json", "unreadable_text"]
    assert _rejects(items) == list(enumerate(codes, 2))
    assert [passage.line for passage in _passages(items)] == [1, 6]
    for item in items:
        if isinstance(item, Reject):
            (item.message + item.suggestion).encode()  # can be written


def test_one_damaged_byte_costs_its_record(tmp_path: Path) -> None:
    records = [{"title": f"غذای {n}", "response": f"دستور شماره {n}"} for n in range(5)]
    content = "\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()
    (tmp_path / "records.json").write_bytes(content.replace("دستور شماره 2".encode(), b"\xd8\xd8", 1))
    items = _of(str(tmp_path / "records.json"))
    assert _rejects(items) == [(3, "unreadable_text")]
    assert [passage.text for passage in _passages(items)] == [f"دستور شماره {n}" for n in (0, 1, 3, 4)]


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("", "empty_file", "holds no JSON value"),
        ("[]\n", "empty_file", "holds no JSON value"),
        ("<html></html>", "unreadable_json", "<html></html>"),
    ],
)
def test_a_file_without_records_is_one_reject(tmp_path: Path, content: str, code: str, said: str) -> None:
    (item,) = _items(tmp_path, content)
    assert isinstance(item, Reject) and (item.line, item.code) == (1, code) and said in item.message


def test_a_file_that_cannot_be_read_is_one_reject(tmp_path: Path) -> None:
    (item,) = _of(str(tmp_path / "gone.json"))
    assert isinstance(item, Reject) and (item.line, item.code) == (1, "unreadable_json")
    assert "gone.json" in item.message and "No such file" in item.message


def test_a_file_damaged_in_its_archive_is_one_reject(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "records.json").write_text(json.dumps(STEW))
    archive = Path(_zipped(tmp_path / "in", tmp_path / "all.zip"))
    with zipfile.ZipFile(archive) as opened:
        place = opened.getinfo("records.json").header_offset + 50
    content = bytearray(archive.read_bytes())
    content[place] ^= 0xFF
    archive.write_bytes(content)
    (item,) = _of(f"zip://records.json::{archive}")
    assert isinstance(item, Reject) and (item.line, item.code) == (1, "unreadable_json")


# --------------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"title": "کباب"}, "there is no 'response'; its fields are ['title']"),
        ({"response": "  "}, "'response' is '  '"),
        ({"response": 5}, "'response' is '5'"),
        ({"response": None}, "'response' is 'None'"),
        ({}, "there is no 'response'"),
    ],
)
def test_a_record_without_text_is_rejected(tmp_path: Path, value: object, said: str) -> None:
    items = _items(tmp_path, "\n".join(json.dumps(record) for record in (KEBAB, value, STEW)))
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.line, reject.code) == (2, "empty_text") and said in reject.message
    assert [passage.line for passage in _passages(items)] == [1, 3]


@pytest.mark.parametrize(
    ("value", "kind"),
    [("text", "a text"), (7, "a number"), (True, "a number or truth"), (None, "null"), ([1], "a list")],
)
def test_a_value_that_is_no_object_is_no_record(tmp_path: Path, value: object, kind: str) -> None:
    items = _items(tmp_path, [KEBAB, value, STEW])
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (
        reject.code == "not_a_record"
        and f"The value is {kind}" in reject.message
        and "title" in reject.suggestion
    )
    assert len(_passages(items)) == 2


def test_other_fields_are_metadata_and_group_id_names_the_group(tmp_path: Path) -> None:
    record = KEBAB | {"group_id": 0, "price": 12, "note": None, "tags": ["تند", True], "rating": float("nan")}
    passage, pair = _items(tmp_path, record)
    assert isinstance(passage, Passage) and isinstance(pair, Record)
    assert passage.group == pair.image_group == pair.text_group == "0"
    assert passage.metadata == {"group_id": "0", "price": "12", "tags": '["تند", true]'}


def test_the_title_is_the_group_and_without_one_the_text_is(tmp_path: Path) -> None:
    titles = ["کباب", " كباب ", "", "  ", None]
    passages = _passages(
        _items(tmp_path, [{"title": t, "response": f"متن {i}"} for i, t in enumerate(titles)])
    )
    keys = [text_key("کباب")] * 2 + [text_key(f"متن {i}") for i in (2, 3, 4)]
    assert [passage.group for passage in passages] == keys


def test_a_title_may_be_a_number_and_nothing_else(tmp_path: Path) -> None:
    items = _items(tmp_path, "\n".join(json.dumps(STEW | {"title": title}) for title in (7, ["x"], {"x": 1})))
    assert [passage.title for passage in _passages(items)] == ["7"]
    assert _rejects(items) == [(2, "bad_title"), (3, "bad_title")]


@pytest.mark.parametrize("field", ["title", "response", "price"])
@pytest.mark.parametrize("damage", ["\\ud83d", "\ufffd"])
def test_damaged_letters_are_named_by_field(tmp_path: Path, field: str, damage: str) -> None:
    damaged = json.dumps(STEW | {field: "xxx"}).replace("xxx", f"a{damage}b")
    items = _items(tmp_path, f"{json.dumps(KEBAB)}\n{damaged}")
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.line, reject.code) == (2, "unreadable_text") and f"'{field}'" in reject.message
    reject.message.encode()  # can be written


# ---------------------------------------------------------------------------------------- photos


@pytest.mark.parametrize(
    ("title", "names", "main"),
    [
        pytest.param(
            "آش", ["پیاز.jpg", "قورمه سبزي.JPG", "لوبیا.png"], ["قورمه سبزي.JPG"], id="like the folder"
        ),
        pytest.param("خورش سبزی", ["1.jpg", "خورش_سبزی.jpg"], ["خورش_سبزی.jpg"], id="like the title"),
        pytest.param(
            "خورش‌سبزی", ["1.jpg", "خورش-سبزی.webp"], ["خورش-سبزی.webp"], id="like the title with ZWNJ"
        ),
        pytest.param("آش", ["1.jpg", "Main.JPEG"], ["Main.JPEG"], id="main"),
        pytest.param("آش", ["1.jpg", "اصلي.png", "cover.gif"], ["cover.gif", "اصلي.png"], id="two names"),
        pytest.param("آش", ["2.jpeg", "1.webp"], ["1.webp", "2.jpeg"], id="no such name"),
        pytest.param("", [".jpg", "1.jpg"], ["1.jpg"], id="no title"),
        pytest.param("آش", ["1.jpg", "._1.jpg", ".DS_Store", "Thumbs.db"], ["1.jpg"], id="hidden files"),
    ],
)
@pytest.mark.parametrize("where", ["folder", "archive"])
def test_which_photos_of_a_folder_show_the_dish(
    tmp_path: Path, title: str, names: list[str], main: list[str], where: str
) -> None:
    _touch(tmp_path / "in" / "dishes" / "قورمه_سبزی", *names, "notes.txt")
    (tmp_path / "in" / "dishes" / "قورمه_سبزی" / "more.jpg").mkdir()
    record = STEW | {"title": title, "folder_path": "./dishes/قورمه_سبزی/"}
    (tmp_path / "in" / "records.json").write_text(json.dumps(record))
    path = str(tmp_path / "in" / "records.json")
    if where == "archive":
        path = f"zip://records.json::{_zipped(tmp_path / 'in', tmp_path / 'all.zip')}"
    passage, *records = _of(path)
    assert isinstance(passage, Passage) and all(isinstance(record, Record) for record in records)
    photos = [record.image_path for record in _records(records)]
    assert [photo.partition("::")[0].rpartition("/")[2] for photo in photos] == main
    assert passage.image_path == photos[0]


def test_the_folder_of_the_file_itself_has_a_name_too(tmp_path: Path) -> None:
    _touch(tmp_path / "سوپ", "سوپ.jpg", "جو.jpg")
    items = _items(tmp_path / "سوپ", STEW | {"folder_path": "."})
    assert [Path(record.image_path).name for record in _records(items)] == ["سوپ.jpg"]


def test_with_both_paths_the_image_is_the_photo(tmp_path: Path) -> None:
    _touch(tmp_path / "stew", "stew.jpg", "onion.jpg")
    passage, record = _items(tmp_path, STEW | {"folder_path": "stew", "image_path": "stew/onion.jpg"})
    assert isinstance(passage, Passage) and isinstance(record, Record)
    assert passage.image_path == record.image_path == str(tmp_path / "stew" / "onion.jpg")


def test_a_photo_may_have_an_address(tmp_path: Path) -> None:
    (record,) = _records(_items(tmp_path, STEW | {"image_path": "http://example.org/a/../1.jpg"}))
    assert record.image_path == "http://example.org/a/../1.jpg"


@pytest.mark.parametrize(
    "places",
    [
        {},
        {"folder_path": "nowhere"},
        {"folder_path": "empty"},
        {"image_path": ""},
        {"image_path": float("nan")},
    ],
)
def test_without_photos_the_passage_stays_with_a_note(tmp_path: Path, places: dict[str, Any]) -> None:
    _touch(tmp_path / "empty")
    passage, note = _items(tmp_path, STEW | places)
    assert isinstance(passage, Passage) and passage.image_path is None
    assert note == Note(str(tmp_path / "records.json"), 1, "no_photos")


@pytest.mark.parametrize(
    "places", [{"image_path": ["1.jpg", "2.jpg"]}, {"folder_path": 7}, {"image_path": {}}]
)
def test_a_path_that_is_none_is_rejected_and_the_passage_stays(
    tmp_path: Path, places: dict[str, object]
) -> None:
    items = _items(tmp_path, [STEW | places, KEBAB])
    assert _rejects(items) == [(1, "bad_image_path")]
    assert len(_passages(items)) == 2 and len(_records(items)) == 1


def test_a_photo_whose_name_is_no_utf_8_is_rejected_and_others_stay(tmp_path: Path) -> None:
    _touch(
        tmp_path / "stew", "1.jpg", "سبزی.jpg".encode("cp1256", "replace").decode("utf-8", "surrogateescape")
    )
    items = _items(tmp_path, STEW | {"folder_path": "stew"})
    assert _rejects(items) == [(1, "bad_image_path")]
    assert [Path(record.image_path).name for record in _records(items)] == ["1.jpg"]


# ----------------------------------------------------------------------------------------- files


def test_json_files_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    _touch(tmp_path / "b" / "deep", "2.jsonl", "photo.jpg")
    _touch(tmp_path / "a", "1.json", "3.JSON", "._1.json")
    (tmp_path / "a" / "folder.json").mkdir()
    found = [str(Path(path).relative_to(tmp_path)) for path in json_files(str(tmp_path))]
    assert found == ["a/1.json", "a/3.JSON", "b/deep/2.jsonl"]
    assert json_files(str(tmp_path / "a" / "1.json")) == [str(tmp_path / "a" / "1.json")]


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("{}/nowhere", "missing_source", "There is no folder or file"),
        ("{}/empty", "missing_source", "There is no .json or .jsonl file in the folder"),
        ("zip://nowhere::{}/all.zip", "missing_source", "nowhere"),
        ("zip://::{}/empty", "missing_source", "Is a directory"),
        ("zip://::{}/note.txt", "missing_source", "not a zip file"),
        ("nope://{}", "unknown_protocol", "nope"),
    ],
)
def test_a_place_without_json_is_an_error_that_says_which(
    tmp_path: Path, place: str, code: str, said: str
) -> None:
    _touch(tmp_path / "empty")
    (tmp_path / "note.txt").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a/1.json", "{}")
    with pytest.raises(InputError) as refusal:
        json_files(place.format(tmp_path))
    assert refusal.value.code == code and said in refusal.value.message


def test_a_source_in_an_archive(tmp_path: Path) -> None:
    _touch(tmp_path / "in" / "persian" / "photos", "1.jpg")
    _touch(tmp_path / "in" / "shared")
    (tmp_path / "in" / "shared" / "2.jpg").touch()
    lines = json.dumps(KEBAB) + "\n" + json.dumps(STEW | {"image_path": "../shared/2.jpg"})
    (tmp_path / "in" / "persian" / "lines.jsonl").write_text(lines)
    archive = _zipped(tmp_path / "in", tmp_path / "all.zip")
    source = PersianJson.open(f"zip://persian::{archive}")
    assert source.files() == [f"zip://persian/lines.jsonl::{archive}"]
    items = list(sources.read(source))
    assert [record.image_path for record in _records(items)] == [
        f"zip://persian/photos/1.jpg::{archive}",
        f"zip://shared/2.jpg::{archive}",
    ]
    assert {(item.source, item.line) for item in items} == {(source.files()[0], 1), (source.files()[0], 2)}


def test_a_source_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "in", "1.json")
    monkeypatch.chdir(tmp_path)
    source = PersianJson.open("in")
    assert (source.name, source.files()) == ("in", [str(tmp_path / "in" / "1.json")])


# ------------------------------------------------------------------------------------- real data


def _need(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"there is no {DATA / name}")
    return DATA / name


def test_grocery_photos_come_once_and_each_part_has_its_own_classes() -> None:
    """The 81 classes are dealt to the three parts, 27 each; `lines.json` is in Arabic letter forms."""
    grocery, persian = _need("grocery"), _need("persian_grocery")
    source = PersianJson.open(str(persian))
    assert len(source.files()) == 29
    items = list(sources.read(source))
    assert not [item for item in items if isinstance(item, Reject | Note)]
    with (grocery / "train_matches.csv").open(encoding="utf-8") as stream:
        categories = {
            str((grocery / row["image_path"]).resolve()): row["category"] for row in csv.DictReader(stream)
        }
    photos = Counter(str(Path(record.image_path).resolve()) for record in _records(items))
    assert photos == Counter(categories.keys()) and len(photos) == 2640

    parts: dict[str, set[str]] = {"list.json": set(), "lines.json": set(), "record.json": set()}
    texts: dict[str, set[str]] = {}
    for record in _records(items):
        category = categories[str(Path(record.image_path).resolve())]
        parts[Path(record.source).name].add(category)
        texts.setdefault(category, set()).add(normalize(record.text))
        assert normalize(record.text).startswith(normalize(record.metadata["title"]))
        assert ("ي" in record.text or "ك" in record.text) <= (Path(record.source).name == "lines.json")
    assert [len(part) for part in parts.values()] == [27, 27, 27] and len(set.union(*parts.values())) == 81
    assert {len(of_category) for of_category in texts.values()} == {1}


def test_grocery_in_other_letter_forms_gives_the_same_keys(tmp_path: Path) -> None:
    persian = _need("persian_grocery")
    lines = (persian / "lines.json").read_text(encoding="utf-8")
    (tmp_path / "persian.json").write_text(lines.translate(str.maketrans("يك", "یک")), encoding="utf-8")
    original, persian_letters = (
        _passages(_of(str(persian / "lines.json"))),
        _passages(_of(str(tmp_path / "persian.json"))),
    )
    assert [(p.line, p.id, p.group) for p in original] == [(p.line, p.id, p.group) for p in persian_letters]
    assert original[0].text != persian_letters[0].text and len(original) == 886


def test_the_recipe_corpus_has_1389_passages_and_pairs_for_its_two_folders() -> None:
    corpus = _need("persian_food")
    items = list(sources.read(PersianJson.open(str(corpus))))
    assert len({passage.id for passage in _passages(items)}) == len(_passages(items)) == 1389
    assert {text_key(passage.text) for passage in _passages(items)} == {
        passage.id for passage in _passages(items)
    }
    assert not _rejects(items)
    records = _records(items)
    photos = {str(Path(record.image_path).relative_to(corpus / "food_images")) for record in records}
    assert photos == {"ا_عدس/ا_عدس.jpg", "ا_باقله/ا_باقله.jpg"}
    assert sum(isinstance(item, Note) for item in items) == 1389 - len(records)


def test_a_corpus_with_one_broken_record_keeps_the_others(tmp_path: Path) -> None:
    text = (_need("persian_food") / "food_dataset.json").read_text(encoding="utf-8")
    place = text.index('"response"', len(text) // 2)
    (tmp_path / "broken.json").write_text(
        text[:place] + text[place:].replace('": "', '": ', 1), encoding="utf-8"
    )
    items = _of(str(tmp_path / "broken.json"))
    assert _rejects(items) == [(text.count("\n", 0, place) - 1, "unreadable_json")]
    assert len(_passages(items)) == 1388
    whole = io.StringIO(text)
    lines = [number for number, line in enumerate(whole, 1) if line.startswith("  {")]
    assert {passage.line for passage in _passages(items)} < set(lines) and len(lines) == 1389
