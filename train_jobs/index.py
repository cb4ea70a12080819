"""Index: one opened version of vectors + documents, searched; refuses another model's vectors.

What a version consists of is in index_version, how one is written in index_writing.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from data_jobs.errors import InputError
from train_jobs import index_kinds, index_version
from train_jobs.fields import Fields
from train_jobs.filters import Filter
from train_jobs.index_kinds import Modality, Selection, Vectors
from train_jobs.index_version import CURRENT as CURRENT
from train_jobs.index_version import MANIFEST as MANIFEST
from train_jobs.index_version import Manifest as Manifest
from train_jobs.index_version import Measured as Measured
from train_jobs.index_writing import TARGET_RECALL as TARGET_RECALL
from train_jobs.index_writing import Queries as Queries
from train_jobs.index_writing import finds_at as finds_at
from train_jobs.index_writing import write as write
from train_jobs.spec import ModelSpec

FILTERS_BYTES = 64 << 20
"""Of recent filters' selections that an index keeps: at a million rows some hundred."""
_OPPOSITE = 1e-3


@dataclass(frozen=True)
class Hit:
    """A document and its cosine to the query."""

    score: float
    document: dict[str, Any]


class Index:
    """One opened, read-only version, mapped from its files. Searches from several threads are safe."""

    def __init__(self, vectors: faiss.Index, documents: pa.Table, fields: Fields, manifest: Manifest) -> None:
        self._vectors = vectors
        self._documents = _Documents(documents)
        self._fields = fields
        self._selections = _Selections()
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, spec: ModelSpec | None = None) -> "Index":
        """Open the current version, check its checksums and, given `spec`, that its model made the vectors.

        Raises InputError: not_an_index, index_damaged, index_of_another_model.
        """
        version, manifest = index_version.current(Path(folder))
        return cls.load(version, manifest, None if spec is None else spec.model_hash)

    @classmethod
    def load(cls, version: Path, manifest: Manifest, model_hash: str | None = None) -> "Index":
        """As `open`, of a `version` and its `manifest` (index_version.current). Nothing is read of another model's."""
        if model_hash is not None:
            manifest.require(model_hash)
        index_version.verify(version, manifest)
        return cls(
            index_kinds.open_mapped(version / index_version.VECTORS),
            index_version.mapped(version / index_version.DOCUMENTS),
            Fields(index_version.mapped(version / index_version.FIELDS)),
            manifest,
        )

    def require(self, model_hash: str) -> None:
        """Raise InputError (index_of_another_model) unless the model of that ModelSpec.model_hash made it."""
        self.manifest.require(model_hash)

    def search(
        self,
        query: Vectors,
        top_k: int = 10,
        *,
        modality: Modality | None = "text",
        exact: bool = False,
        filter: Filter | None = None,
    ) -> list[Hit]:
        """The `top_k` documents of highest cosine to `query`, float32 [D] of unit norm, best first.

        `modality` says what the query was: each has its own settings, and one that was not measured is searched
        exactly. So is None: a mixed query, or an embedding of which nothing is known. `exact` compares with every
        vector whatever the kind, in time that grows with the rows. With `filter` these are the best of the
        documents that it passes, and fewer only if fewer do.

        Raises InputError (wrong_dimension, bad_top_k, bad_filter).
        """
        if query.shape != (self.manifest.dimension,):
            raise self._wrong_dimension(query)
        return self.search_batch(query[None], top_k, modality=modality, exact=exact, filter=filter)[0]

    def search_batch(
        self,
        queries: Vectors,
        top_k: int = 10,
        *,
        modality: Modality | None = "text",
        exact: bool = False,
        filter: Filter | None = None,
    ) -> list[list[Hit]]:
        """As `search`, for each of `queries` [Q, D]: less time than one by one, see index_kinds.set_up_batches."""
        if queries.shape[1:] != (self.manifest.dimension,):
            raise self._wrong_dimension(queries)
        if top_k < 1:
            raise InputError("bad_top_k", f"top_k is {top_k}.", "Use at least 1.")
        selection = self._selected(filter)
        passing = self.manifest.rows if selection is None else selection.rows
        if not passing:
            return [[] for _ in queries]
        with _one_thread():
            scores, rows = index_kinds.search(
                self._vectors,
                queries,
                min(top_k, passing),
                None if exact else self._settings(modality),
                None if passing == self.manifest.rows else selection,
            )
        return [
            [Hit(score, self._documents[row]) for score, row in zip(*best, strict=True)]
            for best in zip(scores.tolist(), rows.tolist(), strict=True)
        ]

    def searches_exactly(self, modality: Modality | None, filter: Filter | None = None) -> bool:
        """Whether such a search is exact without being asked to. Raises InputError (bad_filter)."""
        if self._settings(modality) is None:
            return True
        selection = self._selected(filter)
        return selection is not None and (selection.few is not None or not selection.rows)

    def documents(self) -> list[dict[str, Any]]:
        """All documents, in the order of their vectors."""
        return self._documents.all()

    def __len__(self) -> int:
        return self.manifest.rows

    def _settings(self, modality: Modality | None) -> dict[str, int] | None:
        return None if modality is None else self.manifest.measured[modality].settings

    def _selected(self, condition: Filter | None) -> Selection | None:
        if condition is None:
            return None
        kept = self._selections.get(condition)
        if kept is None:
            kept = Selection.of(self._fields.mask(condition))
            self._selections.put(condition, kept)
        return kept

    def _wrong_dimension(self, queries: Vectors) -> InputError:
        return InputError(
            "wrong_dimension",
            f"The query has shape {queries.shape}; the index holds vectors of {self.manifest.dimension}.",
            "Embed the query with the index's model.",
        )


def mixed_query(parts: Sequence[tuple[Vectors, float]]) -> Vectors:
    """The query, float32 [D] of unit norm, that is so much of each vector [D]; a negative weight: less like that.

    Search with it as of no modality (None), hence exactly: it is neither a text nor a picture, and neither's settings
    hold. With the more demanding of both, a graph that finds .99 of the 10 nearest to held-out texts found .88 of those
    to the mean of a text and a picture, and .77 to that of two texts; ivf-pq .97, .94 and .71 (60,000 x 64, clusters).

    Raises InputError (bad_mix, wrong_dimension).
    """
    if not parts:
        raise InputError(
            "bad_mix", "The query has no parts.", "Give at least one text, picture or embedding."
        )
    shapes = {vector.shape for vector, _ in parts}
    if len(shapes) > 1 or len(parts[0][0].shape) != 1:
        raise InputError(
            "wrong_dimension",
            f"The query's parts have the shapes {', '.join(map(str, sorted(shapes)))}.",
            "Embed all with one model.",
        )
    weights = np.array([weight for _, weight in parts], np.float64)
    if not np.isfinite(weights).all():
        raise InputError(
            "bad_mix",
            f"The query's weights are {weights.tolist()}.",
            "Give finite numbers, such as 1 and -0.5.",
        )
    total = weights @ np.stack([vector for vector, _ in parts])
    norm = float(np.linalg.norm(total))
    if not norm > _OPPOSITE * np.abs(weights).sum():
        raise InputError(
            "bad_mix",
            f"The query's parts cancel each other: with the weights {weights.tolist()} nothing is left of them.",
            "Give other weights, at least one of them not 0, or parts that differ.",
        )
    return (total / norm).astype(np.float32)


class _Documents:
    """A mapped table's rows one by one, value by value: a query's ten take 0.06 ms of 100,000.

    By Table.slice they took 0.25 ms, as long as the search by a graph, and by Table.take, which joins all batches
    first, 15 ms each of 300,000.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        batches = table.to_batches()
        self._batches = [list(zip(table.column_names, batch.columns, strict=True)) for batch in batches]
        self._ends = list(accumulate(batch.num_rows for batch in batches))

    def __getitem__(self, row: int) -> dict[str, Any]:
        number = bisect_right(self._ends, row)
        place = row - (self._ends[number - 1] if number else 0)
        return {name: column[place].as_py() for name, column in self._batches[number]}

    def all(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows


class _Selections:
    """What recent filters pass; the longest unused go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Filter, Selection] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, condition: Filter) -> Selection | None:
        with self._lock:
            if condition in self._kept:
                self._kept.move_to_end(condition)
            return self._kept.get(condition)

    def put(self, condition: Filter, selection: Selection) -> None:
        with self._lock:
            if condition in self._kept:  # another thread was first
                return
            self._kept[condition] = selection
            self._bytes += selection.size()
            while self._bytes > FILTERS_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].size()


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS in this thread on one core: a lone query gains nothing by more, and on busy cores loses much.

    200,000 x 128, Flat, two busy cores: 80 queries/s with one OpenMP thread, 10 with two.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
