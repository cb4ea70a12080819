"""The Ingress deployment: the HTTP contract in as many replicas as parsing and decoding need.

A request's life: middleware -> a route (`*_routes`) -> `wire`, `forms`, `pictures` (limits, bytes) -> `model` (cache,
decoding, queues) -> `Embedder`, and `Retriever` for searches -> `scoring` -> a model of `contract`. Verdicts and class
scores are computed right here: they cost microseconds, and a hop would cost milliseconds.
"""

from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app import ray_metrics, telemetry, web
from serve_app.embedding import EmbedderReplicas
from serve_app.fetch import Fetcher
from serve_app.model import QueueLimits, ServedModel
from serve_app.pictures import PictureSource
from serve_app.retrieval import RetrieverReplicas
from serve_app.service import Service
from serve_app.settings import ServeArgs


@serve.deployment(max_surge_percent=100)  # a new version starts before the old one stops
@serve.ingress()
class Ingress:
    """The routes over an Embedder for each model, and a Retriever."""

    def __init__(
        self, embedders: dict[str, DeploymentHandle], retriever: DeploymentHandle, settings: ServeArgs
    ) -> None:
        telemetry.collect_by(ray_metrics.sink())
        import torch  # here: whoever builds the application starts a second sooner

        torch.set_num_threads(1)  # pictures are resized side by side, each on one thread
        limits = QueueLimits(
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            waiting_pictures=settings.waiting_pictures,
            waiting_tokens=settings.waiting_tokens,
            waiting_s=settings.waiting_s,
        )
        cache_bytes = int(settings.cache_mb * 1e6)
        fetcher = None
        if settings.image_url_hosts:
            fetcher = Fetcher(settings.image_url_hosts, private_ok=settings.image_url_networks)
        self._service = Service(
            settings=settings,
            models={
                name: ServedModel(name, EmbedderReplicas(embedder), limits, cache_bytes)
                for name, embedder in embedders.items()
            },
            searcher=RetrieverReplicas(retriever),
            source=PictureSource(Path(settings.image_root) if settings.image_root else None, fetcher),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is made."""
        return web.application(self._service)
