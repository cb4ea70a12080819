"""The Serve application: `serve run serve_config.yaml`.

`build` is what serve_config.yaml imports: it checks what can be checked before any replica starts, and binds
the deployments. Their numbers (replicas, queues, resources) are serve_config.yaml's.
"""

from ray.serve import Application

from data_jobs.errors import InputError
from serve_app.embedding import Embedder
from serve_app.ingress import Ingress
from serve_app.retrieval import Retriever
from serve_app.settings import Environment, ServeArgs, resolve
from train_jobs.hub import local_folder
from train_jobs.index import Index
from train_jobs.spec import ModelSpec


def build(args: ServeArgs) -> Application:
    """Bind the application. Raises InputError when a model cannot be had or an index is another model's."""
    settings = resolve(args, Environment())
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
