"""/search: the passages nearest to a text, a picture, an embedding, or several of these."""

import asyncio
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Json

from data_jobs.errors import InputError
from serve_app import contract, forms, telemetry, wire
from serve_app.clip_routes import TheService
from serve_app.model import Loaded
from serve_app.query import OTHER_MODEL, Query
from train_jobs.arrays import Embeddings
from train_jobs.index_kinds import Modality

router = APIRouter(tags=["search"])


class _Form(BaseModel):
    """The plain fields of a search as a form; what is no plain value in JSON is JSON here."""

    text: str | None = None
    embedding: Annotated[list[float] | None, Json] = None
    weights: Json[Any] = None
    top_k: int | None = None
    index: str | None = None
    filter: Json[Any] = None
    exact: bool | None = None


@router.post(
    "/search",
    responses=contract.refusals(403, 404, 409, 415, 422),
    openapi_extra=forms.documented(
        contract.SearchRequest,
        {
            "file": {"type": "string", "format": "binary", "description": "A picture to look for."},
            "text": {"type": "string", "maxLength": contract.MAX_TEXT_CHARACTERS},
            "weights": {"type": "string", "description": 'JSON: {"text": 0.5}.'},
            "top_k": {"type": "integer", "minimum": 1, "maximum": contract.MAX_TOP_K, "default": 10},
            "index": {"type": "string"},
            "filter": {"type": "string", "description": 'JSON: {"category": "soup"}.'},
            "exact": {"type": "boolean", "default": False},
        },
        [],
    ),
)
async def search(request: Request, service: TheService) -> contract.SearchResponse:
    """What is nearest to the query, best first."""
    picture = None
    if forms.is_form(request):
        fields = await forms.form(request)
        plain = {name: forms.text(fields, name) for name in _Form.model_fields}
        sent = {name: value for name, value in plain.items() if value is not None}
        given = forms.checked(_Form, sent).model_dump(exclude_none=True)
        asked = forms.checked(contract.SearchRequest, given)
        for name in ("file", "image"):
            if name in fields:
                picture = await service.source.uploaded(forms.file(fields, name))
    else:
        asked = await forms.json(request, contract.SearchRequest)
    if asked.image is not None:
        picture = await service.source.encoded(asked.image)
    text = None if asked.text is None else wire.checked_text(asked.text)
    if text is None and picture is None and asked.embedding is None:
        raise InputError(
            "bad_query", "There is nothing to look for.", "Give text, image, embedding, or several of them."
        )

    async def find(loaded: Loaded) -> contract.SearchResponse:
        words, image = await asyncio.gather(
            loaded.texts([text] if text is not None else []),
            loaded.picture(picture) if picture is not None else _nothing(),
        )
        parts = [(row, asked.weights.text) for row in words]
        if image is not None:
            parts.append((image, asked.weights.image))
        if asked.embedding is not None:
            parts.append((_raw(asked.embedding, loaded.info.spec.embedding_dim), asked.weights.embedding))
        modality: Modality | None = None
        if len(parts) == 1 and asked.embedding is None and parts[0][1] > 0:
            modality = "image" if text is None else "text"
        query = Query(parts, modality, asked.top_k, asked.filter, asked.exact, loaded.info.spec.model_hash)
        with telemetry.stage("search"):
            try:
                hits, version = await service.searcher.search(asked.index, query)
            except InputError as error:
                if error.code == OTHER_MODEL:
                    await service.default.refuse_replaced(loaded)
                raise
        return contract.SearchResponse(
            hits=[contract.SearchHit.of(hit.score, hit.document) for hit in hits],
            index_version=version,
            model=loaded.info.name,
        )

    return await service.default.consistent(find)


async def _nothing() -> None:
    return None


def _raw(values: list[float], dimension: int) -> Embeddings:
    """A client's embedding, of unit norm. Raises InputError (bad_embedding)."""
    row = np.array(values, np.float32)
    norm = float(np.linalg.norm(row))
    if len(row) != dimension or not np.isfinite(norm) or norm == 0:
        raise InputError(
            "bad_embedding",
            f"The embedding has {len(row)} numbers and norm {norm:g}; the model's have {dimension} and norm 1.",
            "Send what /v1/embeddings of this model gave.",
        )
    unit: Embeddings = row / norm
    return unit
