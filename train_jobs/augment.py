"""Random views of a batch of pictures, on whatever device the batch is: one warp and one colour change each."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Augmentation:
    """How far random views go. `none()` is the plain centre view."""

    min_area: float = 0.5
    """Smallest share of the picture that a crop keeps, 0..1."""
    flip: bool = True
    """Mirror half of the pictures. Switch off where left and right, or letters, matter."""
    brightness: float = 0.2
    """Largest relative change of brightness."""
    contrast: float = 0.2
    """Largest relative change of contrast."""

    @classmethod
    def none(cls) -> "Augmentation":
        return cls(min_area=1.0, flip=False, brightness=0.0, contrast=0.0)


def views(pixels: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """RGB uint8 [N, 3, C, C] -> float32 [N, 3, size, size] in 0..255, one random view each.

    Crops keep the area drawn uniformly from [min_area, 1] and an aspect ratio of 4:5 to 5:4. `generator` is on
    the CPU, so that a seed gives the same views on every device.
    """
    count = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).to(pixels.device)

    side = uniform(how.min_area, 1.0).sqrt()
    ratio = uniform(-0.1116, 0.1116).exp() if how.min_area < 1 else torch.ones_like(side)  # ±ln(5/4)/2
    width, height = (side * ratio).clamp(max=1), (side / ratio).clamp(max=1)
    theta = torch.zeros(count, 2, 3, device=pixels.device)
    mirrored = uniform(0, 1) < 0.5 if how.flip else torch.zeros_like(side, dtype=torch.bool)
    theta[:, 0, 0] = torch.where(mirrored, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = uniform(-1, 1) * (1 - width)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - height)
    grid = affine_grid(theta, [count, 3, size, size], align_corners=False)
    out = grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
    if how.contrast:
        mean = out.mean((1, 2, 3), keepdim=True)
        out = mean + (out - mean) * uniform(1 - how.contrast, 1 + how.contrast)[:, None, None, None]
    if how.brightness:
        out = out * uniform(1 - how.brightness, 1 + how.brightness)[:, None, None, None]
    return out.clamp(0, 255)
