"""The other workers of a training run, whether there are any or not: ranks, sums and agreement."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """This worker's number, 0 when alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def count() -> int:
    """How many workers there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(mine: T) -> list[T]:
    """Every worker's object, in rank order, on every worker."""
    if count() == 1:
        return [mine]
    everyone: list[Any] = [None] * count()
    dist.all_gather_object(everyone, mine)
    return everyone


def from_first(value: T) -> T:
    """Rank 0's object, on every worker."""
    if count() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box)
    return box[0]


def copy_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give `tensors` rank 0's values, on every worker."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def mean(value: float) -> float:
    """The mean over workers, exact for equal shares; in float64."""
    if count() == 1:
        return value
    return float(torch.tensor(gathered(value), dtype=torch.float64).mean())
