"""A model and a source -> a version of an index, embedded by Ray tasks. How the verbs that make an index do it.

`build_index` and `finetune --build-index` share this module; like `data_jobs.stream` it is a library that knows Ray.
What travels to a task is texts, or the names of pictures; back come vectors. The driver holds those once, and a
few tasks' worth more.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import ray

from data_jobs import progress
from data_jobs.session import placed
from train_jobs import index
from train_jobs.arrays import Embeddings
from train_jobs.encoder import loaded
from train_jobs.hub import local_folder, weights_sha256
from train_jobs.index import TARGET_RECALL, Manifest, Queries
from train_jobs.index_kinds import Kind, Modality
from train_jobs.index_sources import Asked, Source, Things
from train_jobs.spec import ModelSpec

AHEAD = 2
"""Tasks a CPU that are started before the first one's vectors are taken."""


def build(
    source: Source,
    model: str | Path,
    output_dir: str | Path,
    *,
    device: str = "auto",
    kind: Kind | Literal["auto"] = "auto",
    target_recall: float = TARGET_RECALL,
) -> Manifest:
    """Embed `source` with `model` (a directory or hub name) and write it as the next version of `output_dir`.

    Needs a connected Ray, and paths that its nodes see. Raises InputError: those of local_folder, Encoder.load and
    index.write.
    """
    folder = local_folder(model)[0].absolute()
    embedder = _Embedder(str(folder), weights_sha256(folder), device)
    with progress.bar("embed", "documents", len(source.documents)) as bar:
        vectors, start = None, 0
        for rows in embedder.each(source.things):
            if vectors is None:
                vectors = np.empty((len(source.documents), rows.shape[1]), np.float32)
            vectors[start : start + len(rows)] = rows
            start += len(rows)
            bar.update(len(rows))
    assert vectors is not None and embedder.spec is not None, "a source has documents"
    queries: dict[Modality, Queries] = {
        modality: _embedded(embedder, asked, vectors.shape[1]) for modality, asked in source.queries.items()
    }
    return index.write(
        output_dir,
        vectors,
        source.documents,
        embedder.spec,
        embedded=source.embedded,
        queries=queries,
        kind=kind,
        target_recall=target_recall,
    )


class _Embedder:
    """Hands things to Ray tasks; `spec` is the model's, after the first."""

    def __init__(self, folder: str, weights: str | None, device: str) -> None:
        self.spec: ModelSpec | None = None
        device, gpus = placed(device)
        self._task = _embed.options(num_gpus=gpus)
        self._arguments = (folder, weights, device)
        self._window = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def each(self, things: Sequence[Things]) -> Iterator[Embeddings]:
        """The vectors of each of `things`, in their order."""
        running: deque[ray.ObjectRef] = deque()
        left = iter(things)
        while True:
            while len(running) < self._window and (thing := next(left, None)) is not None:
                running.append(self._task.remote(*self._arguments, thing))
            if not running:
                return
            rows, self.spec = ray.get(running.popleft())
            yield rows


def _embedded(embedder: _Embedder, asked: Asked, dimension: int) -> Queries:
    """The queries that could be embedded."""
    vectors = np.concatenate([np.empty((0, dimension), np.float32), *embedder.each(asked.things)])
    good = np.flatnonzero(~np.isnan(vectors).any(axis=1))
    about = asked.about
    if len(good) < len(vectors):
        about += f", {len(vectors) - len(good)} of which cannot be read"
    return Queries(
        about, vectors[good], [asked.groups[row] for row in good], [asked.own[row] for row in good]
    )


@ray.remote(
    num_cpus=1, max_calls=64
)  # a process keeps its model for so many tasks, also on a GPU, and then ends
def _embed(folder: str, weights: str | None, device: str, things: Things) -> tuple[Embeddings, ModelSpec]:
    encoder = loaded(folder, weights, device)
    return things.embed(encoder), encoder.spec
