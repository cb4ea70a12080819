"""Fields: what documents can be filtered by, as columns that are written with an index and mapped by who searches it.

A file has a column for each field, of the type list<struct<text, number>>, a list a document: id, food_id, title and
the paths of metadata; see filters. They are taken out of the metadata's JSON when the index is built: a server would
stop for seconds to do it, and each process would hold a copy of its own.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_jobs.errors import InputError
from train_jobs.filters import MAX_TEXT, AllOf, AnyOf, Exists, Filter, Not, OneOf, Range

COLUMNS = ("id", "food_id", "title")
MAX_FIELDS = 1000
"""Of metadata: where keys are data themselves, as in {"by_day": {"2026-01-31": 3}}, the most common are kept."""

_METADATA = "metadata."
_TYPE = pa.list_(pa.struct([("text", pa.string()), ("number", pa.float64())]))
_KEPT = MAX_TEXT + 1
"""Characters of a text: one more than a filter may give, so that comparing these is comparing the whole."""
_ROWS_PER_BATCH = 1 << 14
_NUMBER = re.compile(r"[+-]?(\d+([.٫]\d*)?|[.٫]\d+)([eE][+-]?\d+)?")  # \d: the digits of every script
_COMPARE = {"gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal}
_SHOWN = 30

Value = tuple[str, float | None]
"""What a value is as a text, and as a number where it is one."""


def write(documents: pa.Table, path: Path) -> None:
    """Write the fields of `documents` (schema.DOCSTORE), row by row. Memory does not grow with the rows."""
    seen = Counter(name for batch in _batches(documents) for row in batch for name in row)
    found = [name for name, _ in seen.most_common() if name not in COLUMNS][:MAX_FIELDS]
    schema = pa.schema([(name, _TYPE) for name in (*COLUMNS, *sorted(found))])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as stream:
        for batch in _batches(documents):
            columns = [_column([row.get(name, []) for row in batch]) for name in schema.names]
            stream.write_batch(pa.record_batch(columns, schema=schema))


class Fields:
    """The fields of all documents of an index. Several threads may evaluate filters."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.names: tuple[str, ...] = tuple(table.column_names)

    def mask(self, condition: Filter) -> NDArray[np.bool_]:
        """[N] true for the documents that `condition` passes.

        Raises InputError (bad_filter) for a field that no document has: that is a typing error, and an answer
        without hits would hide it.
        """
        match condition:
            case AllOf(parts):
                return np.logical_and.reduce([self.mask(part) for part in parts])
            case AnyOf(parts):
                return np.logical_or.reduce([self.mask(part) for part in parts])
            case Not(part):
                return ~self.mask(part)
            case _:
                return self._having(condition)

    def _having(self, condition: OneOf | Range | Exists) -> NDArray[np.bool_]:
        """Documents with a value that fits."""
        mask = np.zeros(self._table.num_rows, bool)
        start = 0
        for chunk in self._table[self._name(condition.field)].chunks:
            if isinstance(condition, Exists):
                rows = pc.list_parent_indices(chunk)
            else:
                rows = pc.filter(pc.list_parent_indices(chunk), _fits(chunk.flatten(), condition))
            mask[start + rows.to_numpy()] = True
            start += len(chunk)
        return mask

    def _name(self, field: str) -> str:
        inner = field.removeprefix(_METADATA)
        for name in (field, inner) if inner not in COLUMNS else (field,):
            if name in self.names:
                return name
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        raise InputError(
            "bad_filter",
            f"No document has the field {field!r}.",
            f"The fields are {', '.join(self.names[:_SHOWN])}{more}.",
        )


def values(document: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of each field of a `document` (a row of schema.DOCSTORE): texts, numbers, true and false.

    >>> values({"id": "d1", "food_id": "g", "title": "Soup", "metadata": '{"size": {"w": 3}, "tags": ["a", "b"]}'})
    {'id': ['d1'], 'food_id': ['g'], 'title': ['Soup'], 'size.w': [3], 'tags': ['a', 'b']}
    """
    found: dict[str, list[Any]] = {name: [document[name]] for name in COLUMNS}
    for path, value in _leaves(json.loads(document["metadata"]), ""):
        found.setdefault(_METADATA + path if path in COLUMNS else path, []).append(value)
    return found


def read(value: Any) -> Value:
    """How filters see a value.

    >>> read("4.50"), read(4.5), read("kg"), read(True)
    (('4.50', 4.5), ('4.5', 4.5), ('kg', None), ('true', None))
    """
    if not isinstance(value, str):
        text = json.dumps(value)
        number = None if isinstance(value, bool) else _finite(value)
        return text, number
    stripped = value.strip()
    number = _finite(stripped.replace("٫", ".")) if _NUMBER.fullmatch(stripped) else None
    return value, number


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif value is not None:
        yield path, value


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number + 0.0 if math.isfinite(number) else None  # -0 becomes 0: Arrow tells them apart


def _column(rows: list[list[Any]]) -> pa.ListArray:
    """A field's values of each document, as they are written."""
    seen = [read(value) for row in rows for value in row]
    texts = pa.array([text[:_KEPT] for text, _ in seen], pa.string())
    numbers = pa.array([number for _, number in seen], pa.float64())
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.StructArray.from_arrays([texts, numbers], fields=list(_TYPE.value_type)),
        type=_TYPE,
    )


def _fits(values: pa.StructArray, condition: OneOf | Range) -> pa.BooleanArray:
    """Which values are right; a value that is no number fits no number."""
    texts, numbers = values.field("text"), values.field("number")
    if isinstance(condition, OneOf):
        return pc.or_(
            pc.is_in(texts, pa.array(condition.texts, pa.string())),
            pc.is_in(numbers, pa.array(condition.numbers, pa.float64())),
        )
    passed = pa.array(np.ones(len(values), bool))
    for name, bound in condition.bounds():
        side = texts if isinstance(bound, str) else numbers
        passed = pc.and_(passed, pc.fill_null(_COMPARE[name](side, bound), False))
    return passed


def _batches(documents: pa.Table) -> Iterator[list[dict[str, list[Any]]]]:
    for batch in documents.select([*COLUMNS, "metadata"]).to_batches(max_chunksize=_ROWS_PER_BATCH):
        yield [values(document) for document in batch.to_pylist()]
