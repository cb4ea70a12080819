"""One reader a raw format -> records, passages and rejects. Nothing is decoded here.

A reader is a generator: it holds one record at a time, and one broken line becomes one `Reject`, never an
exception. Only a source that cannot be read at all raises InputError.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_jobs.errors import InputError
from data_jobs.text import text_key

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
LABELS = {"1": 1, "0": 0, "match": 1, "mismatch": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}
COLUMNS = ("image_path", "text", "label")


@dataclass(frozen=True)
class Record:
    """A picture-text pair as a source states it. `line` counts from 1; groups as in schema.PAIRS."""

    source: str
    line: int
    image_path: str
    text: str
    label: int
    image_group: str | None
    text_group: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Passage:
    """A text that belongs in the docstore, with or without photos."""

    source: str
    line: int
    id: str
    group: str
    title: str
    text: str
    image_path: str | None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """An input that was refused: where it is, why, and what to do."""

    source: str
    line: int
    image_path: str | None
    code: str
    message: str
    suggestion: str

    @classmethod
    def of(cls, error: InputError, source: str, line: int, image_path: str | None = None) -> "Reject":
        return cls(source, line, image_path, error.code, error.message, error.suggestion)


@dataclass(frozen=True)
class Note:
    """Something worth counting that loses nothing, such as a recipe without photos."""

    source: str
    line: int
    code: str


Item = Record | Passage | Reject | Note


def read_csv(path: str | Path, image_base_path: str | Path | None = None) -> Iterator[Item]:
    """Read `image_path,text,label` pairs; other columns become metadata.

    Relative image paths are below `image_base_path`, else below the CSV's folder. A `group_id` column names
    what the picture shows (and, on a match, what the text describes); without it equal texts form a group.
    Each distinct matching text is also a `Passage`. Of a row that spans lines, `line` is the first.

    Raises InputError (missing_source, wrong_columns, unreadable_text) when the file as a whole is unusable.
    """
    path = Path(path)
    base = Path(image_base_path) if image_base_path is not None else path.parent
    if not path.is_file():
        raise InputError("missing_source", f"There is no CSV file {path}.", "Check the path.")
    source = str(path)
    seen: set[str] = set()
    with path.open(encoding=_encoding(path), newline="") as stream:
        rows = _csv_rows(stream)
        _, header = next(rows, (1, []))
        names = [] if isinstance(header, InputError) else [name.strip().lower() for name in header]
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise InputError(
                "wrong_columns",
                f"{path} has the columns {names}, and lacks {missing}.",
                f"Its first line must name {','.join(COLUMNS)}.",
            )
        for line, cells in rows:
            if isinstance(cells, InputError):
                yield Reject.of(cells, source, line)
                continue
            item = _csv_record(source, line, dict(zip(names, cells, strict=False)), base)
            yield item
            if isinstance(item, Record) and item.label == 1:
                key = text_key(item.text)
                if key not in seen:
                    seen.add(key)
                    yield Passage(
                        source, line, key, item.text_group, item.metadata.get("title", ""),
                        item.text, item.image_path, item.metadata,
                    )  # fmt: skip


def persian_json_files(folder: str | Path) -> list[Path]:
    """Every `*.json` and `*.jsonl` under `folder`, sorted. Raises InputError (missing_source) if none."""
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl") and p.is_file())
    if not files:
        raise InputError("missing_source", f"There is no .json file under {folder}.", "Check the folder.")
    return files


def read_persian_json(path: str | Path) -> Iterator[Item]:
    """Read one file of recipe or product records: a list, one record, or JSON lines.

    A record has `title`, `response` (the passage) and `image_path` or `folder_path`, relative to the file.
    In a folder with a photo named like the folder, that one is the dish and the others are ingredients, which
    are no pictures of the dish and so make no pairs; else all photos are of the dish. A record without photos,
    or whose folder has none, still yields its passage, with a `Note`.
    """
    path = Path(path)
    for line, value in _json_values(path):
        if isinstance(value, InputError):
            yield Reject.of(value, str(path), line)
        elif not _is_unicode(json.dumps(value, ensure_ascii=False)):
            error = InputError(
                "unreadable_text",
                f"The record holds half a surrogate pair: {ascii(value)[:80]}.",
                "Cut texts between characters, not between UTF-16 code units.",
            )
            yield Reject.of(error, str(path), line)
        else:
            yield from _persian_record(path, line, value)


def _csv_rows(stream: Iterable[str]) -> Iterator[tuple[int, list[str] | InputError]]:
    """(line where the row starts, its cells or why it has none) of every row that is not blank."""
    reader = csv.reader(stream)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield (
                line,
                InputError(
                    "unreadable_row",
                    f"The row that starts here is no CSV ({error}).",
                    "Look for a quotation mark that is never closed.",
                ),
            )
        else:
            if cells:
                yield line, cells


def _csv_record(source: str, line: int, row: dict[str, str], base: Path) -> Record | Reject:
    image, text, label = (row.get(name, "").strip() for name in COLUMNS)
    if not image:
        return Reject.of(
            InputError("missing_value", "The column image_path is empty.", "Name the picture."),
            source, line,
        )  # fmt: skip
    if not text:
        return Reject.of(
            InputError("empty_text", "The column text is empty.", "Describe the picture."),
            source, line, image,
        )  # fmt: skip
    if label.lower() not in LABELS:
        return Reject.of(
            InputError(
                "bad_label", f"The label is {label!r}.", "Write 1 or match, 0 or mismatch."
            ),
            source, line, image,
        )  # fmt: skip
    value = LABELS[label.lower()]
    group = row.get("group_id", "").strip()
    key = text_key(text)
    extra = {
        name: cell.strip() for name, cell in row.items() if name and name not in COLUMNS and cell.strip()
    }
    return Record(
        source=source,
        line=line,
        image_path=str(base / image),
        text=text,
        label=value,
        image_group=(group or key) if value else (group or None),
        text_group=(group or key) if value else key,
        metadata=extra,
    )


def _persian_record(path: Path, line: int, value: Any) -> Iterator[Item]:
    source = str(path)
    title, text = (
        (value.get(name) or "" if isinstance(value, dict) else "") for name in ("title", "response")
    )
    if not isinstance(title, str) or not isinstance(text, str) or not text.strip():
        error = InputError(
            "empty_text",
            f"The record has no text in 'response': {str(value)[:80]!r}.",
            "A record needs title, response and image_path or folder_path.",
        )
        yield Reject.of(error, source, line)
        return
    named = value.get("group_id")
    group = str(named) if named not in (None, "") else text_key(title.strip() or text)
    metadata = {
        name: str(cell)
        for name, cell in value.items()
        if name not in ("title", "response", "image_path", "folder_path") and cell is not None
    }
    photos, refused = _photos(path.parent, value)
    yield Passage(
        source, line, text_key(text), group, title.strip(), text.strip(),
        photos[0] if photos else None, metadata,
    )  # fmt: skip
    if not photos and not refused:
        yield Note(source, line, "no_photos")
    for error in refused:
        yield Reject.of(error, source, line)
    for photo in photos:
        yield Record(source, line, photo, text.strip(), 1, group, group, {"title": title.strip(), **metadata})


def _photos(base: Path, value: dict[str, Any]) -> tuple[list[str], list[InputError]]:
    """The photos of a record, and why others of it cannot be used."""
    for name in ("image_path", "folder_path"):
        place = value.get(name)
        if place is not None and not isinstance(place, str):
            error = InputError(
                "bad_image_path",
                f"The record's {name} is {str(place)[:80]!r}, which is not one path.",
                "Write one path as a string; several photos go in one folder_path.",
            )
            return [], [error]
    image = value.get("image_path")
    found = [str(base / image)] if image else _main_photos(base, value.get("folder_path"))
    refused = [
        InputError(
            "bad_image_path",
            f"The name of the photo {photo!a} is not UTF-8.",
            "Rename the file.",
        )
        for photo in found
        if not _is_unicode(photo)
    ]
    return [photo for photo in found if _is_unicode(photo)], refused


def _main_photos(base: Path, folder: str | None) -> list[str]:
    """The photos of the dish itself, sorted, of a record's `folder_path`."""
    if not folder or not (base / folder).is_dir():
        return []
    root = base / folder
    photos = sorted(p for p in root.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
    named = text_key(root.resolve().name.replace("_", " "))
    main = [p for p in photos if text_key(p.stem.replace("_", " ")) == named]
    return [str(p) for p in main or photos]


def _json_values(path: Path) -> Iterable[tuple[int, Any]]:
    """(record or line number from 1, value or InputError) of a list, one record, or JSON lines."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [(1, InputError("unreadable_json", f"{path}: {error}.", "Save the file as UTF-8 JSON."))]
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):  # ValueError: not JSON, or a number of thousands of digits
        return _json_lines(path, content)
    return enumerate(whole, 1) if isinstance(whole, list) else [(1, whole)]


def _json_lines(path: Path, content: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield (
                number,
                InputError(
                    "unreadable_json",
                    f"{path.name} is neither one JSON value nor JSON lines: {error}.",
                    "Put one record on each line, or all in one list.",
                ),
            )


def _encoding(path: Path) -> str:
    """UTF-8 with or without BOM, UTF-16 with BOM, else the Windows code page that fits the bytes."""
    with path.open("rb") as raw:
        utf_16 = raw.read(2) in (b"\xff\xfe", b"\xfe\xff")
    # cp1256 is Windows' Arabic and Persian code page; every byte means something in it.
    for encoding in ("utf-16",) if utf_16 else ("utf-8-sig", "cp1256"):
        with path.open(encoding=encoding, newline="") as stream:
            try:
                while stream.read(1 << 20):  # by pieces, since the file may be larger than the memory
                    pass
            except UnicodeDecodeError:
                continue
            return encoding
    raise InputError("unreadable_text", f"{path} starts as UTF-16 text and is damaged.", "Save it as UTF-8.")


def _is_unicode(text: str) -> bool:
    """Whether `text` can be written: half a surrogate pair, or a file name in another encoding, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
