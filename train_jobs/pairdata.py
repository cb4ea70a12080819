"""A dataset's pairs as a trainer wants them: deterministic batches, decoded once where memory allows.

Every worker opens the whole dataset (encoded pictures are small) and takes its slice of each global batch, so the
data a step sees depends on the seed, the epoch and the step, never on the number of workers.
"""

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data_jobs import dataset, images
from data_jobs.errors import InputError
from data_jobs.mismatches import mismatched
from train_jobs.arrays import Embeddings, Pixels
from train_jobs.encoder import Encoder
from train_jobs.spec import ModelSpec
from train_jobs.view import View

COLUMNS = ("image", "text", "label", "image_group", "text_group", "image_sha256")


@dataclass(frozen=True)
class PairData:
    """Pairs in memory: encoded pictures, texts and labels, row by row."""

    images: pa.ChunkedArray  # JPEG bytes
    picture_ids: list[str]  # sha256 of the original file
    texts: list[str]
    labels: NDArray[np.int64]  # [N], 1 match and 0 mismatch
    image_groups: list[str | None]
    text_groups: list[str]
    fingerprint: str

    @classmethod
    def open(cls, folder: str | Path) -> "PairData":
        """Read a dataset directory. Raises InputError (not_a_dataset, no_pairs)."""
        table = dataset.read_pairs(folder, COLUMNS)
        if not table.num_rows:
            raise InputError("no_pairs", f"{folder} holds no pairs.", "See its rejects for the reasons.")
        return cls(
            images=table["image"],
            picture_ids=table["image_sha256"].to_pylist(),
            texts=table["text"].to_pylist(),
            labels=table["label"].to_numpy().astype(np.int64),
            image_groups=table["image_group"].to_pylist(),
            text_groups=table["text_group"].to_pylist(),
            fingerprint=dataset.read_report(folder)["fingerprint"],
        )

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "PairData":
        """The given rows, in the given order."""
        rows = [int(row) for row in rows]
        return PairData(
            images=self.images.take(pa.array(rows, pa.int64())),
            picture_ids=[self.picture_ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            labels=self.labels[rows],
            image_groups=[self.image_groups[row] for row in rows],
            text_groups=[self.text_groups[row] for row in rows],
            fingerprint=self.fingerprint,
        )

    def with_mismatches(self, seed: int = 0) -> "PairData":
        """These pairs; if all of them match, with a random mismatch for each (scores need both labels).

        A text that the data pairs with the same picture elsewhere is no mismatch, and its draw is left out.
        """
        if (self.labels == 0).any():
            return self
        fitting = set(zip(self.picture_ids, self.text_groups, strict=True))
        chosen = [
            (i, j)
            for i, j, _ in mismatched(self.text_groups, hard_fraction=0.0, seed=seed)
            if (self.picture_ids[i], self.text_groups[j]) not in fitting
        ]
        if not chosen:
            raise InputError(
                "one_group",
                "All pairs describe the same thing, so no mismatch can be made of them.",
                "Add pairs of other products.",
            )
        pictures = self.take([i for i, _ in chosen])
        others = self.take([j for _, j in chosen])
        return PairData(
            images=pa.chunked_array([*self.images.chunks, *pictures.images.chunks]),
            picture_ids=self.picture_ids + pictures.picture_ids,
            texts=self.texts + others.texts,
            labels=np.concatenate([self.labels, np.zeros(len(chosen), np.int64)]),
            image_groups=self.image_groups + pictures.image_groups,
            text_groups=self.text_groups + others.text_groups,
            fingerprint=self.fingerprint,
        )

    def pictures_groups(self) -> list[str | None]:
        """What the picture of each row is known to show, by any row with that picture."""
        known = {p: g for p, g in zip(self.picture_ids, self.image_groups, strict=True) if g is not None}
        return [known.get(picture) for picture in self.picture_ids]

    def decode(self, rows: Sequence[int], spec: ModelSpec, scale: float = 1.0) -> Pixels:
        """uint8 [len(rows), S, S, 3], preprocessed as the encoder of `spec` does, `scale` times as large."""
        view = View.of(spec).scaled(scale)
        return np.stack([view.pixels(images.decode(self.images[int(row)].as_py())) for row in rows])


class PixelCache:
    """Decoded pictures of a dataset: each distinct picture once, in memory, while the budget lasts."""

    def __init__(
        self, data: PairData, spec: ModelSpec, scale: float = 1.0, *, budget_bytes: int, threads: int
    ) -> None:
        self._data, self._spec, self._scale = data, spec, scale
        self._distinct = Distinct.of(data.picture_ids)
        self._pixels: Pixels | None = None
        self._pool = ThreadPoolExecutor(max(1, threads))
        if len(self._distinct.first) * View.of(spec).scaled(scale).size ** 2 * 3 <= budget_bytes:
            self._pixels = self._decode(self._distinct.first)

    def batch(self, rows: Sequence[int]) -> Pixels:
        """uint8 [len(rows), S, S, 3]."""
        if self._pixels is None:
            return self._decode(rows)
        return self._pixels[self._distinct.index[rows]]

    def _decode(self, rows: Sequence[int]) -> Pixels:
        def one(row: int) -> Pixels:
            return self._data.decode([row], self._spec, self._scale)[0]

        return np.stack(list(self._pool.map(one, rows)))


def score_pairs(encoder: Encoder, data: PairData) -> NDArray[np.float32]:
    """Cosine of every pair, float32 [N]; each distinct picture and text is embedded once."""
    pictures = Distinct.of(data.picture_ids)
    texts = Distinct.of(data.texts)
    image_rows = embed_pictures(encoder, data, pictures.first)
    text_rows = encoder.texts([data.texts[row] for row in texts.first])
    return np.einsum("nd,nd->n", image_rows[pictures.index], text_rows[texts.index])


def embed_pictures(encoder: Encoder, data: PairData, rows: Sequence[int]) -> Embeddings:
    """Embeddings of the pictures of `rows`, decoded batch by batch: float32 [len(rows), D], unit norm."""
    parts = [encoder.images(data.decode(chunk, encoder.spec)) for chunk in slices(rows, encoder.batch_size)]
    return np.concatenate(parts) if parts else np.empty((0, encoder.spec.embedding_dim), np.float32)


def group_ids(groups: Sequence[str | None]) -> dict[str, int]:
    """A number for every group name, the same for every worker that sees the same names."""
    return {name: number for number, name in enumerate(sorted({g for g in groups if g is not None}))}


class Order:
    """The order of rows in each epoch, shuffled anew by seed and epoch; rows of one unit stay together."""

    def __init__(self, units: NDArray[np.int64], seed: int) -> None:
        """`units` [N] numbers what rows belong to, from 0 without gaps: arange(N) shuffles single rows."""
        self._units, self._seed = units, seed
        self._epoch, self._rows = -1, np.empty(0, np.int64)

    def batch(self, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """The row numbers of the `step`th global batch of an epoch."""
        if epoch != self._epoch:
            places = np.random.default_rng([self._seed, epoch]).permutation(int(self._units.max()) + 1)
            self._epoch, self._rows = epoch, np.argsort(np.argsort(places)[self._units], kind="stable")
        return self._rows[step * batch_size : (step + 1) * batch_size]


def to_channels_first(pixels: Pixels) -> torch.Tensor:
    """uint8 [N, S, S, 3] -> uint8 [N, 3, S, S], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Distinct:
    """The distinct values of a column."""

    first: list[int]  # row of the first occurrence of each distinct value
    index: NDArray[np.int64]  # [N] position in `first` of every row's value

    @classmethod
    def of(cls, values: Sequence[Hashable]) -> "Distinct":
        position: dict[Hashable, int] = {}
        first: list[int] = []
        index = np.empty(len(values), np.int64)
        for row, value in enumerate(values):
            if value not in position:
                position[value] = len(first)
                first.append(row)
            index[row] = position[value]
        return cls(first, index)


def slices(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`rows` in pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
