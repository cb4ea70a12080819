"""One step's gradients, from one forward pass or from several that hold fewer activations.

Micro-batches give exactly the gradients of the whole batch, scale and bias included: embeddings are computed without a
graph, the loss of the whole batch gives their gradients, and a second forward pass of each micro-batch carries these to
the weights (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"). Adding up
micro-batches' losses instead counts the gradient of the scale once for each of them (open_clip issues 761, 957).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train_jobs.batches import Batch, Pairs

Embedded = tuple[Tensor, Tensor, Tensor, Tensor]
"""images [n, D], texts [m, D], scale [], bias []."""
LossOf = Callable[[Tensor, Tensor, Tensor, Tensor, Batch], Tensor]
"""(images, texts, scale, bias, batch) -> loss []."""


def backward(
    model: nn.Module,
    batches: Sequence[Batch],
    loss_of: LossOf,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Add the gradients of the loss over `batches` together to the parameters; returns that loss, detached.

    `model` maps (images, texts) to Embedded; under DDP gradients are exchanged once. The loss is computed outside
    `autocast`, in float32.
    """
    if len(batches) == 1:
        with autocast():
            images, texts, scale, bias = model(batches[0].images, batches[0].texts)
        loss = loss_of(images, texts, scale, bias, batches[0])
        (loss + 0.0 * (scale + bias)).backward()  # DDP wants a gradient, if only zero, for every parameter
        return loss.detach()
    states, parts = [], []
    with torch.no_grad(), _batch_statistics_kept(model):
        for batch in batches:
            states.append(_random_state(batch.images.device))
            with autocast():
                parts.append(model(batch.images, batch.texts))
    images, texts = (torch.cat([part[side] for part in parts]).requires_grad_() for side in (0, 1))
    scale, bias = (part.detach().clone().requires_grad_() for part in parts[0][2:])
    loss = loss_of(images, texts, scale, bias, _joined(batches))
    loss.backward()  # type: ignore[no-untyped-call]
    of_scale, of_bias = (x.grad if x.grad is not None else torch.zeros_like(x) for x in (scale, bias))
    assert images.grad is not None and texts.grad is not None
    of_images = torch.split(images.grad, [len(part[0]) for part in parts])
    of_texts = torch.split(texts.grad, [len(part[1]) for part in parts])
    for number, batch in enumerate(batches):
        last = number == len(batches) - 1
        later = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
        _set_random_state(states[number], batch.images.device)
        with later:
            with autocast():
                again, texts_again, scale, bias = model(batch.images, batch.texts)
            carried = (again * of_images[number]).sum() + (texts_again * of_texts[number]).sum()
            once = 1.0 if last else 0.0
            (carried + once * (scale * of_scale + bias * of_bias)).backward()
    return loss.detach()


def _joined(batches: Sequence[Batch]) -> Batch:
    """The groups and labels of all micro-batches; inputs are not needed any more."""
    return Batch(
        images=batches[0].images,
        texts=batches[0].texts,
        image_groups=torch.cat([batch.image_groups for batch in batches]),
        text_groups=torch.cat([batch.text_groups for batch in batches]),
        pairs=_joined_pairs(batches),
        second_groups=_together([batch.second_groups for batch in batches]),
        first_share=_together([batch.first_share for batch in batches]),
    )


def _joined_pairs(batches: Sequence[Batch]) -> Pairs | None:
    """All pairs, as rows of the pictures and texts of all micro-batches one after the other."""
    images = texts = 0
    found = []
    for batch in batches:
        if batch.pairs is not None:
            found.append((batch.pairs.images + images, batch.pairs.texts + texts, batch.pairs.labels))
        images, texts = images + len(batch.image_groups), texts + len(batch.text_groups)
    return Pairs(*(torch.cat(column) for column in zip(*found, strict=True))) if found else None


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


@contextmanager
def _batch_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Running means of batch norm do not move in the block, since the same pictures come a second time."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, before, strict=True):
            norm.track_running_stats = tracked


def _random_state(device: torch.device) -> list[Tensor]:
    """What dropout depends on, so that the second pass drops the same."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
