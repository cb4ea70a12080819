"""TwoTower: one face for every model family, from raw tensors to unit embeddings. Differentiable.

transformers' families disagree about projections, pooling and scales; here is the only code that knows.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on exp(logit_scale) (Radford et al. 2021, section 2.5)."""


class TwoTower(nn.Module):
    """An image tower and a text tower with a learned scale and bias over their cosine.

    `model` is a transformers CLIPModel or VisionTextDualEncoderModel: both have `vision_model`,
    `visual_projection`, `text_model`, `text_projection` and `logit_scale`, the logarithm of the scale.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        logit_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.logit_bias = nn.Parameter(torch.tensor(logit_bias))
        self.register_buffer("mean", 255 * torch.tensor(image_mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(image_std)[:, None, None], persistent=False)

    def image(self, pixels: Tensor) -> Tensor:
        """RGB [N, 3, S, S] in 0..255 (uint8 or float) -> float32 [N, D], unit norm."""
        normalised = (pixels.to(self.mean.dtype) - self.mean) / self.std
        pooled: Tensor = self.model.vision_model(normalised).pooler_output
        # Convolutional towers (ResNet, RegNet) pool to [N, C, 1, 1].
        return normalize(self.model.visual_projection(pooled.flatten(1)).float(), dim=-1)

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, int64 [N, L] -> float32 [N, D], unit norm."""
        out = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return normalize(self.model.text_projection(out.pooler_output).float(), dim=-1)

    def scale(self) -> Tensor:
        """The factor on cosines, float32 [], at most MAX_LOGIT_SCALE."""
        return self.model.logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)

    def forward(
        self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(image [N, D], text [N, D], scale [], bias []): all parameters in one graph, as DDP needs."""
        return (
            self.image(pixels),
            self.text(input_ids, attention_mask),
            self.scale(),
            self.logit_bias.float(),
        )
