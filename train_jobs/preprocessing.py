"""A transformers image processor, read as a View, and a View written down as one.

`read` tells what a processor does, or refuses one that cannot be reproduced; `processor` writes one down.
"""

import math
from typing import Any

from transformers import CLIPImageProcessorPil, Siglip2ImageProcessorPil, SiglipImageProcessorPil

from data_jobs.errors import InputError
from train_jobs.spec import ModelSpec, Resample
from train_jobs.view import View

Rgb = tuple[float, float, float]

_RESAMPLES: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}  # numbered as Pillow does
_NUMBERS = {name: number for number, name in _RESAMPLES.items()}
_WARPS_FROM = 384
"""ConvNextImageProcessor crops below this size and squashes from it on."""


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
