"""Parquet of pairs: `image_path` or `image` (bytes, or Hugging Face's struct of bytes and path), `text`, `label`.

A dataset of ours is read as well, groups and metadata included: for another picture size, or to join several.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs import files, pairs, schema
from data_jobs.errors import InputError
from data_jobs.items import Item, Passage, Record, Reject
from data_jobs.sources import Raw

ROWS = 256
"""Rows of one raw: what a worker reads at once, with their pictures."""
_BUFFER = 1 << 20  # bytes of a column that are read ahead


@dataclass(frozen=True)
class ParquetPairs:
    """A Source. Relative image paths are below `base`, else below the file's folder."""

    name: str
    paths: tuple[str, ...]
    base: str | None
    needs_pairs = True

    @classmethod
    def open(cls, path: str, image_base_path: str | None = None) -> "ParquetPairs":
        """Find the files, and check the columns of the first that can be read.

        Raises InputError (missing_source, wrong_columns, unreadable_parquet, unknown_protocol).
        """
        files.known(path)
        place = files.absolute(path)
        found = [place] if files.is_file(place) else []
        if files.is_folder(place):
            found = _pairs_among(sorted(filter(_is_parquet, files.walk(place))))
        if not found:
            raise InputError("missing_source", f"There is no Parquet file at {path}.", "Check the path.")
        _check_first(found)
        base = None if image_base_path is None else files.absolute(image_base_path)
        return cls(path, tuple(found), base)

    def files(self) -> list[str]:
        return list(self.paths)

    def raws(self, file: str) -> Iterator[Raw]:
        try:
            parquet = _open(file)
            counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            _check_columns(file)
        except InputError as error:
            yield Raw(file, 1, error)
            return
        first = 1
        for group, count in enumerate(counts):
            for batch in range(-(-count // ROWS)):
                rows = min(ROWS, count - batch * ROWS)
                yield Raw(file, first + batch * ROWS, (group, batch), rows)
            first += count

    def items(self, raw: Raw) -> Iterator[Item]:
        if isinstance(raw.content, InputError):
            yield Reject.of(raw.content, raw.file, raw.line)
            return
        group, wanted = raw.content
        try:
            parquet = _open(raw.file)
            columns = _columns(parquet.schema_arrow)
            batches = parquet.iter_batches(batch_size=ROWS, row_groups=[group], columns=columns)
            rows = next(batch for number, batch in enumerate(batches) if number == wanted)
        except (*files.FAILURES, pa.ArrowException) as error:
            yield from (
                Reject.of(_unreadable(raw.file, error), raw.file, raw.line + i) for i in range(raw.rows)
            )
            return
        for i in range(rows.num_rows):
            yield from self._pair(raw.file, raw.line + i, rows.slice(i, 1))

    def _pair(self, file: str, line: int, row: pa.RecordBatch) -> Iterator[Item]:
        try:
            values = {name.lower(): value for name, value in row.to_pylist()[0].items()}
        except UnicodeDecodeError as error:
            refusal = InputError(
                "unreadable_text", f"A text of the row is not UTF-8: {error}.", "Write it again as UTF-8."
            )
            yield Reject.of(refusal, file, line)
            return
        if values.keys() >= set(schema.PAIRS.names):
            yield from _ours(values)
            return
        image = values.pop("image", None)
        picture = image if isinstance(image, dict) else {"path" if isinstance(image, str) else "bytes": image}
        values["image_path"] = values.get("image_path") or picture.get("path")
        cells, content = pairs.cells_of(values), picture.get("bytes")
        if not isinstance(content, bytes | None):
            cells = InputError(
                "not_an_image",
                f"The column image holds {str(content)[:80]!a}.",
                "Store the bytes of the picture's file, or its path.",
            )
        if isinstance(cells, InputError):
            yield Reject.of(cells, file, line)
        else:
            yield from pairs.items_of(file, line, cells, self.base or files.parent(file), image=content)


def _ours(row: dict[str, Any]) -> Iterator[Item]:
    metadata = json.loads(row["metadata"])
    if row["label"]:
        yield Passage(
            source=row["source"],
            line=row["line"],
            id=row["text_key"],
            group=row["text_group"],
            title=metadata.get("title", ""),
            text=row["text"],
            image_path=row["image_path"],
            metadata=metadata,
        )
    yield Record(
        source=row["source"],
        line=row["line"],
        image_path=row["image_path"],
        text=row["text"],
        label=row["label"],
        image_group=row["image_group"],
        text_group=row["text_group"],
        metadata=metadata,
        image=row["image"],
    )


def _is_parquet(path: str) -> bool:
    name = files.name(path)
    return name.endswith(".parquet") and not name.startswith(".")


def _pairs_among(found: list[str]) -> list[str]:
    """The files, but of datasets of ours only the pairs: neither docstore nor rejects."""
    ours = {files.parent(file) for file in found if files.name(file) == "docstore.parquet"}

    def is_beside(file: str) -> bool:
        folder = files.parent(file)
        return folder in ours or (files.parent(folder) in ours and files.name(folder) != "pairs")

    return [file for file in found if not is_beside(file)]


def _check_first(found: list[str]) -> None:
    """Check the columns of the first file that can be read; raise what is wrong with the first if none can."""
    first = None
    for file in found:
        try:
            return _check_columns(file)
        except InputError as error:
            if error.code != "unreadable_parquet":
                raise
            first = first or error
    if first:
        raise first


def _check_columns(file: str) -> None:
    """Raise InputError (unreadable_parquet, wrong_columns)."""
    names = {name.lower() for name in _open(file).schema_arrow.names}
    missing = [name for name in ("text", "label") if name not in names]
    if not names & {"image", "image_path"}:
        missing.insert(0, "image_path or image")
    if missing:
        raise InputError(
            "wrong_columns",
            f"{file} has the columns {', '.join(sorted(names)[:20])}; it lacks {', '.join(missing)}.",
            f"It needs {', '.join(pairs.COLUMNS)}; pictures may be in a column image instead.",
        )


def _columns(columns: pa.Schema) -> list[str]:
    """What to read of a file: not the bytes of other columns than `image`, which are no metadata."""
    return [field.name for field in columns if field.name.lower() == "image" or not _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def _open(file: str) -> pq.ParquetFile:
    """The file, kept open from one raw to the next. Raises InputError (unreadable_parquet, missing_source)."""
    return _opened(file, files.stamp(file))


@lru_cache(maxsize=4)
def _opened(file: str, stamp: str) -> pq.ParquetFile:
    """`stamp` changes when another file is written to the same place."""
    try:
        place = files.open_binary(file) if files.is_remote(file) else file
        # Without a buffer of its own, or with Arrow's, a reader takes a whole row group into memory.
        return pq.ParquetFile(place, buffer_size=_BUFFER, pre_buffer=False)
    except (*files.FAILURES, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: str, error: Exception) -> InputError:
    return InputError("unreadable_parquet", f"{file} cannot be read: {error}.", "Write or copy it again.")
