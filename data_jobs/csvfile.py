"""Tables as people send them: any usual delimiter, encoding and line end, and rows that are broken.

A row is found again after a broken one: a quotation mark that is never closed costs its own line, not the file.
"""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from data_jobs import files, textfile
from data_jobs.errors import InputError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Tried in this order. Excel writes ; where the comma is the decimal sign, as in Persian and German."""
MAX_LINE = 1 << 20
"""Characters of one line that are looked at; a cell holds at most csv.field_size_limit(), 131,072."""

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """How to read one file: its column names in lower case, and the dialect told from its header."""

    path: str
    names: tuple[str, ...]
    encoding: str
    delimiter: str

    @property
    def remarks(self) -> list[str]:
        """What had to be guessed, as codes for the report."""
        encoding = [] if self.encoding == "utf-8-sig" else [f"read_as_{self.encoding.replace('-', '_')}"]
        delimiter = [] if self.delimiter == "," else [f"delimiter_{DELIMITERS[self.delimiter]}"]
        return encoding + delimiter


def open_table(path: str, required: Sequence[str]) -> Table:
    """Tell the dialect of `path`, and check that its header names the `required` columns once each.

    Raises InputError (missing_source, unknown_protocol, wrong_columns).
    """
    files.known(path)
    if not files.is_file(path):
        problem = "is a folder" if files.is_folder(path) else "does not exist"
        raise InputError("missing_source", f"The CSV file {path} {problem}.", "Check the path.")
    try:
        encoding = textfile.encoding_of(path)
    except files.FAILURES as error:
        raise InputError(
            "missing_source", f"The CSV file {path} cannot be read ({error}).", "Check that it is whole."
        ) from error
    tables = [Table(path, _names(path, encoding, delimiter), encoding, delimiter) for delimiter in DELIMITERS]
    for table in tables:
        if all(table.names.count(name) == 1 for name in required):
            return table
    found = list(max(tables, key=lambda table: sum(name in table.names for name in required)).names)
    missing = [name for name in required if name not in found]
    twice = [name for name in required if found.count(name) > 1]
    raise InputError(
        "wrong_columns",
        f"{path} has the columns {', '.join(name[:80] for name in found[:20]) or 'of an empty line'}; it "
        + (f"lacks {', '.join(missing)}." if missing else f"names {', '.join(twice)} twice."),
        f"Its first line must name {','.join(required)}.",
    )


def read_rows(table: Table) -> Iterator[tuple[int, Row | InputError]]:
    """(line where a row starts, its stripped cells by column, or why it has none); blank rows are left out."""
    with textfile.opened(table.path, table.encoding) as stream:
        rows = _rows(_Lines(stream), table.delimiter, len(table.names))
        next(rows, None)  # the header
        for line, cells in rows:
            yield line, cells if isinstance(cells, InputError) else _row(table, cells)


def _row(table: Table, cells: list[str]) -> Row | InputError:
    width = len(table.names)
    if any(cells[width:]):
        return InputError(
            "wrong_columns",
            f"The row has {len(cells)} cells; the header names {width}.",
            "Put a text that holds the delimiter into quotation marks.",
        )
    row = dict(zip(table.names, cells, strict=False))
    damaged = next((name for name, cell in row.items() if textfile.is_damaged(cell)), None)
    if damaged is not None:
        return InputError(
            "unreadable_text",
            f"The cell {damaged} holds bytes that are not {table.encoding.removesuffix('-sig')}: "
            f"{textfile.readable(row[damaged])!r}.",
            "Type the damaged letters again, and save the file as UTF-8.",
        )
    return row


def _names(path: str, encoding: str, delimiter: str) -> tuple[str, ...]:
    with textfile.opened(path, encoding) as stream:
        header = next(_rows(_Lines(stream), delimiter, None), (1, []))[1]
    names = [] if isinstance(header, InputError) else header
    return tuple(name.lower().encode(errors="replace").decode() for name in names)  # damaged letters are ?


class _Lines:
    """The lines of a file, of which the latest can be given back; `number` is that of the latest, from 1."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._returned: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line

    def keep_first(self) -> str:
        """Give all lines taken back but the first, which is returned."""
        first, *others = self.taken
        self._returned.extendleft(reversed(others))
        self.number -= len(others)
        return first

    def _read(self) -> str:
        """The next line; of one beyond MAX_LINE only the start."""
        line = piece = self._stream.readline(MAX_LINE)
        while piece and piece[-1] not in "\r\n":
            piece = self._stream.readline(MAX_LINE)
        return line


def _rows(lines: _Lines, delimiter: str, width: int | None) -> Iterator[tuple[int, list[str] | InputError]]:
    """(line where it starts, stripped cells or why there are none) of every row that is not blank.

    A row over several lines is believed only if it has `width` cells: else its first line opened a quotation by
    mistake, and is read alone. The line `sep=;`, by which Excel names the delimiter, is left out.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.taken.clear()
        try:
            cells = next(reader)
            doubtful = len(lines.taken) > 1 and width not in (None, len(cells))
        except StopIteration:
            return
        except csv.Error:
            cells, doubtful = [], True
        line = lines.number - len(lines.taken) + 1
        if doubtful:
            yield line, _one_line(lines.keep_first(), delimiter)
        elif any(cells := [cell.strip() for cell in cells]) and not (line == 1 and _names_delimiter(cells)):
            yield line, cells


def _one_line(line: str, delimiter: str) -> list[str] | InputError:
    """Read a line by itself, as kindly as the csv module can."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        return InputError(
            "unreadable_row", f"The row that starts here is no CSV ({error}).", "Shorten or repair the row."
        )
    if any("\n" in cell or "\r" in cell for cell in cells):
        return InputError(
            "unclosed_quote",
            f"A quotation mark is opened and never closed: {line.strip()[:80]!r}.",
            'Close it, or write "" for a quotation mark inside a quoted text.',
        )
    return [cell.strip() for cell in cells]


def _names_delimiter(cells: list[str]) -> bool:
    return cells[0].lower().startswith("sep=") and not any(cells[1:])
