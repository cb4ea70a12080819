"""A row of named cells -> the pair that it states, or a named reject. CSV, image folders and Parquet meet here."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_jobs import files, textfile
from data_jobs.errors import InputError
from data_jobs.items import Passage, Record, Reject
from data_jobs.text import text_key

COLUMNS = ("image_path", "text", "label")
LABELS = {"1": 1, "0": 0, "match": 1, "mismatch": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}


def items_of(
    source: str, line: int, row: Mapping[str, str], base: str, *, image: bytes | None = None
) -> Iterator[Record | Passage | Reject]:
    """The pair of one row, and, if it is a match, its text as a passage.

    `row` holds stripped cells by lower-case column name: COLUMNS, a `group_id` that names what the picture shows
    (and, on a match, what the text describes; without it equal texts form a group), and others, which become
    metadata. Relative image paths are below `base`; `image` holds the picture where the source has it itself.
    """
    path, text, label = (row.get(name, "") for name in COLUMNS)
    error = _problem(row, has_image=image is not None)
    if error is not None:
        yield Reject.of(error, source, line, files.join(base, path) if path else None)
        return
    value = LABELS[label.lower()]
    group = row.get("group_id", "")
    key = text_key(text)
    metadata = {name: cell for name, cell in row.items() if name and name not in COLUMNS and cell}
    place = files.join(base, path) if path else f"{source}#{line}"
    text_group = (group or key) if value else key
    image_group = (group or key) if value else (group or None)
    yield Record(source, line, place, text, value, image_group, text_group, metadata, image)
    if value:
        yield Passage(source, line, key, text_group, metadata.get("title", ""), text, place, metadata)


def cells_of(values: Mapping[str, Any], texts: Sequence[str] = ("text",)) -> dict[str, str] | InputError:
    """The cells of a row of a typed format (JSON, Parquet), or why they cannot be used.

    Null and NaN are empty, lists and objects are JSON; the columns `texts` may hold neither. Codes: bad_text,
    unreadable_text.
    """
    cells: dict[str, str] = {}
    for column, value in values.items():
        name, cell = column.strip().lower(), _cell(value)
        if name in texts and isinstance(value, list | dict):
            return InputError(
                "bad_text",
                f"The column {name} holds {cell[:80]!a}, which is not one text.",
                "Write one row for each text.",
            )
        if textfile.is_damaged(name + cell):
            return InputError(
                "unreadable_text",
                f"The column {name[:80]!a} holds damaged letters: {cell[:80]!a}.",
                "Write them again, as UTF-8.",
            )
        cells[name] = cell
    return cells


def _cell(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value != value else str(value).strip()


def _problem(row: Mapping[str, str], *, has_image: bool) -> InputError | None:
    missing = [name for name in COLUMNS if name not in row and not (has_image and name == "image_path")]
    if missing:
        return InputError(
            "wrong_columns",
            f"The row ends after {len(row)} cells and lacks {', '.join(missing)}.",
            f"Give every row {','.join(COLUMNS)}.",
        )
    if not has_image and not row["image_path"]:
        return InputError("missing_value", "The column image_path is empty.", "Name the picture.")
    if not row["text"]:
        return InputError("empty_text", "The column text is empty.", "Describe the picture.")
    if row["label"].lower() not in LABELS:
        return InputError(
            "bad_label", f"The label is {row['label'][:80]!r}.", "Write 1 or match, 0 or mismatch."
        )
    return None
