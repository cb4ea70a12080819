"""Losses over unit embeddings, exact over any number of workers.

Each worker holds its own rows and computes the loss of its own anchors against everybody's candidates
(local loss); `gather` carries gradients back through the exchange, so that the average over workers, which is what
DDP takes, is the gradient of the loss over the whole batch. One without the other rescales gradients
(open_clip issues 616 and 894).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

NO_GROUP = -1
"""Group of a padding row, which is neither an anchor nor a candidate."""


def contrastive(
    images: Tensor,
    texts: Tensor,
    image_groups: Tensor,
    text_groups: Tensor,
    scale: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Symmetric multi-positive InfoNCE in float32.

    images [n, D] and texts [m, D], unit norm, of this worker (n and m are each equal on all workers);
    groups int64 [n] and [m]: a picture and a text are a match if their groups are equal. Each anchor's target is
    uniform over its positives (Khosla et al. 2020, L_out), less `label_smoothing` of it spread over all candidates;
    anchors without a positive are left out. Returns this worker's share, float32 []: the mean over workers is the
    loss of the whole batch.
    """
    all_images, all_texts = gather(images), gather(texts)
    all_image_groups, all_text_groups = _gather_plain(image_groups), _gather_plain(text_groups)
    directions = (
        (images, all_texts, image_groups, all_text_groups),
        (texts, all_images, text_groups, all_image_groups),
    )
    return sum(
        (_one_way(*direction, scale, label_smoothing) for direction in directions),
        torch.zeros((), device=images.device),
    ) / len(directions)


def _one_way(
    anchors: Tensor,
    candidates: Tensor,
    anchor_groups: Tensor,
    candidate_groups: Tensor,
    scale: Tensor,
    smoothing: float,
) -> Tensor:
    logits = scale * anchors.float() @ candidates.float().T  # [n, M]
    padding = candidate_groups[None] == NO_GROUP
    log_share = torch.log_softmax(logits.masked_fill(padding, float("-inf")), dim=1).masked_fill(padding, 0)
    positive = (anchor_groups[:, None] == candidate_groups[None]) & ~padding
    count = positive.sum(1)
    likelihood = log_share.masked_fill(~positive, 0).sum(1) / count.clamp(min=1)
    if smoothing:
        anywhere = log_share.sum(1) / (~padding).sum().clamp(min=1)
        likelihood = (1 - smoothing) * likelihood + smoothing * anywhere
    loss = -likelihood[count > 0].sum()
    anchors_everywhere = (count > 0).sum()
    if _workers() > 1:
        dist.all_reduce(anchors_everywhere)
    return loss * _workers() / anchors_everywhere.clamp(min=1)


def pairs(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of labelled pairs on scale * cosine + bias, in float32.

    images and texts [n, D], unit norm, row by row; labels [n], 1 match and 0 mismatch. Returns the mean over this
    worker's rows, float32 []. (On a raw cosine BCE cannot reach 0.5; see the scale and bias of Zhai et al. 2023.)
    """
    cosines = (images.float() * texts.float()).sum(-1)
    return binary_cross_entropy_with_logits(scale * cosines + bias, labels.float())


def gather(rows: Tensor) -> Tensor:
    """[n, D] of every worker -> [W * n, D] in rank order, differentiable."""
    if _workers() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _gather_plain(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)  # autograd may still need `gradient`
        dist.all_reduce(total)
        return total.chunk(_workers())[dist.get_rank()]


def _gather_plain(rows: Tensor) -> Tensor:
    if _workers() == 1:
        return rows
    out = [torch.empty_like(rows) for _ in range(_workers())]
    dist.all_gather(out, rows.contiguous())
    return torch.cat(out)


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
