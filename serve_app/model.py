"""ServedModel: a model somewhere else, as routes use it. Files and texts in, embeddings out.

    async def work(loaded): ...           # everything about one request that depends on the model
    answer = await model.consistent(work)

All of one request is done by one model: replicas refuse batches that were made for another (while a new model is
rolled out, both are there), and the request is then done again, by the new one.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from cachetools import LRUCache

from data_jobs.errors import InputError
from serve_app import telemetry, wire
from serve_app.capacity import Capacity
from serve_app.dispatch import Dispatcher, Limits, Sent
from train_jobs.arrays import Embeddings, Pixels
from train_jobs.spec import ModelSpec

if TYPE_CHECKING:  # whoever builds the application needs neither
    import torch

    from train_jobs.tokens import Tokens

T = TypeVar("T")

REPLACED_TRIES = 8


@dataclass(frozen=True)
class DeviceFacts:
    """What the model runs on."""

    kind: Literal["cuda", "rocm", "mps", "cpu"]
    gpu_name: str | None
    vram_gb: float | None

    @classmethod
    def of(cls, device: "torch.device") -> "DeviceFacts":
        """Those of `device`."""
        import torch

        if device.type == "cuda":
            about = torch.cuda.get_device_properties(device)
            return cls("rocm" if torch.version.hip else "cuda", about.name, about.total_memory / 2**30)
        return cls("mps" if device.type == "mps" else "cpu", None, None)


@dataclass(frozen=True)
class ModelInfo:
    """What the ingress must know of the loaded model to make its batches and to judge what comes back."""

    name: str
    device: str
    device_facts: DeviceFacts
    backend: str
    spec: ModelSpec
    tokens: "Tokens"
    loaded_s: float  # how long it took


@dataclass(frozen=True)
class Embedded:
    """One batch's embeddings, float32 [N, D] of unit norm, and who made them in which time."""

    rows: Embeddings
    replica: str
    lanes: int  # batches that it computes at a time
    seconds: float


class Replicas(Protocol):
    """Those who embed: each call is one batch, of any replica that has the model of that ModelSpec.model_hash."""

    async def info(self) -> ModelInfo:
        """What is loaded."""

    async def images(self, model_hash: str, pixels: Pixels) -> Embedded:
        """uint8 [N, S, S, 3] -> embeddings. Raises ReplacedError."""

    async def texts(self, model_hash: str, ids: Sequence[list[int]]) -> Embedded:
        """N texts as Tokens.ids gives them -> embeddings. Raises ReplacedError."""


@dataclass(frozen=True)
class QueueLimits:
    """What may wait for the model in one ingress replica."""

    batch_size: int  # pictures, or texts, a batch
    batch_tokens: int
    waiting_pictures: int
    waiting_tokens: int
    waiting_s: float


_Key = tuple[str, bytes]


@dataclass(frozen=True)
class Read:
    """Texts as the model has read them."""

    rows: Embeddings  # float32 [N, D], unit norm
    tokens: int  # in all of them


@dataclass(frozen=True)
class _Made:
    """What one picture or text became."""

    row: Embeddings  # float32 [D]
    cost: int  # pictures, or tokens


class ReplacedError(Exception):
    """The model has changed while a request was under way."""


class Loaded:
    """One version of a model: what is known of it, its queues, and the embeddings that it made lately."""

    def __init__(
        self,
        info: ModelInfo,
        replicas: Replicas,
        limits: QueueLimits,
        cache_bytes: int,
        decoders: ThreadPoolExecutor,
    ) -> None:
        self.info = info
        self._replicas, self._decoders = replicas, decoders
        self._hash = info.spec.model_hash
        capacity = Capacity()
        self._pictures: Dispatcher[Pixels, tuple[Embeddings, float]] = Dispatcher(
            self._send_pictures,
            Limits(limits.batch_size, limits.batch_size, limits.waiting_pictures, limits.waiting_s),
            telemetry.observer(info.name, "image"),
            capacity=capacity,
        )
        self._texts: Dispatcher[list[int], tuple[Embeddings, float]] = Dispatcher(
            self._send_texts,
            Limits(limits.batch_size, limits.batch_tokens, limits.waiting_tokens, limits.waiting_s),
            telemetry.observer(info.name, "text"),
            capacity=capacity,
        )
        self._cache: LRUCache[_Key, _Made] = LRUCache(cache_bytes, getsizeof=_cached_bytes)

    @property
    def cached_bytes(self) -> int:
        """What the cache of embeddings holds."""
        return int(self._cache.currsize)

    @property
    def pictures_per_s(self) -> float | None:
        """The pace lately, while there was work; None before there was any."""
        return self._pictures.cost_per_s

    def waiting(self) -> dict[str, int]:
        """Pictures and tokens in the queues."""
        return {"image": self._pictures.waiting, "text": self._texts.waiting}

    async def pictures(self, files: Sequence[bytes]) -> list[Embeddings | InputError]:
        """For each picture file its embedding, float32 [D], or why there is none; none suffers from another.

        Raises BusyError for all, ReplacedError.
        """
        keys = [_key("image", data) for data in files]
        cached = [self._cache.get(key) for key in keys]
        found: list[Embeddings | InputError | None] = [made.row if made else None for made in cached]
        missing = [number for number, row in enumerate(found) if row is None]
        telemetry.cache("image", hits=len(files) - len(missing), misses=len(missing))
        with self._pictures.room(len(missing)) if missing else nullcontext(), telemetry.stage("decode"):
            decoded = await asyncio.gather(*(self._decoded(files[number]) for number in missing))
        ready = [(n, d) for n, d in zip(missing, decoded, strict=True) if isinstance(d, np.ndarray)]
        rows = await self._answers(self._pictures, [d for _, d in ready], [1] * len(ready))
        for (number, _), row in zip(ready, rows, strict=True):
            self._remember(keys[number], row, 1)
            found[number] = row
        for number, outcome in zip(missing, decoded, strict=True):
            if isinstance(outcome, InputError):
                found[number] = outcome
        return [row for row in found if row is not None]

    async def picture(self, file: bytes) -> Embeddings:
        """The embedding of one picture file, float32 [D]. Raises InputError, BusyError, ReplacedError."""
        (row,) = await self.pictures([file])
        if isinstance(row, InputError):
            raise row
        return row

    async def texts(self, texts: Sequence[str]) -> Embeddings:
        """Checked texts -> float32 [N, D]. Raises BusyError, ReplacedError."""
        return (await self.read(texts)).rows

    async def read(self, texts: Sequence[str]) -> Read:
        """As `texts`, and what was read."""
        keys = [_key("text", text.encode("utf-8", "surrogatepass")) for text in texts]
        found = [self._cache.get(key) for key in keys]
        missing = [number for number, row in enumerate(found) if row is None]
        telemetry.cache("text", hits=len(texts) - len(missing), misses=len(missing))
        ids = self.info.tokens.ids([texts[number] for number in missing])
        rows = await self._answers(self._texts, ids, [len(tokens) for tokens in ids])
        for number, row, tokens in zip(missing, rows, ids, strict=True):
            found[number] = self._remember(keys[number], row, len(tokens))
        made = [one for one in found if one is not None]
        if not made:
            return Read(np.empty((0, self.info.spec.embedding_dim), np.float32), 0)
        return Read(np.stack([one.row for one in made]), sum(one.cost for one in made))

    async def canary(self) -> None:
        """A grey picture and a word through a replica, past the queues; raises what goes wrong."""
        size = self.info.spec.image_size
        grey = np.full((1, size, size, 3), 127, np.uint8)
        image, word = await asyncio.gather(
            self._replicas.images(self._hash, grey),
            self._replicas.texts(self._hash, self.info.tokens.ids(["canary"])),
        )
        if not np.isfinite(image.rows @ word.rows.T).all():
            raise RuntimeError("the canary's embeddings are not finite")

    async def _decoded(self, data: bytes) -> Pixels | InputError:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoders, wire.pixels, data, self.info.spec)
        except InputError as error:
            return error

    async def _answers(
        self, queue: "Dispatcher[Any, tuple[Embeddings, float]]", items: Sequence[Any], costs: Sequence[int]
    ) -> list[Embeddings]:
        if not items:
            return []
        started = time.monotonic()
        answers = await queue.submit(items, costs)
        model_s = max(seconds for _, seconds in answers)
        telemetry.spent("model", model_s)
        telemetry.spent("queue", time.monotonic() - started - model_s)
        return [row for row, _ in answers]

    def _remember(self, key: _Key, row: Embeddings, cost: int) -> "_Made":
        made = _Made(row.copy(), cost)  # else the whole batch would stay
        if self._cache.maxsize >= _cached_bytes(made):
            self._cache[key] = made
        return made

    async def _send_pictures(self, batch: list[Pixels]) -> "Sent[tuple[Embeddings, float]]":
        pixels = np.stack(batch)
        return _sent(await self._replicas.images(self._hash, pixels))

    async def _send_texts(self, batch: list[list[int]]) -> "Sent[tuple[Embeddings, float]]":
        return _sent(await self._replicas.texts(self._hash, batch))


class ServedModel:
    """A model under a name; which version of it, the replicas say."""

    def __init__(self, name: str, replicas: Replicas, limits: QueueLimits, cache_bytes: int) -> None:
        self.name = name
        self._replicas, self._limits, self._cache_bytes = replicas, limits, cache_bytes
        self._loaded: Loaded | None = None
        self._asking = asyncio.Lock()
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")

    async def loaded(self) -> Loaded:
        """The version in use, as far as is known."""
        return self._loaded or await self._ask(None)

    async def consistent(self, work: Callable[[Loaded], Awaitable[T]]) -> T:
        """What `work` makes of a request with one version of the model, tried again with the next one if need be."""
        for _ in range(REPLACED_TRIES):
            loaded = await self.loaded()
            try:
                return await work(loaded)
            except ReplacedError:
                await self._ask(loaded)
        raise InputError(
            "not_ready", "The model is being replaced, again and again.", "Try again in a few seconds."
        )

    async def refuse_replaced(self, known: Loaded) -> None:
        """Raise ReplacedError if the replicas have another version by now."""
        if await self._ask(known) is not known:
            raise ReplacedError

    async def _ask(self, known: Loaded | None) -> Loaded:
        async with self._asking:
            if self._loaded is None or self._loaded is known:
                info = await self._replicas.info()
                if known is None or info.spec.model_hash != known.info.spec.model_hash:
                    self._loaded = Loaded(
                        info, self._replicas, self._limits, self._cache_bytes, self._decoders
                    )
            assert self._loaded is not None
            return self._loaded


def _sent(embedded: Embedded) -> "Sent[tuple[Embeddings, float]]":
    return Sent([(row, embedded.seconds) for row in embedded.rows], embedded.replica, embedded.lanes)


def _key(kind: str, content: bytes) -> _Key:
    """By kind as well: a file that spells a text is not the text."""
    return kind, hashlib.sha256(content).digest()


def _cached_bytes(made: "_Made") -> int:
    return int(made.row.nbytes) + 300  # the key and what Python keeps of all
