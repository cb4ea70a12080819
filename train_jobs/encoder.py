"""Encoder: pictures and texts -> unit embeddings, for training, evaluation, indexing and serving alike.

    encoder = Encoder.load("demo_output/model/best_model")
    encoder.images([Image.open("mug.jpg")])   # float32 [1, D], unit norm
    encoder.texts(["a red mug", "ماگ قرمز"])  # float32 [2, D], unit norm

Texts are normalised and pictures preprocessed here and nowhere else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderModel,
)

from data_jobs import text
from data_jobs.artefacts import publish
from data_jobs.errors import InputError
from train_jobs import checkpoints
from train_jobs.spec import FILE, Family, ModelSpec
from train_jobs.towers import TwoTower

Embeddings = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_FAMILIES: dict[str, tuple[Family, type[PreTrainedModel]]] = {
    "clip": ("clip", CLIPModel),
    "vision-text-dual-encoder": ("dual", VisionTextDualEncoderModel),
}


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

    @classmethod
    def load(
        cls, name: str | Path = checkpoints.DEFAULT_MODEL, device: str = "auto", batch_size: int = 32
    ) -> "Encoder":
        """Load a directory of ours, any CLIP or two-tower checkpoint directory, or a hub name.

        `device` is auto, cpu, cuda or mps. Raises InputError: model_not_found, model_unreachable,
        unsupported_model, bad_spec, normalizer_mismatch, or weights_changed when the weights are not those that
        spec.json was written for.
        """
        folder, revision = checkpoints.local_folder(name)
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in _FAMILIES:
            raise InputError(
                "unsupported_model",
                f"{name} is a {config.model_type!r} model; supported are {', '.join(_FAMILIES)}.",
                "Use a CLIP checkpoint or a VisionTextDualEncoderModel.",
            )
        family, model_class = _FAMILIES[config.model_type]
        with checkpoints.quiet():
            model = model_class.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        weights = checkpoints.weights_sha256(folder)
        spec = ModelSpec.read(folder)
        if spec is None:
            spec = _spec_of_checkpoint(folder, str(name), revision, family, model, tokenizer, weights)
        elif spec.weights_sha256 != weights:
            raise InputError(
                "weights_changed",
                f"The weights in {folder} have SHA-256 {weights}; {FILE} was written for "
                f"{spec.weights_sha256}.",
                "Copy the whole model directory again, or train again.",
            )
        return cls(model, tokenizer, spec, device, batch_size)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> ModelSpec:
        """Write a directory that plain transformers loads, with spec.json; whole or not at all.

        Returns the spec as written (with the weights' hash). Raises InputError (output_exists, not_an_artefact).
        """
        with publish(folder, marker="config.json", overwrite=overwrite) as aside:
            with checkpoints.quiet():
                self.towers.model.save_pretrained(aside)
            processor = self._image_processor()
            if self.spec.family == "clip":
                CLIPProcessor(processor, self.tokenizer).save_pretrained(aside)
            else:
                self.tokenizer.save_pretrained(aside)
            processor.save_pretrained(aside)
            self.spec = self.spec.replace(weights_sha256=checkpoints.weights_sha256(aside))
            (aside / FILE).write_text(self.spec.to_json(), encoding="utf-8")
        return self.spec

    def pixels(self, image: Image.Image) -> Pixels:
        """The model's view of one RGB picture: uint8 [S, S, 3]."""
        return preprocess(image, self.spec.image_size, self.spec.image_resize)

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
        ids = self.token_ids(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.empty((len(ids), self.spec.embedding_dim), np.float32)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.padded([ids[row] for row in rows])
            out[rows] = self._run(lambda b=batch: self.towers.text(*b))
        return out

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Normalised, tokenised and cut to the context length, not padded."""
        if not len(texts):
            return []
        encoded = self.tokenizer(
            [text.normalize(t) for t in texts], truncation=True, max_length=self.spec.context_length
        )
        return cast(list[list[int]], encoded["input_ids"])

    def padded(self, ids: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token lists -> ids and mask, int64 [N, L] on the device, padded to the longest of the batch."""
        batch = self.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        return batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)

    def _to_device(self, pixels: Pixels) -> torch.Tensor:
        """uint8 [N, S, S, 3] -> uint8 [N, 3, S, S] on the device, channels last in memory."""
        return torch.from_numpy(np.array(pixels)).to(self.device).permute(0, 3, 1, 2)

    def _run(self, forward: Any) -> Embeddings:
        with torch.inference_mode():
            return cast(Embeddings, forward().float().cpu().numpy())

    def _joined(self, rows: list[Embeddings]) -> Embeddings:
        return np.concatenate(rows) if rows else np.empty((0, self.spec.embedding_dim), np.float32)

    def _image_processor(self) -> Any:
        size = self.spec.image_size
        square = {"height": size, "width": size}
        crop = self.spec.image_resize == "crop"
        return CLIPImageProcessorPil(
            size={"shortest_edge": size} if crop else square,
            do_center_crop=crop,
            crop_size=square,
            image_mean=list(self.spec.image_mean),
            image_std=list(self.spec.image_std),
        )


def preprocess(image: Image.Image, size: int, resize: str) -> Pixels:
    """uint8 [size, size, 3]: bicubic, "crop" (shortest side, then the centre) or "squash" (both sides).

    What transformers' CLIP processor does before it normalises, but with PyTorch's filter for Pillow's, which takes
    twice as long: benchmarks/decode finds 0.003 of 255 levels between them at the mean, and a cosine of 1.000000.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # [3, H, W]
    height, width = pixels.shape[1:]
    target = (size, size)
    if resize == "crop":
        short = min(width, height)
        target = (max(size, int(size * height / short)), max(size, int(size * width / short)))
    if target != (height, width):
        pixels = torch.nn.functional.interpolate(pixels[None], target, mode="bicubic", antialias=True)[0]
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return np.ascontiguousarray(pixels[:, top : top + size, left : left + size].permute(1, 2, 0).numpy())


def choose_device(device: str = "auto") -> str:
    """auto -> cuda, mps or cpu, whatever is there. Raises InputError (no_such_device) for one that is not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device.split(":")[0], False):
        raise InputError(
            "no_such_device",
            f"The device {device!r} is not on this machine; there are {[d for d, ok in there.items() if ok]}.",
            "Use auto.",
        )
    return device


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
    processor = AutoImageProcessor.from_pretrained(folder)
    size = dict(processor.crop_size if processor.do_center_crop else processor.size)
    positions = getattr(model.config.text_config, "max_position_embeddings", tokenizer.model_max_length)
    return ModelSpec(
        base_model=name,
        base_revision=revision,
        family=family,
        embedding_dim=model.config.projection_dim,
        image_size=size["height"],
        image_resize="crop" if processor.do_center_crop else "squash",
        image_mean=tuple(processor.image_mean),
        image_std=tuple(processor.image_std),
        context_length=int(min(tokenizer.model_max_length, positions)),
        text_normalizer=text.VERSION,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0,
        calibration=None,
        threshold=None,
        metrics={},
        data_fingerprint=None,
        weights_sha256=weights,
    )
