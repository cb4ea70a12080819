"""A folder of pictures with `metadata.csv` or `metadata.jsonl`: the image folder convention of Hugging Face datasets.

`file_name` is relative to the metadata file; the description is in `text` or `caption`; without a `label` a
description is a match. Folders below may have metadata files of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_jobs import csvfile, files, pairs, persian_json
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Reject
from data_jobs.sources import Raw

METADATA = ("metadata.csv", "metadata.jsonl")
_PATH, _TEXTS = "file_name", ("text", "caption")


@dataclass(frozen=True)
class ImageFolder:
    """A Source."""

    name: str
    metadata: tuple[str, ...]
    needs_pairs = True

    @classmethod
    def open(cls, folder: str) -> "ImageFolder":
        """Find the metadata files. Raises InputError (missing_source, wrong_columns, unknown_protocol)."""
        files.known(folder)
        place = files.absolute(folder)
        if not files.is_folder(place):
            raise InputError("missing_source", f"There is no folder {folder}.", "Check the path.")
        found = [path for path in files.walk(place) if files.name(path).lower() in METADATA]
        if not found:
            raise InputError(
                "missing_source",
                f"There is no {' or '.join(METADATA)} in {folder} or below it.",
                f"Write one with the columns {_PATH},text beside the pictures.",
            )
        for path in found:
            if _is_csv(path):
                _open_table(path)
        return cls(folder, tuple(sorted(found)))

    def files(self) -> list[str]:
        return list(self.metadata)

    def raws(self, file: str) -> Iterator[Raw]:
        if _is_csv(file):
            table = _open_table(file)
            for remark in table.remarks:
                yield Raw(file, 1, Note(file, 1, remark), rows=0)
            values: Iterator[tuple[int, Any]] = csvfile.read_rows(table)
            for line, value in values:
                yield Raw(file, line, value)
        else:
            for line, value in persian_json.values(file):
                yield Raw(file, line, value)

    def items(self, raw: Raw) -> Iterator[Item]:
        if isinstance(raw.content, Note):
            yield raw.content
            return
        row = raw.content if isinstance(raw.content, InputError) else _row(raw.content)
        if isinstance(row, InputError):
            yield Reject.of(row, raw.file, raw.line)
        else:
            yield from pairs.items_of(raw.file, raw.line, row, files.parent(raw.file))


def _is_csv(path: str) -> bool:
    return files.name(path).lower().endswith(".csv")


def _open_table(path: str) -> csvfile.Table:
    first = None
    for text in _TEXTS:
        try:
            return csvfile.open_table(path, (_PATH, text))
        except InputError as error:
            first = first or error
    assert first is not None
    raise first


def _row(value: Any) -> dict[str, str] | InputError:
    """The cells of one metadata row, with the names and the label of a pair."""
    if not isinstance(value, dict):
        return InputError(
            "not_a_record", f"The line holds {str(value)[:80]!r}.", f'Write {{"{_PATH}": ..., "text": ...}}.'
        )
    cells = pairs.cells_of(value, _TEXTS)
    if isinstance(cells, InputError):
        return cells
    text = next((cells.pop(name) for name in _TEXTS if cells.get(name)), "")
    stated = {"image_path": cells.pop(_PATH, ""), "text": text, "label": cells.pop("label", "") or "1"}
    return cells | stated
