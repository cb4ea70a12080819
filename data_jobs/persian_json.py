"""Persian JSON: recipe or product records -> pairs and passages. Nothing is decoded here.

Reading has two steps, since one process reads raw values (`values`) and many parse them (`items`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_jobs import files, textfile
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Passage, Record, Reject
from data_jobs.json_values import read_values
from data_jobs.sources import Raw
from data_jobs.text import normalize, text_key

SUFFIXES = (".json", ".jsonl")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MAIN_NAMES = frozenset({"main", "dish", "cover", "final", "اصلی", "غذا", "نهایی", "تصویر اصلی", "عکس اصلی"})
"""Names of the photo that shows the dish itself, where it has neither the dish's name nor the folder's."""
_FIELDS = ("title", "response", "image_path", "folder_path")


@dataclass(frozen=True)
class PersianJson:
    """A Source: a folder of JSON files, or one of them."""

    name: str
    found: tuple[str, ...]
    needs_pairs = False

    @classmethod
    def open(cls, folder: str) -> "PersianJson":
        """Find the JSON files. Raises InputError (missing_source, unknown_protocol)."""
        return cls(folder, tuple(json_files(files.absolute(folder))))

    def files(self) -> list[str]:
        return list(self.found)

    def raws(self, file: str) -> Iterator[Raw]:
        return (Raw(file, line, value) for line, value in values(file))

    def items(self, raw: Raw) -> Iterator[Item]:
        return items(raw.file, raw.line, raw.content)


def json_files(folder: str) -> list[str]:
    """Every `*.json` and `*.jsonl` below `folder` at any depth, sorted; a single file as it is.

    Hidden files (`._dish.json`, which macOS puts into archives) are left out. Raises InputError (unknown_protocol,
    missing_source).
    """
    files.known(folder)
    if _is_visible(folder, SUFFIXES) and files.is_file(
        folder
    ):  # asked first: a web server's folders are files too
        return [folder]
    if not files.is_folder(folder):
        if files.is_file(folder):
            return [folder]
        if files.is_remote(folder):
            files.stamp(folder)  # raises, naming the reason
        raise InputError("missing_source", f"There is no folder or file {folder}.", "Check the path.")
    try:
        found = sorted(path for path in files.walk(folder) if _is_visible(path, SUFFIXES))
    except files.FAILURES as error:
        raise InputError(
            "missing_source", f"{folder} cannot be read ({error}).", "Check the path."
        ) from error
    if not found:
        raise InputError(
            "missing_source",
            f"There is no .json or .jsonl file in the folder {folder}, at any depth.",
            "Name the folder that holds the JSON files.",
        )
    return found


def values(path: str) -> Iterator[tuple[int, Any | InputError]]:
    """Yield (line from 1, raw value or why there is none) of a file in any usual encoding.

    A file that cannot be read, or only up to some line, gives an InputError (unreadable_json) there; one without any
    value an InputError (empty_file). See `json_values.read_values` for the shapes and the other codes.
    """
    line = 0
    try:
        with textfile.opened(path, textfile.encoding_of(path)) as stream:
            for line, value in read_values(stream):
                yield line, value
    except files.FAILURES as error:
        behind = f" behind line {line}" if line else ""
        yield (
            max(line, 1),
            InputError(
                "unreadable_json",
                f"{path} cannot be read{behind} ({error}).",
                "Check that the file is whole.",
            ),
        )
        return
    if not line:
        yield 1, InputError("empty_file", f"{path} holds no JSON value.", "Export it again, or remove it.")


def items(path: str, line: int, value: Any) -> Iterator[Item]:
    """Parse one raw value of `path`: its passage, then its pairs, and a Note or Rejects for what is amiss.

    An InputError instead of a value becomes its Reject.

    A record has `title`, `response` (the passage) and `image_path` or `folder_path`, relative to the file. With both,
    `image_path` is the photo. Of a folder, see `_main_photos`. A record without photos, or whose folder has
    none, still yields its passage, with a Note (no_photos). Its group is `group_id`, else its title, else its text.
    Codes: not_a_record, empty_text, bad_title, unreadable_text, bad_image_path, missing_image.
    """
    try:
        title, text, metadata = _texts(value)
    except InputError as error:
        yield Reject.of(error, path, line)
        return
    named = value.get("group_id")
    group = str(named) if named not in (None, "") else text_key(title or text)
    photos, refused = _photos(path, title, value)
    yield Passage(path, line, text_key(text), group, title, text, photos[0] if photos else None, metadata)
    if not photos and not refused:
        yield Note(path, line, "no_photos")
    for refusal in refused:
        yield Reject.of(refusal, path, line)
    for photo in photos:
        yield Record(path, line, photo, text, 1, group, group, {"title": title, **metadata})


def _texts(value: Any) -> tuple[str, str, dict[str, str]]:
    """The title, the passage and the other fields of a record. Raises InputError."""
    if isinstance(value, InputError):
        raise value
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number or truth value")
        raise InputError(
            "not_a_record",
            f"The value is {kind}, not an object: {str(value)[:80]!r}.",
            'A record is {"title": ..., "response": ..., "image_path" or "folder_path": ...}.',
        )
    title, text = (value.get(name) for name in ("title", "response"))
    if isinstance(title, int | float):
        title = str(title)
    if not isinstance(title, str | None):
        raise InputError(
            "bad_title", f"The title is {str(title)[:80]!r}, no text.", "Write the title as a string."
        )
    if not isinstance(text, str) or not text.strip():
        found = f"'response' is {str(text)[:80]!r}" if "response" in value else "there is no 'response'"
        raise InputError(
            "empty_text",
            f"The record has no text: {found}; its fields are {[name[:40] for name in list(value)[:10]]}.",
            "Write the passage into 'response' as a string.",
        )
    others = {name: cell for name, cell in value.items() if name not in _FIELDS and cell is not None}
    metadata = {
        name: cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
        for name, cell in others.items()
    }
    for name, cell in {"title": title or "", "response": text, **metadata}.items():
        if textfile.is_damaged(name + cell):
            raise InputError(
                "unreadable_text",
                f"The field {name!r} holds a damaged character or half a surrogate pair: {cell[:80]!r}.",
                "Export the text again as UTF-8, and cut texts between characters only.",
            )
    return (title or "").strip(), text.strip(), metadata


def _photos(path: str, title: str, value: dict[str, Any]) -> tuple[list[str], list[InputError]]:
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
    image, folder = value.get("image_path"), value.get("folder_path")
    base = files.parent(path)
    if image:
        found = [files.join(base, image)]
    elif folder:
        try:
            found = _main_photos(files.join(base, folder), title)
        except files.FAILURES as failure:
            error = InputError(
                "missing_image", f"The folder {folder!r} cannot be read ({failure}).", "Check the path."
            )
            return [], [error]
    else:
        found = []
    refused = [
        InputError("bad_image_path", f"The name of the photo {photo!a} is not UTF-8.", "Rename the file.")
        for photo in found
        if textfile.is_damaged(photo)
    ]
    return [photo for photo in found if not textfile.is_damaged(photo)], refused


def _main_photos(folder: str, title: str) -> list[str]:
    """The photos of the dish itself in its folder, sorted; none where there is no such folder.

    Where photos are named like the folder, like the title or by one of MAIN_NAMES, those are the dish, and the
    others are ingredients, which are no pictures of it. Else all are the dish.
    """
    photos = [path for path in files.listing(folder) if _is_visible(path, PHOTO_SUFFIXES)]
    names = {_folded(files.name(files.absolute(folder))), _folded(title)} - {""} | MAIN_NAMES
    main = [path for path in photos if _folded(files.name(path).rpartition(".")[0]) in names]
    return main or photos


def _folded(name: str) -> str:
    """A name as people write it in a text: `_`, `-` and ZWNJ are spaces, letter forms and case make no difference."""
    return normalize(name.replace("_", " ").replace("-", " "), "space").casefold()


def _is_visible(path: str, suffixes: tuple[str, ...]) -> bool:
    return files.name(path).lower().endswith(suffixes) and not files.name(path).startswith(".")
