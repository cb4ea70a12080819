"""Candidates of a zero-shot test: class texts, and which of them are right for which picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_jobs import csvfile, textfile
from data_jobs.errors import InputError
from data_jobs.pairs import LABELS
from data_jobs.text import text_key

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
class Classes:
    texts: list[str]
    right: dict[int, NDArray[np.int64]]  # picture -> rows of its classes, rising; of all pictures
    origin: str

    @classmethod
    def of(cls, matches: Matched, path: Path | None = None) -> "Classes | None":
        """The classes that `path` lists, else the distinct texts of the matches; None if those are too many.

        Right for a picture is a class that says what a text of its group says, or that names its category. Raises
        InputError: classes_fit_no_picture, and those of `read`.
        """
        texts = list(matches.texts) if path is None else read(path)
        of_key: dict[str, str] = {}
        for words in texts:
            of_key.setdefault(text_key(words), words)
        if path is None and len(of_key) > MOST_CLASSES:
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
        if not any(right.values()):
            raise InputError(
                "classes_fit_no_picture",
                f"None of the {len(of_key)} classes of {path} is a text or a category of the data's matches.",
                "List the texts, or the names in the column category, that the pictures are labelled with.",
            )
        return cls(
            list(of_key.values()),
            {picture: np.array(sorted(rows), np.int64) for picture, rows in right.items()},
            "the distinct texts of the matches" if path is None else str(path),
        )


def read(path: Path) -> list[str]:
    """The column `text` of a CSV, of its matches where it has labels; of any other file the lines. May repeat.

    Raises InputError: missing_source, no_classes, and those of csvfile.open_table.
    """
    if path.suffix.lower() == ".csv":
        table = csvfile.open_table(str(path), ("text",))
        rows = [row for _, row in csvfile.read_rows(table) if not isinstance(row, InputError)]
        found = [row.get("text", "") for row in rows if LABELS.get(row.get("label", "1").lower()) == 1]
    elif path.is_file():
        with textfile.opened(str(path), textfile.encoding_of(str(path))) as lines:
            found = [line.strip() for line in lines]
    else:
        raise InputError("missing_source", f"There is no file {path}.", "Check --classes.")
    if not any(found):
        raise InputError(
            "no_classes", f"{path} names no class.", "Write one text a line, or a CSV with the column text."
        )
    return [words for words in found if words]


def _row(number: dict[str, int], words: str) -> list[int]:
    row = number.get(text_key(words)) if words else None
    return [] if row is None else [row]
