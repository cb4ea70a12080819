"""The Embedder deployment: a model in a replica of its own, fed in batches.

Ingress replicas send pictures at the model's size and texts as written; whatever waits when the device falls
idle is one batch. Text and image batches take turns.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from ray import serve

from train_jobs.encoder import Embeddings, Encoder, Pixels
from train_jobs.spec import ModelSpec


@dataclass(frozen=True)
class ModelInfo:
    """What the ingress must know of the loaded model."""

    name: str
    device: str
    spec: ModelSpec


@serve.deployment
class Embedder:
    """Embeds on one device. Methods take and give up to `batch_size` rows a call."""

    def __init__(self, model: str, device: str, batch_size: int, batch_wait_ms: float) -> None:
        self._encoder = Encoder.load(model, device, batch_size)
        self._info = ModelInfo(model, str(self._encoder.device), self._encoder.spec)
        self._one_at_a_time = asyncio.Lock()
        for batched in (self._image_batch, self._text_batch):
            batched.set_max_batch_size(batch_size)
            batched.set_batch_wait_timeout_s(batch_wait_ms / 1000)

    def info(self) -> ModelInfo:
        return self._info

    async def images(self, pixels: Pixels) -> Embeddings:
        """uint8 [N, S, S, 3], N <= batch_size -> float32 [N, D], unit norm."""
        rows: Embeddings = await self._image_batch(pixels)
        return rows

    async def texts(self, texts: list[str]) -> Embeddings:
        """N <= batch_size texts as written -> float32 [N, D], unit norm."""
        rows: Embeddings = await self._text_batch(texts)
        return rows

    async def tokens(self, texts: list[str]) -> int:
        """How many tokens the model reads of these texts, for the usage report."""
        return sum(map(len, self._encoder.token_ids(texts)))

    @serve.batch(batch_size_fn=lambda requests: sum(map(len, requests)))
    async def _image_batch(self, requests: list[Pixels]) -> list[Embeddings]:
        rows = await self._forward(self._encoder.images, np.concatenate(requests))
        return _split(rows, [len(request) for request in requests])

    @serve.batch(batch_size_fn=lambda requests: sum(map(len, requests)))
    async def _text_batch(self, requests: list[list[str]]) -> list[Embeddings]:
        rows = await self._forward(self._encoder.texts, [text for request in requests for text in request])
        return _split(rows, [len(request) for request in requests])

    async def _forward(self, embed: object, batch: object) -> Embeddings:
        async with self._one_at_a_time:  # the encoder is not thread-safe; the event loop stays free
            return await asyncio.to_thread(embed, batch)  # type: ignore[arg-type]


def _split(rows: Embeddings, counts: list[int]) -> list[Embeddings]:
    return np.split(rows, np.cumsum(counts)[:-1])
