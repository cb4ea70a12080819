"""JSON as people send it, one value at a time: a list, one value or several in a row, JSON lines, mixed at will.

A value is found again after a broken one, so that a broken record costs itself and not the file. Memory is flat in
the size of the file: one value and a bounded buffer are held.
"""

import io
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TextIO

from data_jobs.errors import InputError

PIECE = 1 << 18
"""Characters read at once."""
MAX_RECORD = 16_000_000
"""Characters of the longest value that is read: two thousand times the longest recipe of the published corpus."""
MAX_DEPTH = 200
"""Lists and objects inside one another, well below what Python's own recursion limit can write and pickle."""
MAX_LEAD = 100
"""Broken values at the start of a file that starts with neither `{` nor `[`, after which the file is no JSON."""
_CUT = 12  # characters: a literal (-Infinity), an escape or an exponent cut by the buffer's end is shorter
_LOOK_AHEAD = 2048  # characters: longer than any match of `_next_line` and `_beside`

_GAP = re.compile(r"[\s,\ufeff]*")
_MARGIN = re.compile(r"[\s\[,\ufeff]*")
_FIRST_KEY = re.compile(r"""\{\s*(["'][^"'\n]{0,200}["'])""")
_NEWLINE = re.compile("\n")


def _null(_: str) -> None:
    return None


_STRICT = json.JSONDecoder(parse_constant=_null)
_LENIENT = json.JSONDecoder(parse_constant=_null, strict=False)


def read_values(
    stream: TextIO, *, piece: int = PIECE, max_record: int = MAX_RECORD
) -> Iterator[tuple[int, Any | InputError]]:
    """Yield (line where the value starts, from 1; the value, or why it has none) of a stream of JSON.

    A list at the top level gives its items; a list inside it is one value. Commas between values and the closing
    bracket may be missing or too many. NaN and Infinity, which pandas writes where nothing is, are null. Control
    characters inside strings are tolerated, a line end too unless the next line starts a record.

    A broken value is an InputError (unreadable_json, record_too_long). Behind one that starts with `{`, reading goes
    on at the next line that starts with `{`, indented no deeper; in a list also on the same line, where an object
    starts with the same key. Behind any other, on the next line. A stream that starts with neither `{` nor `[`
    and holds no object, such as an HTML page, is one error. White space only gives nothing.
    """
    window = _Window(stream, piece)
    if not window.find():
        return
    start, line = window.start(), window.line
    values = _values(window, max_record)
    if start[0] in "{[":
        yield from values
        return
    lead: list[tuple[int, Any | InputError]] = []
    if start[0] != "<":
        for item in values:
            lead.append(item)
            if isinstance(item[1], dict) or len(lead) > MAX_LEAD:
                break
    if lead and (isinstance(lead[-1][1], dict) or not isinstance(lead[0][1], InputError)):
        yield from lead
        yield from values
        return
    yield (
        line,
        InputError(
            "unreadable_json",
            f"The file is no JSON; it starts with {start!r}.",
            "Download or export it again.",
        ),
    )


def _values(window: "_Window", max_record: int) -> Iterator[tuple[int, Any | InputError]]:
    in_list = False
    while character := window.find():
        if character == "]" or (character == "[" and not in_list):
            in_list = character == "["
            window.advance(window.at + 1)
            continue
        line = window.line
        try:
            value = _value(window, max_record)
        except InputError as error:
            _skip(window, in_list)
            yield line, _with_cost(error, line, window)
        else:
            yield line, value


def _value(window: "_Window", max_record: int) -> Any:
    """The value at the window's place, which moves behind it. Raises InputError; the place then stays."""
    while True:
        text, at = window.text, window.at
        value: Any = None
        error: ValueError | RecursionError | None = None
        end = at
        try:
            value, end = _decode(text, at, window.margin)
            whole = isinstance(value, dict | list) or end < len(text) - _CUT
        except json.JSONDecodeError as failure:
            error, end = failure, failure.pos
            whole = failure.pos < len(text) - _CUT and not failure.msg.startswith("Unterminated string")
        except (ValueError, RecursionError) as failure:  # a number of thousands of digits; deep nesting
            error, whole = failure, True
        if max(end, at if whole else len(text)) - at > max_record:
            raise InputError(
                "record_too_long",
                f"The value that starts here does not end within {max_record:,} characters.",
                "Split it, or look for a bracket that is never closed.",
            )
        if not whole and not window.ended:
            window.grow()
            continue
        if error is not None:
            raise _unreadable(error, window)
        if not isinstance(value, dict | list) and text[end : end + 1].strip(",] \n\t\ufeff"):
            raise _unreadable(json.JSONDecodeError("Extra data", text, end), window)
        if text.count("[", at, end) + text.count("{", at, end) > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise _unreadable(RecursionError(f"nested deeper than {MAX_DEPTH} levels"), window)
        window.advance(end)
        return value


def _decode(text: str, at: int, margin: int) -> tuple[Any, int]:
    try:
        return _STRICT.raw_decode(text, at)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character"):
            raise
        following = _next_line(margin).search(text, at)
        if not following:
            return _LENIENT.raw_decode(text, at)
        try:
            value, end = _LENIENT.raw_decode(text[at : following.end()])
        except ValueError:
            raise error from None
        return value, at + end


def _skip(window: "_Window", in_list: bool) -> None:
    """Move from a broken value to where the next one may start."""
    text, at = window.text, window.at
    key = _FIRST_KEY.match(text, at)
    beside = _beside(key[1] if key else "")
    following = _next_line(window.margin) if text[at] == "{" else _NEWLINE
    on_first_line = in_list
    while True:
        window.ensure(4 * _LOOK_AHEAD)
        text, at = window.text, window.at
        found = None
        if on_first_line:
            newline = text.find("\n", at)
            found = beside.search(text, at, newline if newline >= 0 else len(text))
            on_first_line = newline < 0
        found = found or following.search(text, at)
        if found or window.ended:
            window.advance(found.end() if found else len(text))
            return
        window.advance(len(text) - _LOOK_AHEAD)


@lru_cache(maxsize=64)
def _next_line(margin: int) -> re.Pattern[str]:
    """The start of a line, indented at most `margin`, up to the `{` of a record: `{`, `, {`, `}, {`, `[{`."""
    return re.compile(rf"\n[ \t]{{0,{min(margin, 999)}}}(?:[\[\]}},][\[\]}}, \t]{{0,99}})?(?={{)")


@lru_cache(maxsize=64)
def _beside(key: str) -> re.Pattern[str]:
    """A comma or brace before an object whose first key is `key` as quoted in the file; any key for an empty one."""
    return re.compile(rf"[,}}][ \t]{{0,99}}(?={{[ \t]{{0,99}}{re.escape(key)})")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [below for item in level for below in (item.values() if isinstance(item, dict) else item)]
    return depth


def _unreadable(error: ValueError | RecursionError, window: "_Window") -> InputError:
    reason = str(error)
    if isinstance(error, json.JSONDecodeError):
        line = window.line + window.text.count("\n", window.at, error.pos)
        reason = f"{error.msg.removesuffix(' at').removesuffix(' starting')}, line {line}"
        if window.ended and error.pos >= len(window.text.rstrip()):
            reason += ", where the file ends"
    return InputError(
        "unreadable_json",
        f"The value that starts with {window.start()!r} is no JSON ({reason}).",
        "Put one record on each line, or all in one list, and look for a quotation mark or bracket not closed.",
    )


def _with_cost(error: InputError, line: int, window: "_Window") -> InputError:
    """The error, saying which further lines were left out with it."""
    last = "the end" if not window.text[window.at :] and window.ended else str(window.line - 1)
    if window.line - line < 2:
        return error
    return InputError(error.code, f"{error.message} Lines {line} to {last} were left out.", error.suggestion)


class _Window:
    """The part of a stream that is looked at, and the place in it.

    `text[at:]` lies ahead; `line` is the place's line from 1, and `margin` the number of characters that stand before
    the first word of that line: white space, opening brackets and commas. Every line end is made a `\\n`.
    """

    def __init__(self, stream: TextIO, piece: int) -> None:
        self.text, self.at, self.line, self.margin, self.ended = "", 0, 1, 0, False
        self._stream, self._piece = stream, piece
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True)
        self._in_margin = True

    def grow(self) -> bool:
        """Read on, about doubling what lies ahead; False where nothing is left."""
        if self.ended:
            return False
        piece = self._stream.read(max(self._piece, len(self.text) - self.at))
        self.ended = not piece
        self.text = self.text[self.at :] + self._newlines.decode(piece, final=self.ended)
        self.at = 0
        return True

    def start(self) -> str:
        """The next characters, to name what is there."""
        self.ensure(60)
        return self.text[self.at : self.at + 60]

    def ensure(self, ahead: int) -> None:
        """Read on until `ahead` characters lie ahead, or all there are."""
        while len(self.text) - self.at < ahead and self.grow():
            pass

    def advance(self, to: int) -> None:
        """Move the place to `text[to]`."""
        passed = self.text[self.at : to]
        self.at = to
        if lines := passed.count("\n"):
            self.line += lines
            passed = passed[passed.rindex("\n") + 1 :]
            self.margin, self._in_margin = 0, True
        if self._in_margin:
            margin = _MARGIN.match(passed)
            self.margin += margin.end() if margin else 0
            self._in_margin = margin is not None and margin.end() == len(passed)

    def find(self) -> str:
        """Move to the next value, over white space and commas. Its first character; empty at the end."""
        while True:
            gap = _GAP.match(self.text, self.at)
            self.advance(gap.end() if gap else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""
