"""FrozenFeatures: what a frozen tower says of each distinct picture or text, computed once and looked up after."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train_jobs import workers
from train_jobs.encoder import Encoder
from train_jobs.pairdata import Distinct, PairData, slices, to_channels_first


class FrozenFeatures:
    """Pooled outputs of one tower, before its projection: float32 [K, H] for K distinct items, on the CPU."""

    def __init__(self, table: Tensor, index: np.ndarray) -> None:
        self._table, self._index = table, index

    def of(self, rows: np.ndarray) -> Tensor:
        """float32 [len(rows), H] of the data's `rows`."""
        return self._table[self._index[rows]]

    @classmethod
    def of_images(
        cls,
        encoder: Encoder,
        data: PairData,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> "FrozenFeatures":
        """Of the pictures of `data`, plain views, computed in `autocast`; each worker computes its share."""

        def pooled(rows: Sequence[int]) -> Tensor:
            pixels = to_channels_first(data.decode(rows, encoder.spec)).to(encoder.device)
            with autocast():
                return encoder.towers.pool_images(pixels)

        return _computed(encoder, data.picture_ids, pooled)

    @classmethod
    def of_texts(
        cls,
        encoder: Encoder,
        data: PairData,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> "FrozenFeatures":
        """Of the texts of `data`, computed in `autocast`."""
        ids = encoder.token_ids(data.texts)

        def pooled(rows: Sequence[int]) -> Tensor:
            with autocast():
                return encoder.towers.pool_texts(*encoder.padded([ids[row] for row in rows]))

        return _computed(encoder, data.texts, pooled)


def _computed(
    encoder: Encoder, items: Sequence[str], pooled: Callable[[Sequence[int]], Tensor]
) -> FrozenFeatures:
    distinct = Distinct.of(items)
    encoder.towers.eval()
    mine = distinct.first[workers.rank() :: workers.count()]
    with torch.no_grad():
        parts = [pooled(rows).float().cpu() for rows in slices(mine, encoder.batch_size)]
    everyone = workers.gathered(torch.cat(parts) if parts else None)
    width = next(part.shape[1] for part in everyone if part is not None)
    table = torch.empty(len(distinct.first), width)
    for rank, part in enumerate(everyone):
        if part is not None:
            table[rank :: workers.count()] = part
    return FrozenFeatures(table, distinct.index)
