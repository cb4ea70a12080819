"""The Ingress deployment: routes only. Parse, limit, decode, ask the other deployments, map errors.

A request's life: middleware -> route -> `wire` (limits, decoding) -> `Embedder` or `Retriever` through a handle ->
`scoring` -> a model of `contract`. Verdicts and class scores are computed right here: they cost microseconds, and
a hop to a deployment of their own would cost milliseconds.

Serve copies the routes when the class below is made, so whatever they use must stand above it.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from fastapi import File, Form, UploadFile
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from data_jobs.errors import InputError
from serve_app import classification, contract, web, wire
from serve_app.embedding import ModelInfo
from serve_app.settings import ServeArgs
from train_jobs import scoring
from train_jobs.encoder import Embeddings, Pixels
from train_jobs.index_kinds import Modality

CANARY_MEMORY_S = 30.0
"""With full queues the last canary counts for so long."""
CANARY_TIMEOUT_S = 10.0
"""A model that takes longer than this for one grey picture is not ready."""


async def _joined(calls: Sequence[Awaitable[Any]]) -> Embeddings:
    parts = await asyncio.gather(*calls)
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _sorted_out(
    items: Sequence[str | contract.EmbeddingItem], modality: str
) -> tuple[dict[int, str], dict[int, str]]:
    """Checked texts and encoded pictures of an embeddings request, by position."""
    texts: dict[int, str] = {}
    pictures: dict[int, str] = {}
    for position, item in enumerate(items):
        if isinstance(item, str):
            item = contract.EmbeddingItem(**{modality: item})
        if (item.text is None) == (item.image is None):
            raise InputError(
                "bad_input",
                f"Input {position} has not exactly one of text and image.",
                "Send one of the two.",
            )
        if item.image is not None:
            pictures[position] = item.image
        else:
            texts[position] = wire.checked_text(item.text, f"input {position}")
    return texts, pictures


def _encoded(row: Embeddings, request: contract.EmbeddingRequest) -> list[float] | str:
    """One embedding in the asked-for size (normalised again) and encoding."""
    if request.dimensions is not None:
        if request.dimensions > len(row):
            raise InputError(
                "bad_dimensions",
                f"dimensions is {request.dimensions}; the model has {len(row)}.",
                "Use fewer.",
            )
        row = row[: request.dimensions]
        row = row / max(float(np.linalg.norm(row)), 1e-12)
    if request.encoding_format == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(value) for value in row]


app = web.application()


@serve.deployment
@serve.ingress(app)
class Ingress:
    """The HTTP contract over an Embedder and a Retriever."""

    def __init__(self, embedder: DeploymentHandle, retriever: DeploymentHandle, settings: ServeArgs) -> None:
        self._embedder, self._retriever, self._settings = embedder, retriever, settings
        self._info: ModelInfo | None = None
        self._answered = float("-inf")  # when the last canary came through
        self._classes: dict[tuple[str, ...], Embeddings] = {}

    @app.post("/clip/analyze")
    async def analyze(
        self,
        file: Annotated[UploadFile, File(description="jpg, png, webp or gif, at most 10 MB.")],
        text: Annotated[str, Form(description="At most 500 characters.")],
        threshold: Annotated[float | None, Form(description="Cosine; default: the deployment's.")] = None,
    ) -> contract.Verdict:
        """Does the picture show what the text says?"""
        text, threshold = wire.checked_text(text), wire.checked_threshold(threshold)
        info = await self._model()
        image, words = await asyncio.gather(self._embed_image(await file.read()), self._embed_texts([text]))
        verdict = scoring.verdict(
            float(image @ words[0]),
            scoring.threshold_for(info.spec, threshold, self._settings.threshold),
            info.spec.calibration,
        )
        return contract.Verdict(**asdict(verdict), model=info.name)

    @app.post("/clip/classify")
    async def classify(
        self,
        file: Annotated[UploadFile, File(description="jpg, png, webp or gif, at most 10 MB.")],
        categories: Annotated[
            str | None, Form(description="Comma-separated; default: /clip/categories.")
        ] = None,
        top_k: Annotated[int, Form(ge=1, le=contract.MAX_TOP_K)] = 5,
    ) -> contract.Classification:
        """Which categories does the picture show?"""
        names = classification.parse(categories, self._settings.categories, contract.MAX_CATEGORIES)
        for name in names:
            wire.checked_text(name, "categories")
        info = await self._model()
        image, classes = await asyncio.gather(
            self._embed_image(await file.read()), self._embed_classes(names)
        )
        ranked = classification.rank(image, classes, names, info.spec.logit_scale, top_k)
        matches = [contract.CategoryScore(category=name, score=score) for name, score in ranked]
        return contract.Classification(top_matches=matches, model=info.name)

    @app.get("/clip/categories")
    async def categories(self) -> contract.Categories:
        """The categories that /clip/classify uses when none are given."""
        names = list(self._settings.categories)
        return contract.Categories(categories=names, count=len(names))

    @app.get("/clip/health")
    async def health(self) -> contract.Health:
        """Whether the model answers."""
        try:
            await self._canary()
        except Exception:
            return contract.Health(status="unhealthy", model_loaded=False, device=None)
        info = await self._model()
        return contract.Health(status="healthy", model_loaded=True, device=info.device)

    @app.post("/v1/embeddings")
    @app.post("/embeddings", include_in_schema=False)
    async def embeddings(self, request: contract.EmbeddingRequest) -> contract.EmbeddingResponse:
        """OpenAI's embeddings, for texts and pictures."""
        items = request.input if isinstance(request.input, list) else [request.input]
        if not 1 <= len(items) <= contract.MAX_BATCH_ITEMS:
            raise InputError(
                "bad_batch",
                f"{len(items)} inputs; the limit is 1 to {contract.MAX_BATCH_ITEMS}.",
                "Split them.",
            )
        info = await self._model()
        texts, pictures = _sorted_out(items, request.modality)
        rows: dict[int, Embeddings] = {}
        decoded = [
            await asyncio.to_thread(wire.pixels, wire.from_base64(value), info.spec)
            for value in pictures.values()
        ]
        words, images = await asyncio.gather(
            self._embed_texts(list(texts.values())), self._embed_pixels(decoded)
        )
        rows.update(zip(texts, words, strict=True))
        rows.update(zip(pictures, images, strict=True))
        tokens = await self._embedder.tokens.remote(list(texts.values())) if texts else 0
        return contract.EmbeddingResponse(
            data=[
                contract.Embedding(index=i, embedding=_encoded(rows[i], request)) for i in range(len(items))
            ],
            model=info.name,
            usage=contract.Usage(prompt_tokens=tokens, total_tokens=tokens),
        )

    @app.post("/search")
    async def search(self, request: contract.SearchRequest) -> contract.SearchResponse:
        """The passages nearest to a text or a picture."""
        if (request.text is None) == (request.image is None):
            raise InputError("bad_query", "Give either text or image.", "Send one of the two.")
        info = await self._model()
        if request.text is not None:
            modality: Modality = "text"
            query = (await self._embed_texts([wire.checked_text(request.text)]))[0]
        else:
            assert request.image is not None
            modality = "image"
            query = await self._embed_image(wire.from_base64(request.image))
        hits, version = await self._retriever.search.remote(
            query, info.spec.model_hash, request.top_k, modality
        )
        return contract.SearchResponse(
            hits=[contract.SearchHit.of(hit.score, hit.document) for hit in hits],
            index_version=version,
            model=info.name,
        )

    @app.get("/healthz/live")
    async def live(self) -> contract.Live:
        """This process answers."""
        return contract.Live()

    @app.get("/healthz/ready")
    async def ready(self) -> contract.Ready:
        """A picture and a text have just been through the model, and the index answers."""
        try:
            version = await asyncio.wait_for(self._retriever.version.remote(), CANARY_TIMEOUT_S)
            await self._canary()
        except BackPressureError:
            if time.monotonic() - self._answered > CANARY_MEMORY_S:
                raise InputError(
                    "not_ready", "The queues are full and nothing has been answered for a while.", "Wait."
                ) from None
            return contract.Ready(status="busy", model=(await self._model()).name, index_version=None)
        except Exception as error:
            raise InputError(
                "not_ready",
                f"The model does not answer ({type(error).__name__}).",
                "Wait; if it lasts, look at the log of the Embedder deployment.",
            ) from error
        return contract.Ready(status="ready", model=(await self._model()).name, index_version=version)

    async def _model(self) -> ModelInfo:
        if self._info is None:
            self._info = await self._embedder.info.remote()
        return self._info

    async def _canary(self) -> None:
        """One grey picture and one word through the real path; raises what goes wrong."""

        async def through() -> None:
            size = (await self._model()).spec.image_size
            grey = np.full((size, size, 3), 127, np.uint8)
            image, words = await asyncio.gather(self._embed_pixels([grey]), self._embed_texts(["canary"]))
            if not np.isfinite(image @ words[0]).all():
                raise RuntimeError("the canary's embeddings are not finite")
            self._answered = time.monotonic()

        await asyncio.wait_for(through(), CANARY_TIMEOUT_S)

    async def _embed_image(self, data: bytes) -> Embeddings:
        """A picture file -> float32 [D]."""
        info = await self._model()
        decoded = await asyncio.to_thread(wire.pixels, data, info.spec)
        return (await self._embed_pixels([decoded]))[0]

    async def _embed_pixels(self, pictures: Sequence[Pixels]) -> Embeddings:
        """Decoded pictures -> float32 [N, D]."""
        size = self._settings.batch_size
        calls = [
            self._embedder.images.remote(np.stack(pictures[start : start + size]))
            for start in range(0, len(pictures), size)
        ]
        return await _joined(calls)

    async def _embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Checked texts -> float32 [N, D]."""
        size = self._settings.batch_size
        calls = [
            self._embedder.texts.remote(list(texts[start : start + size]))
            for start in range(0, len(texts), size)
        ]
        return await _joined(calls)

    async def _embed_classes(self, names: Sequence[str]) -> Embeddings:
        """Category prompts -> float32 [K, D]; the default categories are embedded once."""
        key = tuple(names)
        if key in self._classes:
            return self._classes[key]
        rows = await self._embed_texts(classification.prompts(names))
        if key == self._settings.categories:
            self._classes[key] = rows
        return rows
