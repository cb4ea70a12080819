"""What benchmarks.serve holds the servers to: the same backend called in-process. No HTTP, no queue, no hop.

`throughput` is the bound: one process a core, each decoding its JPEG files and embedding them in perfect batches on
one thread, so that no core ever waits for another. (One process with a thread for each core comes to less, since
its threads wait for each other at the end of every layer.)

`bare_call` is what one request costs alone: its JPEG decoded, its picture and its text embedded, on all cores.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np

from benchmarks.serve_load import Kind, text, unique
from serve_app import wire
from train_jobs.backends import Backend, open_backend

BATCH = 16
"""As many as are under way in the closed loop that is judged."""
Work = tuple[Kind, Path]
"""What is embedded, and the folder of the photos."""


def throughput(model: Path, backend: str, works: Sequence[Work], seconds: float) -> list[float]:
    """Items a second of each work in turn, over all cores."""
    count = os.cpu_count() or 1
    with _spawned(count) as (pool, together):
        started = [
            pool.submit(_worker, model, backend, works, seconds, number, together) for number in range(count)
        ]
        return [sum(rates) for rates in zip(*(future.result() for future in started), strict=True)]


def bare_call(model: Path, backend: str, folders: Sequence[Path], seconds: float) -> list[float]:
    """Median seconds of an analysis alone, for the photos of each folder."""
    with _spawned(1) as (pool, _):
        return pool.submit(_alone, model, backend, folders, seconds).result()


class _spawned:  # noqa: N801
    """A pool of fresh processes and a barrier for them."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._manager = context.Manager()
        self._pool, self._barrier = ProcessPoolExecutor(count, context), self._manager.Barrier(count)

    def __enter__(self) -> tuple[ProcessPoolExecutor, Barrier]:
        return self._pool, self._barrier

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown()
        self._manager.shutdown()


def _worker(
    model: Path, backend: str, works: Sequence[Work], seconds: float, number: int, together: Barrier
) -> list[float]:
    opened = open_backend(model, backend, "cpu", threads=1)
    rates = []
    for kind, folder in works:
        photos = _photos(kind, folder)
        first = number * 1_000_000
        _batch(opened, kind, photos, first)  # warm
        together.wait()
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            first += BATCH
            _batch(opened, kind, photos, first)
            done += BATCH
        rates.append(done / (time.perf_counter() - started))
    return rates


def _alone(model: Path, backend: str, folders: Sequence[Path], seconds: float) -> list[float]:
    opened = open_backend(model, backend, "cpu", threads=os.cpu_count())
    medians = []
    for folder in folders:
        photos, spent = _photos("analyze", folder), []
        _batch(opened, "analyze", photos, 0, count=1)
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            _batch(opened, "analyze", photos, len(spent) + 1, count=1)
            spent.append(time.perf_counter() - started)
        medians.append(statistics.median(spent))
    return medians


def _photos(kind: Kind, folder: Path) -> list[bytes]:
    return [] if kind == "texts" else [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


def _batch(backend: Backend, kind: Kind, photos: list[bytes], first: int, count: int = BATCH) -> None:
    numbers = range(first, first + count)
    if kind != "texts":
        files = [unique(photos[number % len(photos)], number) for number in numbers]
        images = backend.images(np.stack([wire.pixels(file, backend.spec) for file in files]))
    if kind != "images":
        words = backend.texts([text(number) for number in numbers])
    if kind == "analyze":
        np.einsum("nd,nd->n", images, words)
