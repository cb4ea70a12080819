"""/healthz: whether the process lives, and whether requests would be answered. For load balancers and Kubernetes."""

from dataclasses import asdict

from fastapi import APIRouter

from data_jobs.errors import InputError
from serve_app import contract
from serve_app.clip_routes import TheService

router = APIRouter(tags=["health"])


@router.get("/healthz/live")
async def live() -> contract.Live:
    """This process answers."""
    return contract.Live()


@router.get("/healthz/ready")
async def ready(service: TheService) -> contract.Ready:
    """A picture and a word have just come through every model, and the index is there; else 503."""
    try:
        await service.ready()
        indexes = await service.searcher.status()
        loaded = await service.default.loaded()
    except Exception as error:
        raise InputError(
            "not_ready",
            f"The model does not answer ({type(error).__name__}).",
            "Wait; if it lasts, look at the log of the Embedder deployment.",
        ) from error
    return contract.Ready(
        status="ready",
        model=loaded.info.name,
        index_version=next((index.version for index in indexes.values()), None),
        indexes={name: contract.IndexState(**asdict(index)) for name, index in indexes.items()},
        waiting=loaded.waiting(),
    )
