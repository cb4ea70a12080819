"""Two towers of two checkpoints: a vision model and a text model become one VisionTextDualEncoderModel.

    encoder = two_towers.build("openai/clip-vit-base-patch32", "HooshvareLab/bert-fa-base-uncased")
    encoder = two_towers.build("clip_model", "scratch:text", texts=titles)  # a small text tower of its own

The space of the vision model is kept, so that a frozen vision tower embeds pictures as it always did and the text tower
learns to meet them: its own projection where it has one (CLIP, an output of ours), else its pooled output as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from data_jobs import text as normaliser
from data_jobs.errors import InputError
from train_jobs import checkpoints, hub, preprocessing, scratch, tokens
from train_jobs.encoder import FAMILIES, Encoder, context_length
from train_jobs.preprocessing import Rgb
from train_jobs.spec import ModelSpec
from train_jobs.view import View

_NEW = "pooler"
"""A tower's pooler may be new: checkpoints that were trained without one are common."""


@dataclass(frozen=True)
class _Vision:
    tower: PreTrainedModel
    projection: torch.Tensor | None  # [D, H]
    view: View
    mean: Rgb
    std: Rgb
    revision: str | None


@dataclass(frozen=True)
class _Text:
    tower: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    revision: str | None


def build(
    vision: str | Path,
    text: str | Path,
    *,
    texts: Iterable[str] = (),
    projection_dim: int | None = None,
    seed: int = 0,
) -> Encoder:
    """A model of both towers, whose projections are as yet untrained; on the CPU.

    vision: a directory or hub name of a vision model (CLIPVisionModel, ViT, ResNet...) or of a whole CLIP, SigLIP or
    two-tower model. text: of a text encoder with a pooled output (BERT, RoBERTa, XLM-R...) or of a whole CLIP or
    two-tower model; or scratch:text, a small BERT with a tokenizer trained on `texts`. projection_dim: size of the
    embeddings, then with new projections of both; None keeps the vision model's space. `seed` decides whatever is new.

    Raises InputError: not_a_vision_model, not_a_text_model, and those of Encoder.load.
    """
    torch.manual_seed(seed)
    picture, words = _vision(vision), _text(text, texts)
    hidden = picture.tower.config.hidden_size
    kept = torch.eye(hidden) if picture.projection is None else picture.projection
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        picture.tower.config, words.tower.config, projection_dim=projection_dim or len(kept)
    )
    model = VisionTextDualEncoderModel(config, picture.tower, words.tower)
    if projection_dim is None:
        model.visual_projection.weight.data.copy_(kept)
    revisions = (picture.revision, words.revision)
    spec = ModelSpec(
        base_model=f"{vision} + {text}",
        base_revision=" + ".join(str(r) for r in revisions) if any(revisions) else None,
        family="dual",
        embedding_dim=config.projection_dim,
        image_size=picture.view.size,
        image_resize=picture.view.resize,
        image_shortest=picture.view.shortest,
        image_resample=picture.view.resample,
        image_mean=picture.mean,
        image_std=picture.std,
        context_length=words.context_length,
        pad_to_context=False,
        text_normalizer=normaliser.VERSION,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0,
    )
    return Encoder(model, words.tokenizer, spec, device="cpu")


def check(vision: str | Path, text: str | Path) -> None:
    """Raise what `build` would, as far as it shows without reading weights."""
    _vision_folder(vision)
    if text != scratch.TEXT:
        _text_folder(text)


def _vision_folder(name: str | Path) -> tuple[Path, str | None, Any]:
    """Directory, revision and configuration of a model with a vision tower that can be taken."""
    folder, revision = hub.local_folder(name)
    config = checkpoints.config(folder)
    if config.model_type == "siglip2":
        raise _not_vision(name, config, "is a NaFlex SigLIP 2, whose tower takes patches for pictures")
    return folder, revision, config


def _text_folder(name: str | Path) -> tuple[Path, str | None, Any]:
    if str(name).startswith(scratch.PREFIX):
        raise InputError("unknown_recipe", f"There is no text recipe {str(name)!r}.", f"Use {scratch.TEXT}.")
    folder, revision = hub.local_folder(name)
    config = checkpoints.config(folder)
    if config.model_type in ("siglip", "siglip2"):
        raise _not_text(name, config, "reads its padding as text, which two-tower models do not give it")
    if config.is_encoder_decoder:
        raise _not_text(name, config, "is an encoder with a decoder")
    return folder, revision, config


def _vision(name: str | Path) -> _Vision:
    folder, revision, config = _vision_folder(name)
    if config.model_type in FAMILIES:
        whole = Encoder.load(folder, device="cpu")
        model, spec = whole.towers.model, whole.spec
        head = getattr(model, "visual_projection", None)
        projection = None if head is None else head.weight.data
        return _Vision(
            model.vision_model, projection, View.of(spec), spec.image_mean, spec.image_std, revision
        )
    tower = _tower(folder, name, "pixel_values", _not_vision)
    view, mean, std = preprocessing.read(checkpoints.image_processor(folder))
    try:
        width = _pooled_width(tower, pixel_values=torch.zeros(1, 3, view.size, view.size))
    except (ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise _not_vision(
            name, config, f"makes no vector of a picture of {view.size} pixels: {reason}"
        ) from error
    tower.config.hidden_size = width  # convolutional ones do not say it, and VisionTextDualEncoderModel asks
    return _Vision(tower, None, view, mean, std, revision)


def _text(name: str | Path, texts: Iterable[str]) -> _Text:
    if name == scratch.TEXT:
        tokenizer = scratch.train_tokenizer(texts)
        return _Text(scratch.text_tower(tokenizer), tokenizer, scratch.CONTEXT_LENGTH, None)
    folder, revision, config = _text_folder(name)
    if config.model_type in FAMILIES:
        whole = Encoder.load(folder, device="cpu")
        return _Text(whole.towers.model.text_model, whole.tokenizer, whole.spec.context_length, revision)
    tower = _tower(folder, name, "input_ids", _not_text)
    tokenizer = tokens.tokenizer(folder)
    try:
        _pooled_width(tower, **tokenizer("a", return_tensors="pt"))
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise _not_text(
            name, config, f"makes no vector of a text: {str(error).strip().splitlines()[0]}"
        ) from error
    return _Text(tower, tokenizer, context_length(tower, tokenizer), revision)


def _tower(folder: Path, name: str | Path, takes: str, refusal: Any) -> PreTrainedModel:
    """The model in `folder`, if `takes` is its input."""
    config = checkpoints.config(folder)
    try:
        kind = AutoModel._model_mapping[type(config)]
    except KeyError as error:
        raise refusal(name, config, "is no model that transformers' AutoModel knows") from error
    if kind.main_input_name != takes:
        raise refusal(name, config, f"takes {kind.main_input_name}, not {takes}")
    return checkpoints.load(AutoModel, folder, new=_NEW)


def _pooled_width(tower: PreTrainedModel, **inputs: torch.Tensor) -> int:
    """How many numbers `tower` pools its input to. Raises ValueError if it pools nothing."""
    with torch.inference_mode():
        pooled = getattr(tower.eval()(**inputs), "pooler_output", None)
    if pooled is None:
        raise ValueError("it has no pooled output (pooler_output), which VisionTextDualEncoderModel projects")
    return int(pooled.flatten(1).shape[1])


def _not_vision(name: str | Path, config: Any, what: str) -> InputError:
    return InputError(
        "not_a_vision_model",
        f"The vision model {name} ({config.model_type!r}) {what}.",
        "Use a CLIPVisionModel, ViT or the like, or a whole CLIP, SigLIP or two-tower model.",
    )


def _not_text(name: str | Path, config: Any, what: str) -> InputError:
    return InputError(
        "not_a_text_model",
        f"The text model {name} ({config.model_type!r}) {what}.",
        "Use a text encoder with a pooled output, such as BERT, RoBERTa or XLM-R, a whole CLIP or two-tower model, "
        f"or {scratch.TEXT}.",
    )
