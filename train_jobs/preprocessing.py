"""View: from a picture to a model's square input, as the model's own processor makes it.

    view = View.of(encoder.spec)
    view.pixels(Image.open("mug.jpg"))  # uint8 [S, S, 3]
    view.scaled(1.15)                   # the same picture in more detail, to augment

`read` tells what a transformers processor does, or refuses one that cannot be reproduced; `processor` writes one down.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, Siglip2ImageProcessorPil, SiglipImageProcessorPil

from data_jobs.errors import InputError
from train_jobs.spec import ModelSpec, Resample

Pixels = NDArray[np.uint8]
Rgb = tuple[float, float, float]

_RESAMPLES: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}  # numbered as Pillow does
_NUMBERS = {name: number for number, name in _RESAMPLES.items()}
_WARPS_FROM = 384
"""ConvNextImageProcessor crops below this size and squashes from it on."""


@dataclass(frozen=True)
class View:
    """What a model sees of a picture.

    crop: the shortest side scaled to `shortest`, then `size` x `size` pixels of the centre; squash: both sides scaled
    to `size` at once.
    """

    size: int  # pixels, square
    shortest: int  # pixels, at least `size`
    resize: Literal["crop", "squash"]
    resample: Resample

    @classmethod
    def of(cls, spec: ModelSpec) -> "View":
        """The view of the model that `spec` describes."""
        return cls(spec.image_size, spec.image_shortest, spec.image_resize, spec.image_resample)

    def scaled(self, factor: float) -> "View":
        """The same part of the picture, `factor` times as large."""
        return View(round(self.size * factor), round(self.shortest * factor), self.resize, self.resample)

    def pixels(self, image: Image.Image) -> Pixels:
        """The view of one picture, uint8 [size, size, 3].

        What transformers' processors do before they normalise, but with PyTorch's filter for Pillow's, which takes
        twice as long: benchmarks/decode finds 0.003 of 255 levels between them at the mean, and a cosine of 1.000000.
        """
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # [3, H, W]
        height, width = pixels.shape[1:]
        target = (self.size, self.size)
        if self.resize == "crop":
            side, short = self.shortest, min(width, height)
            target = (max(side, int(side * height / short)), max(side, int(side * width / short)))
        if target != (height, width):
            pixels = torch.nn.functional.interpolate(
                pixels[None], target, mode=self.resample, antialias=True
            )[0]
        top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
        centre = pixels[:, top : top + self.size, left : left + self.size]
        return np.ascontiguousarray(centre.permute(1, 2, 0).numpy())


def read(processor: Any) -> tuple[View, Rgb, Rgb]:
    """The view of a transformers image processor, and the mean and deviation that it normalises RGB in 0..1 by.

    A NaFlex processor (SigLIP 2) is read as the square with as many patches as it allows. Raises InputError
    (unsupported_processor) for one that does anything else than View does.
    """
    kind = type(processor).__name__.removesuffix("Pil")  # transformers has each by Pillow and by torchvision
    resample = _RESAMPLES.get(int(processor.resample))
    if resample is None:
        raise _unsupported(kind, f"resamples by Pillow's filter {int(processor.resample)}")
    if not (processor.do_resize and processor.do_rescale) or not math.isclose(
        processor.rescale_factor, 1 / 255
    ):
        raise _unsupported(kind, "does not resize, or does not rescale by 1/255")
    size = dict(processor.size or {})
    match kind:
        case "CLIPImageProcessor" | "BitImageProcessor" | "SiglipImageProcessor" | "ViTImageProcessor":
            view = _plain(
                kind, size, dict(processor.crop_size) if processor.do_center_crop else None, resample
            )
        case "ConvNextImageProcessor":
            side = size["shortest_edge"]
            if side < _WARPS_FROM:
                view = View(side, int(side / processor.crop_pct), "crop", resample)
            else:
                view = View(side, side, "squash", resample)
        case "Siglip2ImageProcessor":
            side = math.isqrt(processor.max_num_patches) * processor.patch_size
            view = View(side, side, "squash", resample)
        case _:
            raise _unsupported(kind, "is none of CLIP, BiT, SigLIP, SigLIP 2, ViT and ConvNeXT")
    if not processor.do_normalize:
        return view, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (
        tuple(float(value) for value in part) for part in (processor.image_mean, processor.image_std)
    )
    if not len(mean) == len(std) == 3:
        raise _unsupported(kind, f"normalises {len(mean)} colours")
    return view, mean, std


def processor(spec: ModelSpec, patch_size: int | None = None) -> Any:
    """The transformers image processor that does what `spec` says; `patch_size` (pixels) is siglip2's."""
    square = {"height": spec.image_size, "width": spec.image_size}
    facts = {
        "image_mean": list(spec.image_mean),
        "image_std": list(spec.image_std),
        "resample": _NUMBERS[spec.image_resample],
    }
    if spec.family == "siglip2":
        assert patch_size is not None
        return Siglip2ImageProcessorPil(
            patch_size=patch_size, max_num_patches=(spec.image_size // patch_size) ** 2, **facts
        )
    if spec.family == "siglip" and spec.image_resize == "squash":
        return SiglipImageProcessorPil(size=square, **facts)
    crop = spec.image_resize == "crop"
    return CLIPImageProcessorPil(
        size={"shortest_edge": spec.image_shortest} if crop else square,
        do_center_crop=crop,
        crop_size=square,
        **facts,
    )


def _plain(kind: str, size: dict[str, int], crop: dict[str, int] | None, resample: Resample) -> View:
    """The view of a processor that resizes to `size` and then crops to `crop`, if that is not None."""
    cut = None if crop is None else {crop["height"], crop["width"]}
    if size.keys() == {"height", "width"}:
        sides = {size["height"], size["width"]}
        if len(sides) == 1 and cut in (None, sides):
            (side,) = sides
            return View(side, side, "squash", resample)
    elif size.keys() == {"shortest_edge"} and cut is not None and len(cut) == 1:
        (side,) = cut
        if side <= size["shortest_edge"]:
            return View(side, size["shortest_edge"], "crop", resample)
    raise _unsupported(kind, f"resizes to {size} and then crops to {crop}")


def _unsupported(kind: str, what: str) -> InputError:
    return InputError(
        "unsupported_processor",
        f"The checkpoint's {kind} {what}; that cannot be reproduced.",
        "Use a checkpoint whose processor makes a square by bicubic or bilinear resizing, with a centre crop or none.",
    )
