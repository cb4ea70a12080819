"""/clip: verdicts and classes, and what the older systems' clients ask about the model."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from data_jobs.errors import InputError
from serve_app import classification, contract, forms, pairs, wire
from serve_app.access import charge
from serve_app.model import Loaded
from serve_app.pairs import Pair
from serve_app.service import Service, service_of
from train_jobs import scoring

router = APIRouter(tags=["clip"])
TheService = Annotated[Service, Depends(service_of)]

_FILE = {"type": "string", "format": "binary", "description": "jpg, png, webp or gif, at most 10 MB."}
_TEXT = {"type": "string", "maxLength": contract.MAX_TEXT_CHARACTERS, "example": "a red mug"}
_COSINE = {"type": "number", "minimum": -1, "maximum": 1, "description": "Default: the deployment's."}
_NAME = {"type": "string", "description": "One of /v1/models; default: the first."}


@router.post(
    "/clip/analyze",
    responses=contract.refusals(403, 404, 415, 422),
    openapi_extra=forms.documented(
        contract.AnalyzeRequest,
        {"file": _FILE, "text": _TEXT, "threshold": _COSINE, "model": _NAME},
        ["file", "text"],
    ),
)
async def analyze(request: Request, service: TheService) -> contract.Verdict:
    """Does the picture show what the text says?"""
    if forms.is_form(request):
        fields = await forms.form(request)
        asked = forms.checked(
            contract.AnalyzeRequest,
            {
                "text": forms.text(fields, "text") or "",
                "threshold": forms.text(fields, "threshold"),
                "model": forms.text(fields, "model"),
            },
        )
        picture = await service.source.uploaded(forms.file(fields, "file"))
    else:
        asked = await forms.json(request, contract.AnalyzeRequest)
        picture = await service.source.of(asked.image, asked.image_url, asked.image_path)
    text, threshold = wire.checked_text(asked.text), wire.checked_threshold(asked.threshold)

    async def judge(loaded: Loaded) -> contract.Verdict:
        image, words = await asyncio.gather(loaded.picture(picture), loaded.texts([text]))
        return service.verdict(loaded, float(image @ words[0]), threshold)

    return await service.model(asked.model).consistent(judge)


@router.post(
    "/clip/analyze-batch",
    responses=contract.refusals(403, 404, 415, 422),
    openapi_extra=forms.documented(
        contract.BatchRequest,
        {
            "files": {"type": "array", "items": _FILE, "maxItems": contract.MAX_BATCH_ITEMS},
            "texts": {"type": "array", "items": _TEXT, "description": "One for each file, in order."},
            "threshold": _COSINE,
            "model": _NAME,
        },
        ["files", "texts"],
    ),
)
async def analyze_batch(request: Request, service: TheService) -> contract.BatchResponse:
    """The same for up to 64 pairs. One that cannot be judged is named in `errors`; the others are in `results`."""
    if forms.is_form(request):
        fields = await forms.form(request)
        charge(request.scope, min(len(fields.getlist("files")), contract.MAX_BATCH_ITEMS))
        batch, name = await pairs.from_form(fields, service.source), forms.text(fields, "model")
    else:
        asked = await forms.json(request, contract.BatchRequest)
        charge(request.scope, min(len(asked.items), contract.MAX_BATCH_ITEMS))
        batch, name = await pairs.from_items(asked.items, service.source), asked.model
    sound = [pair for pair in batch if isinstance(pair, Pair)]

    async def judge(loaded: Loaded) -> contract.BatchResponse:
        images, words = await asyncio.gather(
            loaded.pictures([pair.picture for pair in sound]), loaded.texts([pair.text for pair in sound])
        )
        results, errors = [], [pair for pair in batch if isinstance(pair, contract.BatchError)]
        for pair, image, word in zip(sound, images, words, strict=True):
            if isinstance(image, InputError):
                errors.append(pairs.failure(pair.index, image, pair.image_path))
                continue
            verdict = service.verdict(loaded, float(image @ word), pair.threshold)
            results.append(
                contract.BatchResult(**verdict.model_dump(), index=pair.index, image_path=pair.image_path)
            )
        errors.sort(key=lambda error: error.index)
        return contract.BatchResponse(results=results, errors=errors, model=loaded.info.name)

    return await service.model(name).consistent(judge)


@router.post(
    "/clip/classify",
    responses=contract.refusals(403, 404, 415, 422),
    openapi_extra=forms.documented(
        contract.ClassifyRequest,
        {
            "file": _FILE,
            "categories": {"type": "string", "description": "Comma-separated.", "example": "mug,plate,lamp"},
            "top_k": {"type": "integer", "minimum": 1, "maximum": contract.MAX_TOP_K, "default": 5},
            "model": _NAME,
        },
        ["file"],
    ),
)
async def classify(request: Request, service: TheService) -> contract.Classification:
    """Which categories does the picture show? Scores are a softmax over all categories asked about."""
    if forms.is_form(request):
        fields = await forms.form(request)
        plain = {name: forms.text(fields, name) for name in ("categories", "top_k", "model")}
        asked = forms.checked(
            contract.ClassifyRequest, {name: value for name, value in plain.items() if value is not None}
        )
        picture = await service.source.uploaded(forms.file(fields, "file"))
    else:
        asked = await forms.json(request, contract.ClassifyRequest)
        picture = await service.source.of(asked.image, asked.image_url, asked.image_path)
    names = classification.parse(asked.categories, service.settings.categories, contract.MAX_CATEGORIES)
    for name in names:
        wire.checked_text(name, "categories")

    async def rank(loaded: Loaded) -> contract.Classification:
        image, classes = await asyncio.gather(
            loaded.picture(picture), loaded.texts(classification.prompts(names))
        )
        ranked = classification.rank(image, classes, names, loaded.info.spec.logit_scale, asked.top_k)
        return contract.Classification(
            top_matches=[contract.CategoryScore(category=name, score=score) for name, score in ranked],
            model=loaded.info.name,
        )

    return await service.model(asked.model).consistent(rank)


@router.get("/clip/categories")
async def categories(service: TheService) -> contract.Categories:
    """The categories that /clip/classify uses when none are given."""
    names = list(service.settings.categories)
    return contract.Categories(categories=names, count=len(names))


@router.get("/clip/config")
async def config(service: TheService) -> contract.ClipConfig:
    """What holds unless a request says otherwise."""
    info = (await service.default.loaded()).info
    spec, deployed = info.spec, service.settings.threshold
    return contract.ClipConfig(
        similarity_threshold=scoring.threshold_for(spec, None, deployed),
        threshold_from="deployment" if deployed is not None else "model" if spec.threshold else "default",
        default_categories_count=len(service.settings.categories),
        model_loaded=True,
        model=info.name,
        model_hash=spec.model_hash,
        device=info.device,
        backend=info.backend,
        embedding_dim=spec.embedding_dim,
        calibrated=spec.calibration is not None,
    )


@router.get("/clip/health")
async def health(service: TheService) -> contract.Health:
    """Whether the model answers."""
    try:
        await service.ready()
        info = (await service.default.loaded()).info
    except Exception:
        return contract.Health(status="unhealthy", model_loaded=False, device=None)
    return contract.Health(status="healthy", model_loaded=True, device=info.device)


@router.get("/api/clip/info")
async def info(service: TheService) -> contract.ClipInfo:
    """The model, as the older catalogue system told of it."""
    try:
        loaded = await service.default.loaded()
    except Exception:
        return contract.ClipInfo(
            available=False,
            model_name=service.default.name,
            embedding_dim=None,
            device=None,
            cache_size_mb=0,
        )
    return contract.ClipInfo(
        available=True,
        model_name=loaded.info.name,
        embedding_dim=loaded.info.spec.embedding_dim,
        device=loaded.info.device,
        cache_size_mb=round(loaded.cached_bytes / 1e6, 3),
    )


@router.get("/api/gpu/status")
async def gpu_status(service: TheService) -> contract.GpuStatus:
    """The device, as the older catalogue system told of it."""
    try:
        loaded = await service.default.loaded()
    except Exception as error:
        return contract.GpuStatus(
            available=False, device=None, gpu_name=None, vram=None, throughput=None, first_run=True,
            clip_available=False, error=f"The model does not answer ({type(error).__name__}).",
        )  # fmt: skip
    device, pace = loaded.info.device_facts, loaded.pictures_per_s
    return contract.GpuStatus(
        available=device.kind != "cpu",
        device=device.kind,
        gpu_name=device.gpu_name,
        vram=device.vram_gb,
        throughput=pace,
        first_run=pace is None,
        clip_available=True,
        error=None,
    )
