"""Random views of a batch of pictures, on whatever device the batch is: one warp and one colour change each."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """How far random views go. `none()` is the plain centre view."""

    min_area: float = 0.5
    """Smallest share of the picture that a crop keeps, 0..1."""
    flip: bool = True
    """Mirror half of the pictures. Switch off where left and right, or letters, matter."""
    rotation: float = 0.0
    """Largest turn, in degrees either way."""
    brightness: float = 0.2
    """Largest relative change of brightness."""
    contrast: float = 0.2
    """Largest relative change of contrast."""
    saturation: float = 0.0
    """Largest relative change of saturation."""
    tint: float = 0.0
    """Largest relative change of one colour channel against the others, as of another white balance."""
    cutmix: float = 0.0
    """Share of steps in which a piece of another picture covers each one; for contrastive training from scratch."""

    @classmethod
    def none(cls) -> "Augmentation":
        return cls(min_area=1.0, flip=False, brightness=0.0, contrast=0.0)


DRAWS = 12
"""How many uniform random numbers decide one view."""
_AREA, _RATIO, _MIRROR, _ANGLE, _X, _Y, _CONTRAST, _SATURATION, _BRIGHTNESS = range(9)
_TINT = slice(9, 12)


def draws(count: int, generator: torch.Generator) -> Tensor:
    """The random numbers of `count` views, float32 [count, DRAWS] in 0..1, on the CPU.

    They are drawn for a whole batch before workers take their rows of it, so that a picture's view depends on the
    seed and the step, and not on how many workers or which device there are.
    """
    return torch.rand(count, DRAWS, generator=generator)


def views(pixels: Tensor, size: int, how: Augmentation, drawn: Tensor) -> Tensor:
    """RGB uint8 [N, 3, C, C] -> float32 [N, 3, size, size] in 0..255, a random view each, by `drawn` [N, DRAWS].

    Crops keep an area drawn uniformly from [min_area, 1] and an aspect ratio of 4:5 to 5:4.
    """
    drawn = drawn.to(pixels.device)
    warped = _warped(pixels.float(), size, how, drawn)
    return _recoloured(warped, how, drawn).clamp(0, 255)


def cut(size: int, drawn: Tensor) -> tuple[slice, slice]:
    """The square of a picture that CutMix replaces (Yun et al. 2019, with lambda uniform), by `drawn` [3] in 0..1."""
    side = round(size * math.sqrt(1 - float(drawn[0])))
    top, left = (int(float(u) * (size - side + 1)) for u in drawn[1:3])
    return slice(top, min(size, top + side)), slice(left, min(size, left + side))


def _between(low: float, high: float, uniform: Tensor) -> Tensor:
    return low + (high - low) * uniform


def _warped(pixels: Tensor, size: int, how: Augmentation, drawn: Tensor) -> Tensor:
    """Crop, stretch, turn and mirror by one affine resampling; what lies outside is reflected."""
    count = len(pixels)
    side = _between(how.min_area, 1.0, drawn[:, _AREA]).sqrt()
    ratio = torch.ones_like(side)
    if how.min_area < 1:
        ratio = _between(-0.1116, 0.1116, drawn[:, _RATIO]).exp()  # ±ln(5/4)/2
    ratio = ratio.clamp(side, 1 / side)  # so that the crop fits into the picture
    width, height = side * ratio, side / ratio
    mirror = torch.where(drawn[:, _MIRROR] < 0.5, -1.0, 1.0) if how.flip else torch.ones_like(side)
    angle = _between(-how.rotation, how.rotation, drawn[:, _ANGLE]) * (math.pi / 180)
    theta = torch.zeros(count, 2, 3, device=pixels.device)
    theta[:, 0, 0] = mirror * width * angle.cos()
    theta[:, 0, 1] = -height * angle.sin()
    theta[:, 1, 0] = mirror * width * angle.sin()
    theta[:, 1, 1] = height * angle.cos()
    theta[:, 0, 2] = _between(-1, 1, drawn[:, _X]) * (1 - width)
    theta[:, 1, 2] = _between(-1, 1, drawn[:, _Y]) * (1 - height)
    grid = affine_grid(theta, [count, 3, size, size], align_corners=False)
    return grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _recoloured(pixels: Tensor, how: Augmentation, drawn: Tensor) -> Tensor:
    def factor(reach: float, which: int | slice) -> Tensor:
        return _between(1 - reach, 1 + reach, drawn[:, which]).reshape(len(pixels), -1, 1, 1)

    out = pixels
    if how.tint:
        out = out * factor(how.tint, _TINT)
    if how.contrast:
        mean = out.mean((1, 2, 3), keepdim=True)
        out = torch.lerp(mean, out, factor(how.contrast, _CONTRAST))
    if how.saturation:
        luma = torch.tensor(_LUMA, device=pixels.device)[:, None, None]
        out = torch.lerp((out * luma).sum(1, keepdim=True), out, factor(how.saturation, _SATURATION))
    if how.brightness:
        out = out * factor(how.brightness, _BRIGHTNESS)
    return out
