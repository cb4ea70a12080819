"""The Serve application: `serve run serve_config.yaml`.

`build` is what serve_config.yaml imports: it checks what can be checked before any replica starts, and binds
the deployments. Their numbers (replicas, queues, resources) are serve_config.yaml's.
"""

from ray.serve import Application

from serve_app.embedding import Embedder
from serve_app.ingress import Ingress
from serve_app.retrieval import Retriever
from serve_app.settings import Environment, ServeArgs, resolve
from train_jobs.checkpoints import local_folder
from train_jobs.index import Index
from train_jobs.spec import ModelSpec


def build(args: ServeArgs) -> Application:
    """Bind the application. Raises InputError when the model cannot be had or the index is another model's."""
    settings = resolve(args, Environment())
    folder, _ = local_folder(settings.model)  # downloads a hub model once, or says at once that it cannot
    if settings.index is not None:
        Index.open(settings.index, ModelSpec.read(folder))
    embedder = Embedder.bind(  # type: ignore[attr-defined]
        settings.model, settings.device, settings.batch_size, settings.batch_wait_ms
    )
    retriever = Retriever.bind(settings.index)  # type: ignore[attr-defined]
    application: Application = Ingress.bind(embedder, retriever, settings)  # type: ignore[attr-defined]
    return application
