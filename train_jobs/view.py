"""View: from a picture to a model's square input, as the model's own processor makes it.

    view = View.of(encoder.spec)
    view.pixels(Image.open("mug.jpg"))  # uint8 [S, S, 3]
    view.scaled(1.15)                   # the same picture in more detail, to augment

`preprocessing` translates between views and transformers' processors.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from train_jobs.arrays import Pixels
from train_jobs.spec import ModelSpec, Resample


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
        import torch  # here: whoever builds the application starts a second sooner

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
