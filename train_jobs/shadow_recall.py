"""ShadowRecall: of a share of the searches that are served, how much of the truth they found.

Recall was measured on held-out queries when the index was built; those that people send may lie elsewhere. A sampled
search is done again, exactly, by one thread in the background. Where it cannot keep up samples are dropped.
"""

import logging
import queue
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from train_jobs.filters import Filter
from train_jobs.index import Hit, Index
from train_jobs.index_kinds import AT, TIE, Modality, Vectors

RATE = 0.001
WAITING = 32
"""Samples that may wait: each holds a query and its hits."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shadowed:
    """What sampled searches of one modality found."""

    searches: int = 0
    wanted: int = 0  # the AT nearest of each, or as many as were asked for
    found: int = 0  # those that are as near as the last of the truth

    def __add__(self, other: "Shadowed") -> "Shadowed":
        return Shadowed(self.searches + other.searches, self.wanted + other.wanted, self.found + other.found)

    @property
    def recall(self) -> float | None:
        return self.found / self.wanted if self.wanted else None


@dataclass(frozen=True)
class Numbers:
    """All since the start; they only grow."""

    shadowed: Mapping[tuple[str, Modality], Shadowed]  # by version of the index, and modality
    dropped: int  # samples for which there was no time
    failed: int  # exact searches that raised; the log says what


@dataclass(frozen=True, eq=False)
class _Sample:
    index: Index
    query: Vectors
    hits: Sequence[Hit]
    modality: Modality
    filter: Filter | None


class ShadowRecall:
    """Samples searches. Any thread may offer one; it costs next to nothing."""

    def __init__(self, rate: float = RATE, *, waiting: int = WAITING) -> None:
        """`rate` is the share of searches to sample, 0 to 1."""
        self._rate = rate
        self._waiting: queue.Queue[_Sample | None] = queue.Queue(waiting)
        self._lock = threading.Lock()
        self._numbers = Numbers({}, 0, 0)
        self._thread = threading.Thread(target=self._work, name="shadow-recall", daemon=True)
        self._thread.start()

    def offer(
        self,
        index: Index,
        query: Vectors,
        hits: Sequence[Hit],
        *,
        modality: Modality | None,
        filter: Filter | None = None,
    ) -> None:
        """Tell of a search that was not asked to be exact: `query` float32 [D] and the `hits` that `index` gave.

        It never blocks. Searches that are exact anyway are not sampled.
        """
        if random.random() >= self._rate or not hits:
            return
        if modality is None or index.searches_exactly(modality, filter):
            return
        try:
            self._waiting.put_nowait(_Sample(index, query, hits, modality, filter))
        except queue.Full:
            self._count(dropped=1)

    def numbers(self) -> Numbers:
        return self._numbers

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (sample := self._waiting.get()) is not None:
            try:
                found = _compared(sample)
            except Exception:  # the thread must outlive it
                _log.exception("a shadow search failed")
                self._count(failed=1)
            else:
                self._count({(sample.index.manifest.version, sample.modality): found})

    def _count(
        self,
        found: Mapping[tuple[str, Modality], Shadowed] = MappingProxyType({}),
        *,
        dropped: int = 0,
        failed: int = 0,
    ) -> None:
        with self._lock:
            now = self._numbers
            added = {key: now.shadowed.get(key, Shadowed()) + one for key, one in found.items()}
            self._numbers = Numbers({**now.shadowed, **added}, now.dropped + dropped, now.failed + failed)


def _compared(sample: _Sample) -> Shadowed:
    hits = sample.hits[:AT]
    truth = sample.index.search(sample.query, len(hits), exact=True, filter=sample.filter)
    return Shadowed(1, len(hits), sum(hit.score >= truth[-1].score - TIE for hit in hits))
