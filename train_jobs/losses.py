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
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

NO_GROUP = -1
"""Group of a padding row, which is neither an anchor nor a candidate."""


def contrastive(
    images: Tensor,
    texts: Tensor,
    image_groups: Tensor,
    text_groups: Tensor,
    scale: Tensor,
    label_smoothing: float = 0.0,
    second_groups: Tensor | None = None,
    first_share: Tensor | None = None,
) -> Tensor:
    """Symmetric multi-positive InfoNCE in float32.

    images [n, D] and texts [m, D], unit norm, of this worker (n and m are each equal on all workers);
    groups int64 [n] and [m]: a picture and a text are a match if their groups are equal. Each anchor's target is
    uniform over its positives (Khosla et al. 2020, L_out), less `label_smoothing` of it spread over all candidates;
    anchors without a positive are left out. Pictures with a piece of another (CutMix) belong to `image_groups` by
    `first_share`, float [n] in 0..1, and to `second_groups` by the rest. Returns this worker's share, float32 []: the
    mean over workers is the loss of the whole batch.
    """
    all_images, all_texts = gather(images, texts)
    given = [image_groups, text_groups, *([] if second_groups is None else [second_groups])]
    all_image_groups, all_text_groups, *all_second = _gather_plain(*given)
    of_images = _positives(image_groups, all_text_groups)
    of_texts = _positives(text_groups, all_image_groups)
    image_anchors = _found(all_image_groups, all_text_groups)
    text_anchors = _found(all_text_groups, all_image_groups)
    if second_groups is not None and first_share is not None:
        of_images = of_images * first_share[:, None]
        of_images += _positives(second_groups, all_text_groups) * (1 - first_share[:, None])
        (all_shares,) = _gather_plain(first_share)
        of_texts = of_texts * all_shares + _positives(text_groups, all_second[0]) * (1 - all_shares)
        image_anchors = image_anchors & (all_shares > 0)
        image_anchors |= _found(all_second[0], all_text_groups) & (all_shares < 1)
        text_anchors = _found(all_text_groups, all_image_groups[all_shares > 0])
        text_anchors |= _found(all_text_groups, all_second[0][all_shares < 1])
    directions = (
        (images, all_texts, of_images, all_text_groups == NO_GROUP, image_anchors),
        (texts, all_images, of_texts, all_image_groups == NO_GROUP, text_anchors),
    )
    return sum(
        (_one_way(*direction, scale, label_smoothing) for direction in directions),
        torch.zeros((), device=images.device),
    ) / len(directions)


def _found(groups: Tensor, among: Tensor) -> Tensor:
    """Which of `groups` are `among` others, bool; padding is not."""
    return torch.isin(groups, among) & (groups != NO_GROUP)


def _positives(anchor_groups: Tensor, candidate_groups: Tensor) -> Tensor:
    """1 where anchor and candidate are a match, float32 [n, M]."""
    return ((anchor_groups[:, None] == candidate_groups[None]) & (candidate_groups != NO_GROUP)[None]).float()


def _one_way(
    anchors: Tensor,
    candidates: Tensor,
    positive: Tensor,
    padding: Tensor,
    all_anchors: Tensor,
    scale: Tensor,
    smoothing: float,
) -> Tensor:
    """The loss of anchors [n, D] over candidates [M, D] by the weights of positives [n, M].

    padding bool [M]; `all_anchors` bool, of the anchors of all workers: which have a positive.
    """
    logits = scale * anchors.float() @ candidates.float().T  # [n, M]
    padding = padding[None]
    log_share = torch.log_softmax(logits.masked_fill(padding, float("-inf")), dim=1).masked_fill(padding, 0)
    positive = positive.masked_fill(padding, 0)
    weight = positive.sum(1)
    has_any = weight > 0
    likelihood = (log_share * positive).sum(1) / weight.where(has_any, 1)
    if smoothing:
        anywhere = log_share.sum(1) / (~padding).sum().clamp(min=1)
        likelihood = (1 - smoothing) * likelihood + smoothing * anywhere
    loss = -likelihood[has_any].sum()
    return loss * _workers() / all_anchors.sum().clamp(min=1)


def pairs(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of labelled pairs on scale * cosine + bias, in float32.

    images and texts [n, D], unit norm, row by row; labels [n], from 0 mismatch to 1 match. Returns the mean over this
    worker's rows, float32 []. (On a raw cosine BCE cannot reach 0.5; see the scale and bias of Zhai et al. 2023.)
    """
    cosines = (images.float() * texts.float()).sum(-1)
    return binary_cross_entropy_with_logits(scale * cosines + bias, labels.float())


def sigmoid(
    images: Tensor, texts: Tensor, image_groups: Tensor, text_groups: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Every picture with every text as a labelled pair, in float32 (SigLIP: Zhai et al. 2023, algorithm 1).

    Shapes, groups and padding as in `contrastive`; the sum over all pairs is divided by the number of pictures.
    Returns this worker's share, float32 []: the mean over workers is the loss of the whole batch.
    """
    (all_texts,) = gather(texts)
    all_image_groups, all_text_groups = _gather_plain(image_groups, text_groups)
    logits = scale * images.float() @ all_texts.float().T + bias  # [n, M]
    padding = (all_text_groups == NO_GROUP)[None] | (image_groups == NO_GROUP)[:, None]
    match = (image_groups[:, None] == all_text_groups[None]).float() * 2 - 1
    loss = -logsigmoid(match * logits).masked_fill(padding, 0).sum()
    pictures = (all_image_groups != NO_GROUP).sum()
    return loss * _workers() / pictures.clamp(min=1)


def gather(*parts: Tensor) -> tuple[Tensor, ...]:
    """Each [n, D] of every worker -> [W * n, D] in rank order, differentiable. All in one exchange, as each waits."""
    if _workers() == 1:
        return parts
    gathered: tuple[Tensor, ...] = _Gather.apply(*parts)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> tuple[Tensor, ...]:
        return _gather_plain(*parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        total = torch.cat(gradients)
        dist.all_reduce(total)
        parts = torch.split(total, [len(gradient) for gradient in gradients])
        return tuple(part.chunk(_workers())[dist.get_rank()] for part in parts)


def _gather_plain(*parts: Tensor) -> tuple[Tensor, ...]:
    """Each [n, ...] of every worker -> [W * n, ...] in rank order; parts of one type and width."""
    if _workers() == 1:
        return parts
    lengths = [len(part) for part in parts]
    mine = torch.cat(parts)
    everyone = [torch.empty_like(mine) for _ in range(_workers())]
    dist.all_gather(everyone, mine)
    return tuple(
        torch.cat(one) for one in zip(*(torch.split(each, lengths) for each in everyone), strict=True)
    )


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
