"""CSV of pairs: every dialect gives the same records, and each broken row is named and lost alone."""

from pathlib import Path

import pytest

from data_jobs import csv_pairs, sources
from data_jobs.csv_pairs import CsvPairs
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Passage, Record, Reject
from data_jobs.text import text_key

HEADER = "image_path,text,label\n"


def _csv(folder: Path, content: str | bytes, image_base_path: str | None = None) -> list[Item]:
    path = folder / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(sources.read(CsvPairs.open(str(path), image_base_path)))


def _records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def _passages(items: list[Item]) -> list[Passage]:
    return [item for item in items if isinstance(item, Passage)]


def _rejects(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.code) for item in items if isinstance(item, Reject)]


def _notes(items: list[Item]) -> list[str]:
    return [item.code for item in items if isinstance(item, Note)]


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
    items = _csv(tmp_path, newline.join(rows).encode(encoding))
    first, second = _records(items)
    assert (first.text, first.line, second.text, second.line) == ("ماگ قرمز", 2, "كلاه پشمي", 3)
    guessed = {"utf-16": ["read_as_utf_16"], "cp1256": ["read_as_cp1256"]}
    assert _notes(items) == guessed.get(encoding, [])


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_either_order_of_utf_16(tmp_path: Path, order: str) -> None:
    (record,) = _records(_csv(tmp_path, ("\ufeff" + HEADER + "a.jpg,ماگ,0\n").encode(order)))
    assert record.text == "ماگ"


def test_a_file_larger_than_one_piece_is_utf_8_to_its_end(tmp_path: Path) -> None:
    rows = "a.jpg,ماگ,0\n" + f"b.jpg,{'mug ' * 25_000},0\n" * 12
    first = _records(_csv(tmp_path, HEADER + rows))[0]
    assert first.text == "ماگ"


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


def test_equal_texts_are_one_group_and_one_passage_id(tmp_path: Path) -> None:
    items = _csv(tmp_path, HEADER + "a.jpg,كيف ۲,1\nb.jpg,کیف 2,1\nc.jpg,shoe,0\n")
    first, second, _ = _records(items)
    assert first.text_group == second.image_group == text_key("کیف 2")
    assert [passage.id for passage in _passages(items)] == [text_key("کیف 2")] * 2


def test_where_relative_paths_start(tmp_path: Path) -> None:
    content = HEADER + "in/a.jpg,mug,0\n/photos/b.jpg,mug,0\n"
    paths = [record.image_path for record in _records(_csv(tmp_path, content))]
    assert paths == [str(tmp_path / "in/a.jpg"), "/photos/b.jpg"]
    paths = [r.image_path for r in _records(_csv(tmp_path, content, image_base_path="/base"))]
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
        (6, "wrong_columns"),
        (7, "wrong_columns"),
        (8, "empty_text"),
        (10, "wrong_columns"),
        (11, "wrong_columns"),
    ]
    assert [record.line for record in _records(items)] == [2]
    said = {item.line: item for item in items if isinstance(item, Reject)}
    assert (
        said[5].image_path == str(tmp_path / "c.jpg")
        and "'maybe'" in said[5].message
        and "mismatch" in said[5].suggestion
    )
    assert said[6].message == "The row has 4 cells; the header names 3."
    assert "lacks label." in said[7].message


@pytest.mark.parametrize("broken", ['b.jpg,"mug,1', 'b.jpg,"mug",x,"1', '"b.jpg,mug,1'])
def test_a_quotation_never_closed_costs_its_own_line(tmp_path: Path, broken: str) -> None:
    rows = [
        "a.jpg,mug,1",
        broken,
        "c.jpg,hat,1",
        'd.jpg,"red, large",0',
        'e.jpg,"two\nlines",1',
        "f.jpg,sock,1",
    ]
    items = _csv(tmp_path, HEADER + "\n".join(rows))
    assert [line for line, _ in _rejects(items)] == [3]
    texts = [(record.line, record.text) for record in _records(items)]
    assert texts == [(2, "mug"), (4, "hat"), (5, "red, large"), (6, "two\nlines"), (8, "sock")]


def test_a_quotation_mark_inside_a_text_is_kept(tmp_path: Path) -> None:
    items = _csv(tmp_path, HEADER + 'a.jpg,12" pan,1\nb.jpg,"12" pan",0\n')
    assert [record.text for record in _records(items)] == ['12" pan', '12 pan"']


@pytest.mark.parametrize(("delimiter", "named"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_other_delimiters(tmp_path: Path, delimiter: str, named: str) -> None:
    rows = (HEADER + "a.jpg,ماگ,1\nb.jpg,hat,0\n").replace(",", delimiter)
    items = _csv(tmp_path, rows)
    assert [(r.line, r.text, r.label) for r in _records(items)] == [(2, "ماگ", 1), (3, "hat", 0)]
    assert _notes(items) == [f"delimiter_{named}"]


def test_the_line_by_which_excel_names_the_delimiter(tmp_path: Path) -> None:
    (record,) = _records(_csv(tmp_path, "sep=;\nimage_path;text;label\na.jpg;mug, red;1\n"))
    assert (record.line, record.text) == (3, "mug, red")


def test_a_damaged_letter_costs_its_row_and_not_the_encoding(tmp_path: Path) -> None:
    rows = "".join(f"{i}.jpg,ماگ قرمز {i},1\n" for i in range(5)).encode()
    items = _csv(tmp_path, HEADER.encode() + rows + b"z.jpg,\xda\xe1,1\n" + "y.jpg,کلاه,1\n".encode())
    assert _rejects(items) == [(7, "unreadable_text")]
    assert [record.text for record in _records(items)] == [*[f"ماگ قرمز {i}" for i in range(5)], "کلاه"]


def test_rows_of_nothing_but_delimiters_are_blank(tmp_path: Path) -> None:
    items = _csv(tmp_path, HEADER + "a.jpg,mug,0\n,,\n , ,\n\nb.jpg,hat,0\n")
    assert [item.line for item in items] == [2, 6]


def test_an_endless_cell_is_one_reject_and_reading_goes_on(tmp_path: Path) -> None:
    endless = 'a.jpg,"' + "mug " * 40_000
    items = _csv(tmp_path, f"{HEADER}{endless}\nb.jpg,hat,0\n")
    assert _rejects(items) == [(2, "unreadable_row")]
    assert [record.line for record in _records(items)] == [3]


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("image_path,caption\na.jpg,mug\n", "wrong_columns", "lacks text, label."),
        ("image_path;text\n", "wrong_columns", "the columns image_path, text; it lacks label."),
        ("image_path,text,label,text\n", "wrong_columns", "names text twice"),
        ("", "wrong_columns", "lacks image_path, text, label."),
        ("a.jpg,mug,1\n", "wrong_columns", "the columns a.jpg, mug, 1; it"),
        ('"' + "x" * 140_000, "wrong_columns", "lacks"),
    ],
)
def test_an_unusable_csv_is_an_error(tmp_path: Path, content: str | bytes, code: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        _csv(tmp_path, content)
    assert refusal.value.code == code
    assert said in refusal.value.message and "pairs.csv" in refusal.value.message


def test_a_missing_csv_is_an_error(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "nowhere.csv", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=problem) as refusal:
            CsvPairs.open(str(path))
        assert refusal.value.code == "missing_source" and str(path) in refusal.value.message


def test_a_damaged_end_of_utf_16_costs_one_row(tmp_path: Path) -> None:
    items = _csv(tmp_path, (HEADER + "a.jpg,mug,0\nb.jpg,hat,0").encode("utf-16") + b"\x31")
    assert ([r.line for r in _records(items)], _rejects(items)) == ([2], [(3, "unreadable_text")])


def test_a_header_alone_is_no_rows(tmp_path: Path) -> None:
    assert _csv(tmp_path, HEADER) == []


def test_records_leaves_out_what_states_no_pair(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(HEADER + "a.jpg,mug,1\nb.jpg,,1\nc.jpg,hat,0\n")
    assert [record.line for record in csv_pairs.records(str(tmp_path / "pairs.csv"))] == [2, 4]
