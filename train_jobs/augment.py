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

    @classmethod
    def none(cls) -> "Augmentation":
        return cls(min_area=1.0, flip=False, brightness=0.0, contrast=0.0)


def views(pixels: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """RGB uint8 [N, 3, C, C] -> float32 [N, 3, size, size] in 0..255, one random view each.

    Crops keep an area drawn uniformly from [min_area, 1] and an aspect ratio of 4:5 to 5:4. `generator` is on
    the CPU, so that a seed gives the same views on every device.
    """
    warped = _warped(pixels.float(), size, how, generator)
    return _recoloured(warped, how, generator).clamp(0, 255)


def _uniform(
    low: float, high: float, shape: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> Tensor:
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(like.device)


def _warped(pixels: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, stretch, turn and mirror by one affine resampling; what lies outside is reflected."""
    count = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        return _uniform(low, high, (count,), generator, pixels)

    side = uniform(how.min_area, 1.0).sqrt()
    ratio = uniform(-0.1116, 0.1116).exp() if how.min_area < 1 else torch.ones_like(side)  # ±ln(5/4)/2
    ratio = ratio.clamp(side, 1 / side)  # so that the crop fits into the picture
    width, height = side * ratio, side / ratio
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if how.flip else torch.ones_like(side)
    angle = uniform(-how.rotation, how.rotation) * (math.pi / 180)
    theta = torch.zeros(count, 2, 3, device=pixels.device)
    theta[:, 0, 0] = mirror * width * angle.cos()
    theta[:, 0, 1] = -height * angle.sin()
    theta[:, 1, 0] = mirror * width * angle.sin()
    theta[:, 1, 1] = height * angle.cos()
    theta[:, 0, 2] = uniform(-1, 1) * (1 - width)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - height)
    grid = affine_grid(theta, [count, 3, size, size], align_corners=False)
    return grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _recoloured(pixels: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    def factor(reach: float, channels: int = 1) -> Tensor:
        return _uniform(1 - reach, 1 + reach, (len(pixels), channels, 1, 1), generator, pixels)

    out = pixels
    if how.tint:
        out = out * factor(how.tint, 3)
    if how.contrast:
        mean = out.mean((1, 2, 3), keepdim=True)
        out = torch.lerp(mean, out, factor(how.contrast))
    if how.saturation:
        luma = torch.tensor(_LUMA, device=pixels.device)[:, None, None]
        out = torch.lerp((out * luma).sum(1, keepdim=True), out, factor(how.saturation))
    if how.brightness:
        out = out * factor(how.brightness)
    return out
