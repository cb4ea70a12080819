"""TwoTower: one face for every model family, from raw tensors to unit embeddings. Differentiable.

transformers' families disagree about projections, pooling, patches and scales; here is the only code that knows.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on exp(logit_scale) (Radford et al. 2021, section 2.5). SigLIP has none: released ones exceed it."""

Texts = Tensor | tuple[Tensor, Tensor]
"""What `pool_texts` made, float [M, H], or token ids and mask, int64 [M, L]."""


class TwoTower(nn.Module):
    """An image tower and a text tower with a learned scale and bias over their cosine.

    `model` has `vision_model`, `text_model` and `logit_scale`, the logarithm of the scale. CLIPModel and
    VisionTextDualEncoderModel project what their towers pool by `visual_projection` and `text_projection`;
    SiglipModel and Siglip2Model do not, and have a `logit_bias` of their own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: "PreTrainedModel",
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        logit_bias: float | None = None,
    ) -> None:
        """`logit_bias` None keeps the model's own, or starts with 0."""
        super().__init__()
        self.model = model
        self._projects = hasattr(model, "visual_projection")
        # NaFlex wants patches for pixels.
        self._patch = model.config.vision_config.patch_size if model.config.model_type == "siglip2" else None
        # One parameter under two names, where the model has a bias: it is trained, and saved, as the model's own.
        own = getattr(model, "logit_bias", None)
        self.logit_bias: nn.Parameter = nn.Parameter(torch.tensor(0.0)) if own is None else own
        if logit_bias is not None:
            self.logit_bias.data.fill_(logit_bias)
        self.register_buffer("mean", 255 * torch.tensor(image_mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(image_std)[:, None, None], persistent=False)

    def image(self, pixels: Tensor) -> Tensor:
        """RGB [N, 3, S, S] in 0..255 (uint8, float), or what `pool_images` made of it -> float32 [N, D], unit norm."""
        pooled = pixels if pixels.ndim == 2 else self.pool_images(pixels)
        if self._projects:
            pooled = self.model.visual_projection(pooled)
        return normalize(pooled.float(), dim=-1)

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, int64 [N, L] -> float32 [N, D], unit norm."""
        return self._text(self.pool_texts(input_ids, attention_mask))

    def pool_images(self, pixels: Tensor) -> Tensor:
        """RGB [N, 3, S, S] in 0..255 (uint8 or float) -> the tower's own output before any projection, [N, H]."""
        normalised = (pixels.to(self.mean.dtype) - self.mean) / self.std
        if self._patch is not None:
            return self._naflex(normalised, self._patch)
        pooled: Tensor = self.model.vision_model(normalised).pooler_output
        return pooled.flatten(1)  # convolutional towers (ResNet, RegNet) pool to [N, C, 1, 1]

    def pool_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, int64 [N, L] -> the tower's own output before any projection, [N, H]."""
        out = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return out.pooler_output

    def scale(self) -> Tensor:
        """The factor on cosines, float32 []."""
        return self.model.logit_scale.float().exp().reshape(())

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Bring the scale of CLIP and dual models down to MAX_LOGIT_SCALE.

        For after each update, as CLIP did: a bound within the graph has no gradient beyond it, and holds for ever.
        """
        if self._projects:
            self.model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))

    def forward(self, images: Tensor, texts: Texts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(image [N, D], text [M, D], scale [], bias []): all parameters in one graph, as DDP needs."""
        return (
            self.image(images),
            self._text(texts) if isinstance(texts, Tensor) else self.text(*texts),
            self.scale(),
            self.logit_bias.float().reshape(()),
        )

    def _text(self, pooled: Tensor) -> Tensor:
        if self._projects:
            pooled = self.model.text_projection(pooled)
        return normalize(pooled.float(), dim=-1)

    def _naflex(self, normalised: Tensor, patch: int) -> Tensor:
        """The pooled output of a NaFlex tower for square pictures, [N, 3, S, S] -> [N, C]."""
        count, colours, side, _ = normalised.shape
        grid = side // patch
        cells = normalised.reshape(count, colours, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
        return self.model.vision_model(
            pixel_values=cells.reshape(count, grid * grid, -1),
            pixel_attention_mask=torch.ones(count, grid * grid, dtype=torch.int64, device=normalised.device),
            spatial_shapes=torch.full((count, 2), grid),  # on the CPU: it is read number by number
        ).pooler_output
