"""Encoder: pictures and texts -> unit embeddings, for training, evaluation, indexing and serving alike.

    encoder = Encoder.load("demo_output/model/best_model")
    encoder.images([Image.open("mug.jpg")])   # float32 [1, D], unit norm
    encoder.texts(["a red mug", "ماگ قرمز"])  # float32 [2, D], unit norm

Texts are normalised and pictures preprocessed here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Siglip2Model,
    Siglip2Processor,
    SiglipModel,
    SiglipProcessor,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from data_jobs import text
from data_jobs.artefacts import publish
from data_jobs.errors import InputError
from train_jobs import checkpoints, hub, preprocessing
from train_jobs.arrays import Embeddings, Pixels
from train_jobs.devices import choose_device
from train_jobs.spec import FILE, Family, ModelSpec
from train_jobs.tokens import Tokens
from train_jobs.tokens import tokenizer as load_tokenizer
from train_jobs.towers import TwoTower
from train_jobs.view import View


@dataclass(frozen=True)
class _Kind:
    """What transformers has for a family."""

    family: Family
    model: type[PreTrainedModel]
    processor: Any


FAMILIES = {
    "clip": _Kind("clip", CLIPModel, CLIPProcessor),
    "vision-text-dual-encoder": _Kind("dual", VisionTextDualEncoderModel, VisionTextDualEncoderProcessor),
    "siglip": _Kind("siglip", SiglipModel, SiglipProcessor),
    "siglip2": _Kind("siglip2", Siglip2Model, Siglip2Processor),
}
"""By transformers' model_type."""


class Encoder:
    """A loaded model with its tokenizer and spec. Not thread-safe: one forward pass at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: ModelSpec,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        self.device = torch.device(choose_device(device))
        self.towers = TwoTower(model, spec.image_mean, spec.image_std, spec.logit_bias)
        self.towers.to(self.device).eval()
        self.tokenizer = tokenizer
        self.spec = spec
        self.batch_size = batch_size

    @property
    def tokens(self) -> Tokens:
        """The tokenizer as the spec says to use it."""
        return Tokens(self.tokenizer, self.spec.context_length, self.spec.pad_to_context)

    @classmethod
    def load(
        cls, name: str | Path = hub.DEFAULT_MODEL, device: str = "auto", batch_size: int = 32
    ) -> "Encoder":
        """Load a directory of ours, a checkpoint directory of CLIP, SigLIP or two towers, or a hub name.

        `device` is auto, cpu, cuda or mps. Raises InputError: model_not_found, model_unreachable, incomplete_weights,
        unsupported_model, no_tokenizer, no_processor, unsupported_processor, bad_spec, normalizer_mismatch, or
        weights_changed when the weights are not those that spec.json was written for.
        """
        folder, revision = hub.local_folder(name)
        config = checkpoints.config(folder)
        kind = FAMILIES.get(config.model_type)
        if kind is None:
            raise InputError(
                "unsupported_model",
                f"{name} is a {config.model_type!r} model; supported are {', '.join(FAMILIES)}.",
                "Use a CLIP, SigLIP or VisionTextDualEncoderModel checkpoint. One tower, with another: "
                "train_jobs.two_towers.",
            )
        model = checkpoints.load(kind.model, folder)
        tokenizer = load_tokenizer(folder)
        weights = hub.weights_sha256(folder)
        spec = ModelSpec.read(folder)
        if spec is None:
            spec = _spec_of_checkpoint(folder, str(name), revision, kind.family, model, tokenizer, weights)
        else:
            spec.refuse_other_weights(folder, weights)
        return cls(model, tokenizer, spec, device, batch_size)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> ModelSpec:
        """Write a directory that plain transformers loads, with spec.json; whole or not at all.

        Returns the spec as written, with the scale and the bias that the towers have and the weights' hash. Raises
        InputError (output_exists, not_an_artefact).
        """
        model = self.towers.model
        with publish(folder, marker="config.json", overwrite=overwrite) as aside:
            with checkpoints.quiet():
                model.save_pretrained(aside, state_dict=_unshared(model.state_dict()))
            patch = model.config.vision_config.patch_size if self.spec.family == "siglip2" else None
            images = preprocessing.processor(self.spec, patch)
            images.save_pretrained(aside)
            FAMILIES[model.config.model_type].processor(images, self.tokenizer).save_pretrained(aside)
            self.spec = self.spec.replace(
                logit_scale=self.towers.scale().item(),
                logit_bias=self.towers.logit_bias.item(),
                weights_sha256=hub.weights_sha256(aside),
            )
            (aside / FILE).write_text(self.spec.to_json(), encoding="utf-8")
        return self.spec

    def pixels(self, image: Image.Image) -> Pixels:
        """The model's view of one RGB picture: uint8 [S, S, 3]."""
        return View.of(self.spec).pixels(image)

    def images(self, images: Sequence[Image.Image] | Pixels) -> Embeddings:
        """Pictures (PIL, RGB) or ready pixels (uint8 [N, S, S, 3]) -> float32 [N, D], unit norm."""
        rows = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            if not isinstance(batch, np.ndarray):
                batch = np.stack([self.pixels(image) for image in batch])
            rows.append(self._run(lambda b=batch: self.towers.image(self._to_device(b))))
        return self._joined(rows)

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts as people write them -> float32 [N, D], unit norm. Batches are made of texts of like length."""
        return self.texts_of(self.token_ids(texts))

    def texts_of(self, ids: Sequence[list[int]]) -> Embeddings:
        """Texts as `token_ids` gives them -> float32 [N, D], unit norm."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.empty((len(ids), self.spec.embedding_dim), np.float32)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.padded([ids[row] for row in rows])
            out[rows] = self._run(lambda b=batch: self.towers.text(*b))
        return out

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As Tokens.ids."""
        return self.tokens.ids(texts)

    def padded(self, ids: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """As Tokens.padded, on the device."""
        batch, mask = self.tokens.padded(ids)
        return batch.to(self.device), mask.to(self.device)

    def _to_device(self, pixels: Pixels) -> torch.Tensor:
        """uint8 [N, S, S, 3] -> uint8 [N, 3, S, S] on the device, channels last in memory."""
        return torch.from_numpy(np.array(pixels)).to(self.device).permute(0, 3, 1, 2)

    def _run(self, forward: Any) -> Embeddings:
        with torch.inference_mode():
            return cast(Embeddings, forward().float().cpu().numpy())

    def _joined(self, rows: list[Embeddings]) -> Embeddings:
        return np.concatenate(rows) if rows else np.empty((0, self.spec.embedding_dim), np.float32)


@lru_cache(maxsize=1)
def loaded(folder: str, version: str | None, device: str) -> Encoder:
    """`Encoder.load`, once in a process for tasks that follow one another.

    `version` is any string that changes when the folder is written anew. (Here, since Ray cannot send a cached
    function of a job that runs as a script.)
    """
    return Encoder.load(folder, device)


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with a copy for every tensor that has another's memory, which safetensors cannot express."""
    seen: set[int] = set()
    found = {}
    for name, value in state.items():
        found[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return found


def _spec_of_checkpoint(
    folder: Path,
    name: str,
    revision: str | None,
    family: Family,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: str | None,
) -> ModelSpec:
    """The facts of a checkpoint that is not ours, from its own configuration files."""
    view, mean, std = preprocessing.read(checkpoints.image_processor(folder))
    siglip = family in ("siglip", "siglip2")
    text_config = model.config.text_config
    bias = getattr(model, "logit_bias", None)
    return ModelSpec(
        base_model=name,
        base_revision=revision,
        family=family,
        embedding_dim=text_config.projection_size if siglip else model.config.projection_dim,
        image_size=view.size,
        image_resize=view.resize,
        image_shortest=view.shortest,
        image_resample=view.resample,
        image_mean=mean,
        image_std=std,
        context_length=context_length(model.text_model, tokenizer),
        pad_to_context=siglip,
        text_normalizer=text.VERSION,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
        weights_sha256=weights,
    )


def context_length(text_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a text may have: what the tokenizer says, but no more than there are positions."""
    positions = getattr(text_model.config, "max_position_embeddings", None)
    if positions is None:
        return int(tokenizer.model_max_length)
    # RoBERTa and its kin count positions from behind the padding's id.
    padding = getattr(getattr(text_model.embeddings, "position_embeddings", None), "padding_idx", None)
    return int(min(tokenizer.model_max_length, positions - (0 if padding is None else padding + 1)))
