"""Validation: the numbers that choose the best epoch, exact for any number of workers."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from train_jobs import evaluation, metrics, workers
from train_jobs.arrays import Embeddings
from train_jobs.encoder import Encoder
from train_jobs.frozen import FrozenFeatures
from train_jobs.pairdata import Distinct, PairData, PixelCache, slices
from train_jobs.schedule import Schedule


class Validation:
    """A dataset ready to be scored again and again: decoded once where memory allows, each picture by one worker."""

    def __init__(self, encoder: Encoder, data: PairData, schedule: Schedule) -> None:
        self._data = data
        self._pictures, self._texts = Distinct.of(data.picture_ids), Distinct.of(data.texts)
        self._frozen_images = FrozenFeatures.of_images(encoder, data) if schedule.freeze == "vision" else None
        self._cache = PixelCache(
            data,
            encoder.spec,
            budget_bytes=0 if self._frozen_images is not None else schedule.cache_bytes,
            threads=schedule.threads,
        )

    @property
    def one_query(self) -> float:
        """How much a single query more or less, of the side with fewer of them, changes val_recall."""
        matches = np.flatnonzero(self._data.labels == 1)
        asked = (len(set(column.index[matches].tolist())) for column in (self._pictures, self._texts))
        return 0.5 / max(1, min(asked))

    def measure(self, encoder: Encoder) -> dict[str, float]:
        """val_auroc over all pairs; over the matches val_recall, the mean of recall@1 from pictures and from texts."""
        encoder.towers.eval()
        pictures = _shared(self._pictures.first, lambda rows: self._embedded(encoder, rows))
        texts = _shared(
            self._texts.first, lambda rows: encoder.texts([self._data.texts[row] for row in rows])
        )
        images, words = pictures[self._pictures.index], texts[self._texts.index]
        data = self._data
        matches = np.flatnonzero(data.labels == 1)
        found = evaluation.retrieval(
            images[matches],
            words[matches],
            [data.image_groups[row] for row in matches],
            [data.text_groups[row] for row in matches],
            ks=(1,),
        )
        return {
            "val_auroc": metrics.auroc(np.einsum("nd,nd->n", images, words), data.labels),
            "val_recall": (found["image_to_text_recall@1"] + found["text_to_image_recall@1"]) / 2,
        }

    def _embedded(self, encoder: Encoder, rows: Sequence[int]) -> Embeddings:
        if self._frozen_images is None:
            pixels = [self._cache.batch(part) for part in slices(rows, encoder.batch_size)]
            return np.concatenate([encoder.images(part) for part in pixels])
        features = self._frozen_images.of(np.asarray(rows)).to(encoder.device)
        with torch.inference_mode():
            embedded: Tensor = encoder.towers.image(features)
        return embedded.float().cpu().numpy()


def _shared(rows: Sequence[int], embed: Callable[[Sequence[int]], Embeddings]) -> Embeddings:
    """Embeddings of `rows`, each computed by one worker and known to all: float32 [len(rows), D].

    All workers compute equally many, some twice: sharded towers need everyone in each of their forward passes.
    """
    count = workers.count()
    padded = [*rows, *([rows[0]] * (-len(rows) % count))]
    everyone = workers.gathered(embed(padded[workers.rank() :: count]))
    table = np.empty((len(padded), everyone[0].shape[1]), np.float32)
    for rank, part in enumerate(everyone):
        table[rank::count] = part
    return table[: len(rows)]
