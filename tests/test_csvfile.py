"""Tables: what csv.writer wrote is read back in every dialect, and a broken line costs no other line."""

import csv
import io
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_jobs import csvfile
from data_jobs.csvfile import MAX_LINE, Row, Table, open_table, read_rows
from data_jobs.errors import InputError

NAMES = ("image_path", "text", "label")
Found = list[tuple[int, Row | InputError]]


def _open(folder: Path, content: str | bytes) -> Table:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_table(str(path), NAMES)


def _read(folder: Path, content: str | bytes) -> Found:
    return list(read_rows(_open(folder, content)))


def _cells(found: Found) -> list[tuple[int, list[str]]]:
    return [(line, list(row.values())) for line, row in found if not isinstance(row, InputError)]


def _errors(found: Found) -> list[tuple[int, str]]:
    return [(line, row.code) for line, row in found if isinstance(row, InputError)]


def _written(rows: list[list[str]], delimiter: str) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows([list(NAMES), *rows])
    return out.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


LETTERS = st.characters(codec="utf-8", exclude_characters="\ufffd\ufeff\0")
CELLS = st.text(st.one_of(st.sampled_from(list("\",;\t|\n\r ab'ک")), LETTERS), max_size=8)
ROWS = st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=6)


@settings(deadline=None)
@given(ROWS, st.sampled_from(list(csvfile.DELIMITERS)), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_what_csv_writer_wrote_is_read_back(
    place: Path, rows: list[list[str]], delimiter: str, encoding: str
) -> None:
    found = _read(place, _written(rows, delimiter).encode(encoding))
    stripped = [[cell.strip() for cell in row] for row in rows]
    assert _errors(found) == []
    assert [cells for _, cells in _cells(found)] == [row for row in stripped if any(row)]


WORDS = {
    "cp1256": ["ماگ قرمز", "پيراهن گل‌دار", "ژاكت", "كيف چرمي"],  # it has no Persian yeh and keheh
    "cp1252": ["café", "Größe 38", "naïve façade", "señor"],
}


@settings(deadline=None)
@given(st.data(), st.sampled_from(list(csvfile.DELIMITERS)), st.sampled_from(list(WORDS)))
def test_windows_code_pages_are_read_back(
    place: Path, data: st.DataObject, delimiter: str, encoding: str
) -> None:
    texts = data.draw(st.lists(st.sampled_from(WORDS[encoding]), min_size=1, max_size=5))
    rows = [["a.jpg", f'{text}, "{text}"{delimiter}\n', "1"] for text in texts]
    table = _open(place, _written(rows, delimiter).encode(encoding))
    assert table.encoding == encoding
    assert [cells[1] for _, cells in _cells(list(read_rows(table)))] == [row[1].strip() for row in rows]


def _is_told_apart(cell: str, delimiter: str) -> bool:
    """Not a cell whose own quotation mark ends a stray one correctly: `"` and then a delimiter or a line end."""
    return not cell.lstrip('"').startswith((delimiter, "\n", "\r")) and (not cell or cell.strip('"') != "")


@settings(deadline=None)
@given(ROWS, st.sampled_from(list(csvfile.DELIMITERS)), st.data())
def test_a_stray_quotation_mark_loses_no_other_row(
    place: Path, rows: list[list[str]], delimiter: str, data: st.DataObject
) -> None:
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    rows = [[c if _is_told_apart(c, delimiter) else f"x{c}" for c in row] for row in rows]
    victim = data.draw(st.integers(0, len(rows)))
    column = data.draw(st.integers(0, 2))
    rows.insert(victim, ["b.jpg", "mug", "1"])
    broken = ["b.jpg", "mug", "1"]
    broken[column] = f'"{broken[column]}'
    content = _written(rows[:victim], delimiter) + delimiter.join(broken) + "\r\n"
    content += _written(rows[victim + 1 :], delimiter).split("\r\n", 1)[1]
    found = _read(place, content)
    others = [[cell.strip() for cell in row] for row in rows[:victim] + rows[victim + 1 :]]
    assert [cells for _, cells in _cells(found)] == others
    line = len(re.split("\r\n|\r|\n", _written(rows[:victim], delimiter)))
    assert _errors(found) == [(line, "unclosed_quote")]


@settings(deadline=None)
@given(ROWS, st.sampled_from(list(csvfile.DELIMITERS)), st.integers(0, 5), st.integers(0, 40))
def test_no_damage_to_the_text_is_an_exception(
    place: Path, rows: list[list[str]], delimiter: str, mark: int, where: int
) -> None:
    """Any byte anywhere behind the header: rows or named errors, at lines that ascend and exist."""
    content = _written(rows, delimiter).encode()
    header = content.index(b"\n") + 1
    at = min(header + where, len(content))
    broken = content[:at] + [b'"', b"\n", b"\xff", b"\0", b"\r", delimiter.encode()][mark] + content[at:]
    lines = [line for line, _ in _read(place, broken)]
    assert lines == sorted(set(lines))
    assert all(2 <= line <= broken.count(b"\n") + broken.count(b"\r") + 1 for line in lines)


def test_line_numbers_are_those_an_editor_shows(tmp_path: Path) -> None:
    content = 'image_path,text,label\r\n\r\na.jpg,"two\r\nlines",1\r\nb.jpg,"mug,1\r\n,,\r\nc.jpg,hat,1\r\n'
    found = _read(tmp_path, content)
    assert [line for line, _ in found] == [3, 5, 7]
    assert _errors(found) == [(5, "unclosed_quote")]


def test_many_stray_quotation_marks_cost_their_lines_only(tmp_path: Path) -> None:
    rows = [f'{i}.jpg,"mug {i},1' if i % 3 == 0 else f"{i}.jpg,mug {i},1" for i in range(300)]
    found = _read(tmp_path, "\n".join([",".join(NAMES), *rows]))
    assert [line for line, code in _errors(found)] == list(range(2, 302, 3))
    assert len(_cells(found)) == 200


def test_two_stray_quotation_marks_that_close_one_another_cost_no_row(tmp_path: Path) -> None:
    found = _read(tmp_path, 'image_path,text,label\na.jpg,"mug,1\nb.jpg,hat,1\nc.jpg,sock,"\nd.jpg,shoe,1\n')
    assert _errors(found) == [(2, "unclosed_quote"), (4, "unclosed_quote")]
    assert _cells(found) == [(3, ["b.jpg", "hat", "1"]), (5, ["d.jpg", "shoe", "1"])]


def test_a_quotation_left_open_far_from_the_end_is_given_back(tmp_path: Path) -> None:
    rows = ['0.jpg,"mug,1', *[f"{i}.jpg,{'mug ' * 40},1" for i in range(1, 3000)]]  # 480 kB behind it
    found = _read(tmp_path, "\n".join([",".join(NAMES), *rows]))
    assert _errors(found) == [(2, "unclosed_quote")]
    assert [line for line, _ in _cells(found)] == list(range(3, 3002))


def test_a_line_beyond_the_limit_is_one_error(tmp_path: Path) -> None:
    long = "a.jpg," + "x" * (2 * MAX_LINE + 5) + ",1"
    found = _read(tmp_path, "\n".join([",".join(NAMES), long, "b.jpg,hat,0"]))
    assert _errors(found) == [(2, "unreadable_row")]
    assert _cells(found) == [(3, ["b.jpg", "hat", "0"])]


def test_the_last_row_may_lack_its_line_end_and_trailing_cells(tmp_path: Path) -> None:
    found = _read(tmp_path, "image_path,text,label,price\na.jpg,mug,1\nb.jpg,hat,0,,,\nc.jpg,hat")
    assert [row for _, row in found] == [
        {"image_path": "a.jpg", "text": "mug", "label": "1"},
        {"image_path": "b.jpg", "text": "hat", "label": "0", "price": ""},
        {"image_path": "c.jpg", "text": "hat"},
    ]


def test_the_first_delimiter_that_gives_the_columns_is_taken(tmp_path: Path) -> None:
    table = _open(tmp_path, "text;label;image_path;a,b\n")
    assert (table.delimiter, table.names) == (";", ("text", "label", "image_path", "a,b"))
    assert table.remarks == ["delimiter_semicolon"]
    table = _open(tmp_path, "image_path,text,label,a;b|c\n")
    assert (table.delimiter, table.names[3], table.remarks) == (",", "a;b|c", [])
    table = _open(tmp_path, '\ufeff"Image_Path"|"TEXT"| label \n'.encode("utf-16-le"))
    assert (table.delimiter, table.names) == ("|", NAMES)
    assert table.remarks == ["read_as_utf_16", "delimiter_bar"]


def test_damaged_letters_in_the_header_cost_no_row(tmp_path: Path) -> None:
    header = "image_path,text,label,قیمت".encode()[:-1]
    table = _open(tmp_path, header + "\nb.jpg,کلاه پشمی,1,۱۲\n".encode())
    assert table.names == (*NAMES, "قیم?")
    ((line, row),) = read_rows(table)
    assert (line, row) == (2, {"image_path": "b.jpg", "text": "کلاه پشمی", "label": "1", "قیم?": "۱۲"})


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("pairs.csv", "image_path,text,label\na.jpg,mug,1\n")
    content = bytearray((tmp_path / "all.zip").read_bytes())
    content[content.index(b"mug")] ^= 0xFF
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"pairs\.csv.*CRC") as refusal:
        open_table(f"zip://pairs.csv::{tmp_path}/all.zip", NAMES)
    assert refusal.value.code == "missing_source"


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(InputError) as refusal:
        open_table("nope://pairs.csv", NAMES)
    assert refusal.value.code == "unknown_protocol"


def test_the_words_of_an_unclosed_quotation(tmp_path: Path) -> None:
    ((line, error),) = _read(tmp_path, 'image_path,text,label\nb.jpg,"mug,1\n')
    assert isinstance(error, InputError) and line == 2
    assert error.message == "A quotation mark is opened and never closed: 'b.jpg,\"mug,1'."
