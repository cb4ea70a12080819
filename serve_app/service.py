"""Service: what routes work with: models, indexes, settings, and where pictures may come from."""

import asyncio
import time
from collections.abc import Mapping
from contextvars import Context
from dataclasses import asdict, dataclass, field

from fastapi import Request

from data_jobs.errors import InputError
from serve_app import contract, telemetry
from serve_app.model import Loaded, ServedModel
from serve_app.pictures import PictureSource
from serve_app.query import Searcher
from serve_app.settings import ServeArgs
from train_jobs import scoring

CANARY_EVERY_S = 1.0
"""However often health is asked for, the model is asked once in so long."""
CANARY_TIMEOUT_S = 10.0
"""A model that takes longer than this for one grey picture is not ready."""
CLIP = "clip"
"""A name that always means the default model: older clients use it."""


@dataclass
class Service:
    """One ingress replica's view of the application."""

    settings: ServeArgs
    models: Mapping[str, ServedModel]  # by name, the default one first
    searcher: Searcher
    source: PictureSource
    started: float = field(default_factory=time.time)
    _canary: "asyncio.Task[float] | None" = None

    @property
    def default(self) -> ServedModel:
        """The model for requests that name none."""
        return next(iter(self.models.values()))

    def model(self, name: str | None) -> ServedModel:
        """The model of that name or alias. Raises InputError (model_not_served)."""
        if name is None or name == CLIP:
            return self.default
        if name in self.models:
            return self.models[name]
        raise InputError(
            "model_not_served",
            f"There is no model {name[:100]!r} here; served are {', '.join(self.models)}.",
            "Use one of these, or leave `model` out.",
        )

    async def ready(self) -> None:
        """Raise what goes wrong with a canary through every model. Asked together, it is asked once."""
        if self._canary is not None and self._canary.done():
            fresh = not self._canary.cancelled() and self._canary.exception() is None
            if not fresh or time.monotonic() - self._canary.result() > CANARY_EVERY_S:
                self._canary = None
        if self._canary is None:
            # In nobody's context: others wait for it too, also when this client goes.
            loop = asyncio.get_running_loop()
            self._canary = loop.create_task(self._ask_canaries(), context=Context())
        await asyncio.shield(self._canary)

    async def _ask_canaries(self) -> float:
        async def through(model: ServedModel) -> None:
            await model.consistent(lambda loaded: loaded.canary())

        await asyncio.wait_for(
            asyncio.gather(*(through(model) for model in self.models.values())), CANARY_TIMEOUT_S
        )
        return time.monotonic()

    def verdict(self, loaded: Loaded, cosine: float, threshold: float | None) -> contract.Verdict:
        """What a cosine means; the threshold is the request's, else the deployment's, else the model's."""
        spec = loaded.info.spec
        used = scoring.threshold_for(spec, threshold, self.settings.threshold)
        found = scoring.verdict(cosine, used, spec.calibration)
        telemetry.verdict(found.is_mismatch, cosine)
        return contract.Verdict(**asdict(found), model=loaded.info.name)


async def service_of(request: Request) -> Service:
    """The service behind the application that a request came to. (Async, else FastAPI runs it in a thread.)"""
    service: Service = request.app.state.service
    return service
