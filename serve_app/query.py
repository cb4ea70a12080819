"""Query: what to look for in an index, and who looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from train_jobs.arrays import Embeddings
from train_jobs.index import Hit
from train_jobs.index_kinds import Modality

OTHER_MODEL = "index_of_another_model"
"""Code of the error for a query of a model that the index was not built with."""


@dataclass(frozen=True)
class Query:
    """What to look for."""

    parts: Sequence[tuple[Embeddings, float]]  # float32 [D], unit norm, and its weight
    modality: Modality | None  # None: of several, or unknown
    top_k: int
    filter: dict[str, Any] | None  # as train_jobs.filters.parse reads it
    exact: bool
    model_hash: str  # of the model that made the parts


@dataclass(frozen=True)
class IndexStatus:
    """An index as one replica has it."""

    version: str
    rows: int
    problem: str | None  # why a newer version is not in use


class Searcher(Protocol):
    """Has indexes by name; None is the first."""

    async def status(self) -> dict[str, IndexStatus]:
        """What is being searched, by name."""

    async def search(self, name: str | None, query: Query) -> tuple[list[Hit], str]:
        """The best documents, and the version of the index. Raises InputError."""
