"""/v1/embeddings and /v1/models, as OpenAI's clients ask for them, with pictures."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from data_jobs.errors import InputError
from serve_app import contract, forms, wire
from serve_app.access import charge
from serve_app.clip_routes import TheService
from serve_app.model import Loaded, ServedModel
from serve_app.pictures import PictureSource
from serve_app.service import CLIP, Service
from train_jobs.arrays import Embeddings

router = APIRouter(tags=["embeddings"])


@dataclass(frozen=True)
class _Asked:
    """What to embed: distinct things in order, and which of them make up each answer."""

    texts: list[str]
    pictures: list[bytes]
    answers: list[
        list[tuple[str, int]]
    ]  # for each answer its parts: ("text", row of texts) or ("image", row)


@router.post(
    "/v1/embeddings",
    response_model=contract.EmbeddingResponse,
    responses=contract.refusals(403, 404, 415, 422),
    openapi_extra=forms.documented(contract.EmbeddingRequest),
)
@router.post("/embeddings", response_model=contract.EmbeddingResponse, include_in_schema=False)
async def embeddings(arrived: Request, service: TheService) -> Response:
    """OpenAI's embeddings, for texts and pictures."""
    request = await forms.json(arrived, contract.EmbeddingRequest)
    model = service.model(request.model)
    several = request.input if isinstance(request.input, list) else request.messages
    charge(arrived.scope, min(len(several or ()), contract.MAX_BATCH_ITEMS))
    asked = await _asked(request, service.source)

    async def embed(loaded: Loaded) -> Response:
        if request.dimensions is not None and request.dimensions > loaded.info.spec.embedding_dim:
            raise InputError(
                "bad_dimensions",
                f"dimensions is {request.dimensions}; the model has {loaded.info.spec.embedding_dim}.",
                "Use fewer.",
            )
        words, images = await asyncio.gather(loaded.read(asked.texts), loaded.pictures(asked.pictures))
        rows = {"text": list(words.rows), "image": [_sound(image) for image in images]}
        found = [_joined([rows[kind][number] for kind, number in parts]) for parts in asked.answers]
        body = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _encoded(row, request)}
                for index, row in enumerate(found)
            ],
            "model": loaded.info.name,
            "usage": {"prompt_tokens": words.tokens, "total_tokens": words.tokens},
        }
        # Thousands of numbers: not through pydantic, which takes longer than the model.
        return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return await model.consistent(embed)


@router.get("/v1/models")
async def models(service: TheService) -> contract.ModelList:
    """The served models."""
    return contract.ModelList(data=[await _card(service, model) for model in service.models.values()])


@router.get("/v1/models/{name:path}", responses=contract.refusals(404, 422))
async def model(name: str, service: TheService) -> contract.ModelCard:
    """One of them, by its name or alias."""
    return await _card(service, service.model(name))


async def _card(service: Service, model: ServedModel) -> contract.ModelCard:
    spec = (await model.loaded()).info.spec
    return contract.ModelCard(
        id=model.name,
        created=int(service.started),
        aliases=[CLIP] if model is service.default else [],
        model_hash=spec.model_hash,
        embedding_dim=spec.embedding_dim,
        calibrated=spec.calibration is not None,
    )


async def _asked(request: contract.EmbeddingRequest, source: PictureSource) -> _Asked:
    """Everything checked and at hand. Raises InputError."""
    if (request.input is None) == (request.messages is None):
        raise InputError(
            "bad_input", "There is not exactly one of input and messages.", "Send one of the two."
        )
    asked = _Asked([], [], [])
    if request.messages is not None:
        wire.check_count(len(request.messages), "inputs")
        for number, message in enumerate(request.messages):
            parts = message.content if isinstance(message.content, list) else [_said(message.content)]
            if not parts:
                raise InputError("bad_input", f"Message {number} has no parts.", "Send a text or a picture.")
            items = [_item(part, number) for part in parts]
            asked.answers.append([await _take(item, f"message {number}", asked, source) for item in items])
    else:
        items = _items(request)
        wire.check_count(len(items), "inputs")
        for number, item in enumerate(items):
            asked.answers.append([await _take(item, f"input {number}", asked, source)])
    wire.check_count(len(asked.texts) + len(asked.pictures), "inputs")
    return asked


def _items(request: contract.EmbeddingRequest) -> list[contract.EmbeddingItem]:
    given = request.input if isinstance(request.input, list) else [request.input]
    return [
        contract.EmbeddingItem(**{request.modality: item}) if isinstance(item, str) else item
        for item in given
        if item is not None
    ]


def _said(text: str) -> contract.Part:
    return contract.Part(type="text", text=text)


def _item(part: contract.Part, number: int) -> contract.EmbeddingItem:
    if part.type == "text":
        return contract.EmbeddingItem(text=part.text or "")
    if part.image_url is None:
        raise InputError("bad_input", f"A part of message {number} has no image_url.", "Send its url.")
    return contract.EmbeddingItem(image=part.image_url.url)


async def _take(
    item: contract.EmbeddingItem, name: str, asked: _Asked, source: PictureSource
) -> tuple[str, int]:
    if (item.text is None) == (item.image is None):
        raise InputError(
            "bad_input", f"{name.capitalize()} has not exactly one of text and image.", "Send one of the two."
        )
    if item.image is not None:
        asked.pictures.append(await source.encoded(item.image))
        return "image", len(asked.pictures) - 1
    asked.texts.append(wire.checked_text(item.text, name))
    return "text", len(asked.texts) - 1


def _sound(image: Embeddings | InputError) -> Embeddings:
    if isinstance(image, InputError):
        raise image
    return image


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    """One part as it is; of several the mean, of unit norm again."""
    if len(parts) == 1:
        return parts[0]
    return _unit(np.mean(np.stack(parts), axis=0))


def _encoded(row: Embeddings, request: contract.EmbeddingRequest) -> Embeddings | str:
    """One embedding in the asked-for size (normalised again) and encoding."""
    if request.dimensions is not None:
        row = _unit(row[: request.dimensions])
    row = np.ascontiguousarray(row, np.float32)
    if request.encoding_format == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return row


def _unit(row: Embeddings) -> Embeddings:
    unit: Embeddings = row / max(float(np.linalg.norm(row)), 1e-12)
    return unit
