"""The Embedder deployment: a model in replicas of its own, which embed whole batches.

Batches are made where requests arrive (`dispatch`), so that a hop costs one call a batch. A replica computes them in
its `lanes`, pictures and texts apart; it never sees files or texts, but pixels of the model's size and token ids.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from data_jobs.errors import InputError
from serve_app import telemetry
from serve_app.dispatch import BusyError
from serve_app.lanes import Lanes
from serve_app.model import DeviceFacts, Embedded, ModelInfo, ReplacedError
from serve_app.settings import ServeArgs
from train_jobs.arrays import Embeddings, Pixels

if TYPE_CHECKING:
    from train_jobs.backends import Backend

OTHER_MODEL = "other_model"
"""Code of the error for a batch that was made for a model that the replica does not have (any more)."""
BY_VALUE_BYTES = 3_500_000
"""Larger batches go through the object store: Serve's gRPC messages hold 4 MB."""
TRIES = 6
"""With two models there while one is rolled out, each try meets the wrong one half the time."""
RETRY_S = 0.05
STUCK_S = 120.0
"""A forward pass that takes longer is taken for a replica that hangs: Serve starts another."""
MOST_THREADS = 4
"""Of a replica, by default; a machine of more cores is for more replicas."""


@serve.deployment(max_surge_percent=100)  # a new version starts before the old one stops
class Embedder:
    """Embeds on one device."""

    def __init__(self, name: str, folder: str, settings: ServeArgs) -> None:
        import torch  # here, as the next: whoever only calls it starts seconds sooner

        from train_jobs.backends import open_backend

        started = time.monotonic()
        threads = settings.threads or min(os.cpu_count() or 1, MOST_THREADS)
        backend = open_backend(
            folder,
            settings.backend,
            settings.device,
            threads=threads,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
        )
        spec = backend.spec
        self._hash = spec.model_hash
        backends = [backend, *backend.lanes(threads)]
        for one in backends:  # warm
            one.images(np.zeros((1, spec.image_size, spec.image_size, 3), np.uint8))
            one.texts(["warm"])
        self._lanes = Lanes(backend, backends[1:])
        self._info = ModelInfo(
            name=name,
            device=str(backend.device),
            device_facts=DeviceFacts.of(torch.device(backend.device)),
            backend=backend.name,
            spec=spec,
            tokens=backend.tokens,
            loaded_s=time.monotonic() - started,
        )
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._began: dict[int, float] = {}  # when each forward pass that is under way began, by thread

    async def info(self) -> ModelInfo:
        """What is loaded."""
        return self._info

    async def images(self, model_hash: str, pixels: Pixels) -> Embedded:
        """uint8 [N, S, S, 3] -> embeddings. Raises InputError (other_model)."""
        self._require(model_hash)
        return await self._forward(lambda backend: backend.images(pixels))

    async def texts(self, model_hash: str, ids: Sequence[list[int]]) -> Embedded:
        """N texts as Tokens.ids gives them -> embeddings. Raises InputError (other_model)."""
        self._require(model_hash)
        return await self._forward(lambda backend: backend.texts_of(ids))

    async def check_health(self) -> None:
        """Asked by Serve; raises for a forward pass that hangs, which ends this replica."""
        if any(time.monotonic() - began > STUCK_S for began in list(self._began.values())):
            raise RuntimeError(f"A forward pass has taken more than {STUCK_S:.0f} s.")

    def _require(self, model_hash: str) -> None:
        if model_hash != self._hash:
            raise InputError(
                OTHER_MODEL, f"The batch is for model {model_hash}; this is {self._hash}.", "Ask anew."
            )

    async def _forward(self, embed: Callable[["Backend"], Embeddings]) -> Embedded:
        rows, seconds = await self._lanes.run(lambda backend: self._timed(embed, backend))
        return Embedded(rows, self._replica, self._lanes.count, seconds)

    def _timed(
        self, embed: Callable[["Backend"], Embeddings], backend: "Backend"
    ) -> tuple[Embeddings, float]:
        thread, began = threading.get_ident(), time.monotonic()
        self._began[thread] = began
        try:
            return embed(backend), time.monotonic() - began
        finally:
            del self._began[thread]


class EmbedderReplicas:
    """The Embedder's replicas as `model.Replicas`: any of them answers, and one that dies costs a retry."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._calls: dict[tuple[str, bool], DeploymentHandle] = {}  # to make one costs a share of a call

    async def info(self) -> ModelInfo:
        """What one of them has loaded."""
        info: ModelInfo = await self._call_of("info", by_reference=True).remote()
        return info

    async def images(self, model_hash: str, pixels: Pixels) -> Embedded:
        """As Embedder.images. Raises ReplacedError, BusyError, or the last failure."""
        return await self._call("images", pixels.nbytes, model_hash, pixels)

    async def texts(self, model_hash: str, ids: Sequence[list[int]]) -> Embedded:
        """As Embedder.texts. Raises ReplacedError, BusyError, or the last failure."""
        return await self._call("texts", 0, model_hash, ids)

    async def _call(self, method: str, size: int, model_hash: str, batch: Any) -> Embedded:
        handle = self._call_of(method, by_reference=size > BY_VALUE_BYTES)
        failure: Exception = ReplacedError()
        for attempt in range(TRIES):
            try:
                answer: Embedded = await handle.remote(model_hash, batch)
                return answer
            except BackPressureError as error:
                raise BusyError("The model's queue is full.", 1.0) from error
            except InputError as error:
                if getattr(error, "cause", error).code != OTHER_MODEL:
                    raise
                failure = ReplacedError()
            except (RayActorError, DeploymentUnavailableError) as error:  # no harm in asking again
                telemetry.retried()
                failure = error
                await asyncio.sleep(RETRY_S * 2**attempt)
        raise failure

    def _call_of(self, method: str, *, by_reference: bool) -> DeploymentHandle:
        found = self._calls.get((method, by_reference))
        if found is None:
            found = self._handle.options(method_name=method, _by_reference=by_reference)
            self._calls[method, by_reference] = found
        return found
