"""Towers too large for one GPU: weights, gradients and optimiser states sharded over the workers (PyTorch's FSDP2).

The towers are sharded layer by layer. Projections, scale and bias are small and stay whole on every worker, where
`exchange` averages their gradients. States are gathered whole, so that other workers may take up a run.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from train_jobs import workers
from train_jobs.towers import TwoTower

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(towers: TwoTower) -> None:
    """Shard both towers in place over all workers."""
    for tower in (towers.model.vision_model, towers.model.text_model):
        lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
        for layers in reversed(lists):  # stages hold blocks, which come first
            for layer in layers:
                fully_shard(layer)
        fully_shard(tower)


def exchange(towers: TwoTower) -> None:
    """Average the gradients of what is whole on every worker."""
    for parameter in towers.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= workers.count()


def clip(towers: TwoTower, largest: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `largest`; returns the norm before, float32 []."""
    gradients = [p.grad for p in towers.parameters() if p.grad is not None]
    parts = []
    for kind in (True, False):
        of_kind = [gradient for gradient in gradients if isinstance(gradient, DTensor) is kind]
        if not of_kind:
            continue
        norm = nn.utils.get_total_norm(of_kind)
        parts.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.linalg.vector_norm(torch.stack(parts))
    factor = (largest / (total + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ does
    for gradient in gradients:
        gradient.mul_(factor)
    return total


def state(towers: TwoTower, optimisers: list[Optimizer]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Whole states of model and optimisers by parameters' names, on rank 0's CPU; every worker takes part."""
    return (
        get_model_state_dict(towers, options=_WHOLE),
        [get_optimizer_state_dict(towers, optimiser, options=_WHOLE) for optimiser in optimisers],
    )


def restore(
    towers: TwoTower, optimisers: list[Optimizer], model: dict[str, Any], saved: list[dict[str, Any]]
) -> None:
    """Take up what `state` gave, on every worker, sharded or (a single one) not."""
    set_model_state_dict(towers, model, options=_WHOLE)
    for optimiser, one in zip(optimisers, saved, strict=True):
        set_optimizer_state_dict(towers, optimiser, one, options=_WHOLE)
