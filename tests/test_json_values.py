"""JSON values: every shape is read with the right line numbers, and what is broken costs itself alone."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from data_jobs.errors import InputError
from data_jobs.json_values import MAX_DEPTH, MAX_LEAD, read_values

PIECES = (1, 2, 7, 64, 1 << 18)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
RECORDS = st.lists(
    st.dictionaries(st.sampled_from(["title", "response", "قیمت", ""]) | st.text(), NESTED), max_size=6
)


def _read(text: str, **limits: int) -> list[tuple[int, Any]]:
    """What is read, with the code in place of an error; the same for every size of pieces."""
    read = [
        [
            (line, value.code if isinstance(value, InputError) else value)
            for line, value in read_values(io.StringIO(text, newline=""), piece=piece, **limits)
        ]
        for piece in PIECES
    ]
    assert all(values == read[0] for values in read)
    return read[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param('{"a": 1}', [(1, {"a": 1})], id="one record"),
        pytest.param('\n\n {\n"a":\n1}\n', [(3, {"a": 1})], id="one record over lines"),
        pytest.param('{\n"a": 1\n}\n{\n"a": 2\n}', [(1, {"a": 1}), (4, {"a": 2})], id="several, pretty"),
        pytest.param('{"a": 1}\n\n{"a": 2}\n', [(1, {"a": 1}), (3, {"a": 2})], id="lines"),
        pytest.param('{"a": 1}\r\n\r\n{"a": 2}\r\n', [(1, {"a": 1}), (3, {"a": 2})], id="lines of Windows"),
        pytest.param('{"a": 1}\r{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})], id="lines of old Macs"),
        pytest.param('{"a": 1} {"a": 2}{"a": 3}', [(1, {"a": n}) for n in (1, 2, 3)], id="several on a line"),
        pytest.param('[{"a": 1}, {"a": 2}]', [(1, {"a": 1}), (1, {"a": 2})], id="list"),
        pytest.param('[\n {"a": 1},\n {"a": 2}\n]', [(2, {"a": 1}), (3, {"a": 2})], id="list over lines"),
        pytest.param(
            '[{\n"a": 1\n}, {\n"a": 2\n}]', [(1, {"a": 1}), (3, {"a": 2})], id="list in the way of JavaScript"
        ),
        pytest.param('[{"a": 1}]\n[{"a": 2}]', [(1, {"a": 1}), (2, {"a": 2})], id="lists one after another"),
        pytest.param('[{"a": 1}]\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})], id="list and lines"),
        pytest.param(
            '[{"a": 1} {"a": 2}\n{"a": 3}]', [(1, {"a": 1}), (1, {"a": 2}), (2, {"a": 3})], id="no commas"
        ),
        pytest.param('[{"a": 1},, {"a": 2},]', [(1, {"a": 1}), (1, {"a": 2})], id="commas too many"),
        pytest.param('[{"a": 1},\n{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})], id="no closing bracket"),
        pytest.param('{"a": 1},\n{"a": 2}]', [(1, {"a": 1}), (2, {"a": 2})], id="no opening bracket"),
        pytest.param('\ufeff{"a": 1}\n\ufeff{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})], id="byte order marks"),
        pytest.param(
            '{"a": NaN, "b": [-Infinity]}', [(1, {"a": None, "b": [None]})], id="what pandas writes"
        ),
        pytest.param(
            '[[{"a": 1}, [2]], 3, "x", null]',
            [(1, [{"a": 1}, [2]]), (1, 3), (1, "x"), (1, None)],
            id="others",
        ),
        pytest.param("null", [(1, None)], id="null"),
        pytest.param('"no such dish"\n', [(1, "no such dish")], id="a text"),
        pytest.param("-12.5e3", [(1, -12500.0)], id="a number"),
        pytest.param("[]", [], id="empty list"),
        pytest.param(" \r\n\ufeff", [], id="white space"),
        pytest.param("", [], id="nothing"),
        pytest.param('{"a": "x\ty\x01"}\n{"a": 2}', [(1, {"a": "x\ty\x01"}), (2, {"a": 2})], id="raw tab"),
        pytest.param('{"a": "x\ny"}\n{"a": 2}', [(1, {"a": "x\ny"}), (3, {"a": 2})], id="raw line end"),
    ],
)
def test_each_shape(text: str, found: list[tuple[int, Any]]) -> None:
    assert _read(text) == found


BAD = "unreadable_json"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(
            '{"a": 1}\n{"a": tru}\n{"a": 3}\n', [(1, {"a": 1}), (2, BAD), (3, {"a": 3})], id="in lines"
        ),
        pytest.param(
            '{"a": 1}\n{"a": "cut\n{"a": 3}\n', [(1, {"a": 1}), (2, BAD), (3, {"a": 3})], id="open string"
        ),
        pytest.param('{"a": "x\n{",": ": 1}"}\n', [(1, BAD), (2, {",": ": 1}"})], id="closed by the next"),
        pytest.param(
            '{"a": 1}\n{"a": [\n{"a": 3}\n', [(1, {"a": 1}), (2, BAD), (3, {"a": 3})], id="open bracket"
        ),
        pytest.param('{"a": 1}\n{"a":\n{"a": 3}\n', [(1, {"a": 1}), (2, BAD), (3, {"a": 3})], id="no value"),
        pytest.param(
            '{"a": 1}\noops\n\n{"a": 4}', [(1, {"a": 1}), (2, BAD), (4, {"a": 4})], id="a line of text"
        ),
        pytest.param(
            'oops\n"a": 2}\n{"a": 3}', [(1, BAD), (2, BAD), (3, {"a": 3})], id="lines of text first"
        ),
        pytest.param('{"a": 1}}\n{"a": 2}', [(1, {"a": 1}), (1, BAD), (2, {"a": 2})], id="brace too many"),
        pytest.param(
            '{"a": 1}\n12x\n{"a": 3}', [(1, {"a": 1}), (2, BAD), (3, {"a": 3})], id="number and letter"
        ),
        pytest.param("{'a': 1}\n{'a': 2}\n", [(1, BAD), (2, BAD)], id="Python's quotes"),
        pytest.param(
            '[{"a": 1}, {"a": tru}, {"a": 3}]', [(1, {"a": 1}), (1, BAD), (1, {"a": 3})], id="in a list"
        ),
        pytest.param(
            '[{"a": 1}, {"a": 5" x 7"}, {"a": [{"b": 3}]}]',
            [(1, {"a": 1}), (1, BAD), (1, {"a": [{"b": 3}]})],
            id="quotation mark in a list",
        ),
        pytest.param(
            '[{"a": 1},\n {"a": tru},\n {"a": 3}]',
            [(1, {"a": 1}), (2, BAD), (3, {"a": 3})],
            id="aligned list",
        ),
        pytest.param('[{"a": tru},\n {"a": 2}]', [(1, BAD), (2, {"a": 2})], id="first of an aligned list"),
        pytest.param('[{"a": tru}]\n[{"a": 2}]', [(1, BAD), (2, {"a": 2})], id="lists one after another"),
        pytest.param('[tru, {"a": 2}, x]', [(1, BAD), (1, {"a": 2}), (1, BAD)], id="words in a list"),
        pytest.param(
            '{"a": ' + "9" * 5000 + '}\n{"a": 2}', [(1, BAD), (2, {"a": 2})], id="thousands of digits"
        ),
        pytest.param(
            '{"a": ' + "[" * 99_999 + '\n{"a": 2}', [(1, BAD), (2, {"a": 2})], id="nested without end"
        ),
        pytest.param('{"a": 1}\n{"a": 2, "b": "x', [(1, {"a": 1}), (2, BAD)], id="cut download of lines"),
        pytest.param('[\n{"a": 1},\n{"a": 2, "b"', [(2, {"a": 1}), (3, BAD)], id="cut download of a list"),
        pytest.param('[\n  {\n    "a": 1\n  },\n  {\n    "a"', [(2, {"a": 1}), (5, BAD)], id="cut, pretty"),
    ],
)
def test_what_is_broken_costs_itself(text: str, found: list[tuple[int, Any]]) -> None:
    assert _read(text) == found


def test_a_number_or_word_cut_by_a_piece_is_whole() -> None:
    text = "[" + " " * 99 + '123456, -12.5e3, true, null, "x", 7]'
    assert _read(text) == [(1, 123456), (1, -12500.0), (1, True), (1, None), (1, "x"), (1, 7)]


@pytest.mark.parametrize("indent", [1, 2, 4, "\t"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"title": 1', '"title" 1'),
        ('"title": 1', '"title": "1'),
        ('"title": 1', '"title: 1'),
        ('"title": 1,', '"title": 1'),
        ('"b": 2', '"b": }'),
        ("[", ""),
        ("]", ""),
        ("]", "]]"),
    ],
)
def test_of_a_pretty_list_the_neighbours_survive(indent: int | str, old: str, new: str) -> None:
    parts = [json.dumps([{"title": n, "parts": [{"b": 2}, {"b": 3}]}], indent=indent)[2:-2] for n in range(3)]
    broken = parts[1].replace(old, new, 1)
    assert broken != parts[1]
    text = "[\n" + ",\n".join([parts[0], broken, parts[2]]) + "\n]\n"
    first, *errors, last = _read(text)
    assert first == (2, {"title": 0, "parts": [{"b": 2}, {"b": 3}]})
    assert errors == [(13, BAD)]
    assert last == (24, {"title": 2, "parts": [{"b": 2}, {"b": 3}]})


@pytest.mark.parametrize(
    "page",
    [
        '<!DOCTYPE html>\n<html>\n<script>\n{"a": 1}\n</script>\n</html>\n',
        "Service unavailable\n\nTry again later.\n",
        "image_path,text,label\na.jpg,red mug,1\n7,8,9\n",
        "PK\x03\x04\x14\x00" + "\udcff\n" * 500,
        "oops\n" * (MAX_LEAD + 9) + '{"a": 1}',
    ],
)
def test_a_file_that_is_no_json_is_one_error(page: str) -> None:
    assert _read(page) == [(1, BAD)]
    assert _read("\n\n" + page) == [(3, BAD)]


def test_an_error_says_what_where_and_what_it_cost() -> None:
    text = '[\n {"title": "آش"},\n {\n  "title": "کباب",\n  "response" "x"\n },\n {"title": "دلمه"}\n]'
    error = next(value for _, value in read_values(io.StringIO(text)) if isinstance(value, InputError))
    assert "کباب" in error.message and "Expecting ':' delimiter, line 5" in error.message
    assert error.message.endswith("Lines 3 to 6 were left out.")
    error = next(value for _, value in read_values(io.StringIO('{\n"a":\n')) if isinstance(value, InputError))
    assert "where the file ends" in error.message and error.message.endswith(
        "Lines 1 to the end were left out."
    )


def test_a_record_has_a_limit() -> None:
    long = '{"a": "' + "x" * 91 + '"}'
    text = long + '\n{"a": [\n' + '{"a": 1},\n' * 30 + '{"a"' + " " * 99 + "1}"
    assert len(long) == 100
    found = _read(text, max_record=100)
    assert found[:2] == [(1, {"a": "x" * 91}), (2, "record_too_long")]
    assert found[2:-1] == [(line, {"a": 1}) for line in range(3, 33)]
    assert found[-1] == (33, "record_too_long")
    assert _read(long.replace("x", "xx", 1) + '\n{"a": 2}', max_record=100) == [
        (1, "record_too_long"),
        (2, {"a": 2}),
    ]


def test_nesting_has_a_limit_that_is_no_accident_of_the_stack() -> None:
    for depth, found in ((MAX_DEPTH, dict), (MAX_DEPTH + 1, InputError)):
        text = '{"a": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
        ((_, value),) = read_values(io.StringIO(text))
        assert isinstance(value, found)
    wide = '{"a": [' + "[]," * 3 * MAX_DEPTH + "[]]}"
    assert _read(wide) == [(1, {"a": [[]] * (3 * MAX_DEPTH + 1)})]


class _Endless(io.TextIOBase):
    """A stream far larger than the memory it may take."""

    def __init__(self, start: str, repeated: str, times: int) -> None:
        self._pieces: Iterator[str] = iter([start] * bool(start) + [repeated] * times)

    def read(self, size: int | None = -1) -> str:
        return next(self._pieces, "")


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        ("", '{"title": "x", "response": "y"}\n' * 2000),
        ("[", '{"title": "x", "response": "y"},' * 2000),
        ('{"a": "', "x" * 60_000),
        ("[[[", "[1, 2, 3]," * 6000),
        ("", "no json " * 8000),
        ("", '{"a": 1} ' + "x" * 60_000),
        ('{"a" ', " " * 60_000),
        ("", "\n" * 60_000),
    ],
)
def test_memory_is_flat(start: str, repeated: str) -> None:
    tracemalloc.start()
    for _ in read_values(_Endless(start, repeated, 40), piece=1 << 14, max_record=100_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000  # bytes, of a stream of 2.4 million characters


@given(
    RECORDS, st.sampled_from(["list", "pretty list", "lines", "pretty"]), st.integers(1, 40), st.booleans()
)
@example([{"a": 12}, {"a": -0.5}], "pretty", 1, True)
def test_any_records_come_back_in_any_shape(
    records: list[Any], shape: str, piece: int, windows: bool
) -> None:
    indent = 2 if shape.startswith("pretty") else None
    written = [json.dumps(record, ensure_ascii=piece % 2 == 0, indent=indent) for record in records]
    written = [text.encode(errors="replace").decode() for text in written]  # half surrogate pairs are no text
    separator, text, line, lines = (",\n", "[\n", 2, []) if shape.endswith("list") else ("\n", "", 1, [])
    for record in written:
        lines.append(line)
        line += record.count("\n") + 1
    text += separator.join(written) + ("\n]" if shape.endswith("list") else "")
    stream = io.StringIO(text.replace("\n", "\r\n") if windows else text, newline="")
    expected = [(number, json.loads(record)) for number, record in zip(lines, written, strict=True)]
    assert list(read_values(stream, piece=piece)) == expected


@given(
    st.lists(
        st.fixed_dictionaries({"title": st.text(max_size=9), "response": NESTED}), min_size=2, max_size=5
    ),
    st.data(),
)
def test_a_corrupted_line_leaves_the_others_whole(records: list[Any], data: st.DataObject) -> None:
    lines = [json.dumps(record).encode() for record in records]
    victim = data.draw(st.integers(0, len(lines) - 1))
    start = data.draw(st.integers(0, len(lines[victim]) - 1))
    stop = data.draw(st.integers(start, len(lines[victim])))
    damage = data.draw(st.binary(max_size=5) | st.text('{}[]",:\\ t1', max_size=3).map(str.encode))
    lines[victim] = lines[victim][:start] + damage + lines[victim][stop:]
    assume(not set(damage) & set(b"\r\n") and not lines[victim].lstrip().startswith((b"[", b"<")))
    text = b"\n".join(lines).decode(errors="surrogateescape")
    found = list(read_values(io.StringIO(text, newline=""), piece=data.draw(st.integers(1, 99))))
    whole = [(line, value) for line, value in found if line != victim + 1]
    assert whole == [(line, record) for line, record in enumerate(records, 1) if line != victim + 1]


@given(st.text() | st.text('{}[]",: \n\\ta1-.\t', max_size=40), st.integers(1, 9))
def test_anything_is_read_to_its_end_and_alike_in_pieces(text: str, piece: int) -> None:
    def read(size: int) -> list[tuple[int, str]]:
        values = read_values(io.StringIO(text, newline=""), piece=size)
        return [
            (line, value.code if isinstance(value, InputError) else repr(value)) for line, value in values
        ]

    found = read(piece)
    assert found == read(1 << 18)
    assert [line for line, _ in found] == sorted(line for line, _ in found)
