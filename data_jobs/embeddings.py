"""A file of embeddings: Parquet by which one job's vectors reach another, with the name of the model that made them.

    kind "text"    key = text.text_key of the text
    kind "image"   key = `image_key` of the picture's path or address

`train_jobs.embed` writes it; `data_jobs.make_mismatches` reads it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_jobs import artefacts, files, text
from data_jobs.errors import InputError

Kind = Literal["text", "image"]
_MAKE = "Make one: python -m train_jobs.embed --model M --csv F --output E.parquet"


def schema(dimension: int, model_hash: str) -> pa.Schema:
    """The columns of a file of unit vectors [dimension]; the metadata says who made them."""
    return pa.schema(
        [
            pa.field("kind", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False),
        ],
        metadata={"model_hash": model_hash, "text_normalizer": text.VERSION},
    )


def image_key(path: str) -> str:
    """One name for one place, however a CSV writes the path to it."""
    return path if files.is_remote(path) else os.path.abspath(path)


@dataclass(frozen=True)
class Vectors:
    """Embeddings of one kind: `rows` float32 [N, D], unit norm, and where each key's row is."""

    kind: Kind
    place: dict[str, int]
    rows: NDArray[np.float32]

    def of(self, keys: Sequence[str], names: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(keys), D]. Raises InputError (missing_embeddings); `names` are for its message."""
        missing = [name for key, name in zip(keys, names, strict=True) if key not in self.place]
        if missing:
            raise InputError(
                "missing_embeddings",
                f"{len(missing)} of {len(keys)} {self.kind}s have no embedding in the file; the first is "
                f"{missing[0][:120]!r}.",
                "Embed this very CSV with python -m train_jobs.embed, and remove rows that it calls unusable.",
            )
        return self.rows[[self.place[key] for key in keys]]


@dataclass(frozen=True)
class Embeddings:
    """A file as read."""

    model_hash: str  # ModelSpec.model_hash of the encoder
    texts: Vectors
    images: Vectors

    @classmethod
    def read(cls, path: str | Path) -> "Embeddings":
        """Raises InputError (no_embeddings, normalizer_mismatch)."""
        try:
            table = pq.read_table(path)
            facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            dimension = table.schema.field("embedding").type.list_size
            expected = schema(dimension, facts["model_hash"])
        except (OSError, pa.ArrowInvalid, KeyError, AttributeError) as error:
            raise InputError("no_embeddings", f"{path} holds no embeddings ({error}).", _MAKE) from error
        if not table.schema.equals(expected):
            raise InputError("no_embeddings", f"{path} has the columns {table.schema.names}.", _MAKE)
        if facts.get("text_normalizer") != text.VERSION:
            raise InputError(
                "normalizer_mismatch",
                f"{path} was made with text normaliser {facts.get('text_normalizer')!r}; this is {text.VERSION!r}.",
                "Embed again with this release.",
            )
        return cls(facts["model_hash"], _vectors(table, "text"), _vectors(table, "image"))


class Writer:
    """Appends vectors to a file that is being written."""

    def __init__(self, parquet: pq.ParquetWriter) -> None:
        self._parquet = parquet

    def add(self, kind: Kind, keys: Sequence[str], rows: NDArray[np.float32]) -> None:
        """`rows` float32 [len(keys), D], unit norm."""
        columns = self._parquet.schema
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(rows.reshape(-1), pa.float32()), type=columns.field("embedding").type
        )
        kinds = pa.array([kind] * len(keys), pa.string())
        self._parquet.write_table(
            pa.Table.from_arrays([kinds, pa.array(keys, pa.string()), vectors], schema=columns)
        )


@contextmanager
def writing(path: Path, dimension: int, model_hash: str) -> Iterator[Writer]:
    """A file that appears whole at the end of the block, or not at all."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        artefacts.replacing(path) as aside,
        pq.ParquetWriter(aside, schema(dimension, model_hash), compression="zstd") as parquet,
    ):
        yield Writer(parquet)


def _vectors(table: pa.Table, kind: Kind) -> Vectors:
    chosen = table.filter(pc.field("kind") == kind)
    dimension = table.schema.field("embedding").type.list_size
    rows = np.concatenate(
        [np.empty(0, np.float32), *(chunk.flatten().to_numpy() for chunk in chosen["embedding"].chunks)]
    )
    place = {key: row for row, key in enumerate(chosen["key"].to_pylist())}
    return Vectors(kind, place, rows.reshape(-1, dimension))
