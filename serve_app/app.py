"""The Serve application: `serve run serve_config.yaml`.

`build` is what serve_config.yaml imports: it checks what can be checked before any replica starts, and binds
the deployments. Their numbers (replicas, queues, resources) are serve_config.yaml's.
"""

from pathlib import Path
from typing import Any

from ray.serve import Application

from data_jobs.errors import InputError
from serve_app.access import Buckets, parse_keys
from serve_app.embedding import Embedder
from serve_app.fetch import Fetcher
from serve_app.ingress import Ingress
from serve_app.retrieval import Retriever
from serve_app.settings import ServeArgs, environment, parse, resolve
from train_jobs.hub import local_folder
from train_jobs.index import Index
from train_jobs.spec import ModelSpec


def build(args: dict[str, Any]) -> Application:
    """Bind the application of these `ServeArgs`.

    Raises InputError when a setting is wrong, a model cannot be had or an index is another model's.
    """
    settings = resolve(parse(args), environment())
    _check(settings)
    if settings.model_name in settings.models:
        raise InputError(
            "bad_settings",
            f"Two models are named {settings.model_name!r}.",
            "Give model_name, or rename the one under models.",
        )
    paths = {settings.model_name: settings.model, **settings.models}
    # Downloads a hub model once, or says at once that it cannot.
    folders = {name: str(local_folder(path)[0]) for name, path in paths.items()}
    for index in settings.indexes.values():
        Index.open(index, ModelSpec.read(folders[settings.model_name]))
    embedders = {
        name: Embedder.options(name="Embedder" if not number else f"Embedder-{name}").bind(  # type: ignore[attr-defined]
            name, folder, settings
        )
        for number, (name, folder) in enumerate(folders.items())
    }
    retriever = Retriever.bind(dict(settings.indexes), settings.shadow_rate)  # type: ignore[attr-defined]
    application: Application = Ingress.bind(embedders, retriever, settings)  # type: ignore[attr-defined]
    return application


def _check(settings: ServeArgs) -> None:
    """What replicas would find out half a minute later."""
    parse_keys(settings.api_keys)
    if settings.rate_per_s is not None:
        Buckets(settings.rate_per_s, settings.rate_burst)
    if settings.image_url_hosts:
        Fetcher(settings.image_url_hosts, private_ok=settings.image_url_networks)
    if settings.image_root and not Path(settings.image_root).is_dir():
        raise InputError(
            "bad_settings",
            f"image_root is {settings.image_root!r}, which is no folder here.",
            "Name a folder that every node sees, or leave image_root out.",
        )
