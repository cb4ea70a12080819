"""Candidates of a zero-shot test: class texts, and which of them are right for which picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_jobs import csvfile, textfile
from data_jobs.errors import InputError
from data_jobs.pairs import LABELS
from data_jobs.text import text_key

TABLES = (".csv", ".tsv")
MOST_CLASSES = 500
"""More distinct texts than this are descriptions, not classes, unless somebody names them as such."""


@dataclass(frozen=True)
class Matched:
    """Matching pairs, row by row."""

    pictures: Sequence[int]  # which picture
    texts: Sequence[str]
    groups: Sequence[str]  # what picture and text are of
    categories: Sequence[str]  # "" for none


@dataclass(frozen=True)
class Listed:
    """Class texts that somebody named; they may repeat."""

    path: Path
    texts: list[str]

    @classmethod
    def read(cls, path: Path) -> "Listed":
        """The column `text` of a CSV (or .tsv), of its matches where it has labels; of any other file the lines.

        Raises InputError: missing_source, no_classes, those of csvfile.open_table, and, with the line, what is wrong
        with a row (unreadable_text, bad_label and those of csvfile.read_rows): a class that is left out makes the test
        easier.
        """
        if path.suffix.lower() in TABLES:
            found = list(_of_table(path))
        elif path.is_file():
            found = list(_of_lines(path))
        else:
            raise InputError("missing_source", f"There is no file {path}.", "Check --classes.")
        if not found:
            raise InputError(
                "no_classes",
                f"{path} names no class.",
                "Write one text a line, or a CSV with the column text.",
            )
        return cls(path, found)


@dataclass(frozen=True)
class Classes:
    texts: list[str]
    right: dict[int, NDArray[np.int64]]  # picture -> rows of its classes, rising; of all pictures
    origin: str

    @classmethod
    def of(cls, matches: Matched, listed: Listed | None = None) -> "Classes | None":
        """The classes that are listed, else the distinct texts of the matches; None if those are too many.

        Right for a picture is a class that says what a text of its group says, or that names its category. Raises
        InputError (classes_fit_no_picture).
        """
        texts = matches.texts if listed is None else listed.texts
        of_key: dict[str, str] = {}
        for words in texts:
            of_key.setdefault(text_key(words), words)
        if listed is None and len(of_key) > MOST_CLASSES:
            return None
        number = {key: row for row, key in enumerate(of_key)}
        said: dict[str, set[int]] = {}  # by group
        for words, group in zip(matches.texts, matches.groups, strict=True):
            said.setdefault(group, set()).update(_row(number, words))
        right: dict[int, set[int]] = {}
        for picture, group, category in zip(
            matches.pictures, matches.groups, matches.categories, strict=True
        ):
            right.setdefault(picture, set()).update(said[group], _row(number, category))
        if listed is not None and not any(right.values()):
            raise InputError(
                "classes_fit_no_picture",
                f"None of the {len(of_key)} classes of {listed.path} is a text or a category of the data's matches.",
                "List the texts, or the names in the column category, that the pictures are labelled with.",
            )
        return cls(
            list(of_key.values()),
            {picture: np.array(sorted(rows), np.int64) for picture, rows in right.items()},
            "the distinct texts of the matches" if listed is None else str(listed.path),
        )


def _of_table(path: Path) -> Iterator[str]:
    table = csvfile.open_table(str(path), ("text",))
    for line, row in csvfile.read_rows(table):
        if isinstance(row, InputError):
            raise InputError(row.code, f"{path}:{line}: {row.message}", row.suggestion)
        if not (words := row.get("text", "")):
            continue
        label = row.get("label", "1")
        if label.lower() not in LABELS:
            raise InputError(
                "bad_label",
                f"{path}:{line}: the label is {label[:80]!r}; only the texts of matches are taken for classes.",
                "Write 1 or match, 0 or mismatch; or leave the column label out, and every text is a class.",
            )
        if LABELS[label.lower()] == 1:
            yield words


def _of_lines(path: Path) -> Iterator[str]:
    encoding = textfile.encoding_of(str(path))
    with textfile.opened(str(path), encoding) as lines:
        for number, line in enumerate(lines, 1):
            if textfile.is_damaged(line):
                raise InputError(
                    "unreadable_text",
                    f"{path}:{number}: the line holds bytes that are not {encoding.removesuffix('-sig')}: "
                    f"{textfile.readable(line.strip())!r}.",
                    "Type the damaged letters again, and save the file as UTF-8.",
                )
            if words := line.strip():
                yield words


def _row(number: dict[str, int], words: str) -> list[int]:
    row = number.get(text_key(words)) if words else None
    return [] if row is None else [row]
