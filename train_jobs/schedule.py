"""Schedule: how to train, and what follows from it: learning rates by step and the optimisers."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from train_jobs.augment import Augmentation
from train_jobs.towers import TwoTower

Loss = Literal["contrastive", "pairs", "sigmoid"]
Precision = Literal["auto", "float32", "bfloat16"]
Frozen = Literal["none", "vision", "text"]
Choice = Literal["auroc", "recall"]
VisionOptimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) on the towers' linear layers, merged into the weights that are saved."""

    rank: int = 0
    """Rank of the adapters; 0 trains the weights themselves."""
    alpha: int = 16
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped while training."""


@dataclass(frozen=True)
class Schedule:
    """How to train: everything the loop needs beside model and data."""

    loss: Loss
    choose_by: Choice
    epochs: int
    batch_size: int  # global: over all workers and micro-batches
    accumulate: int  # micro-batches a step
    learning_rate: float
    vision_optimizer: VisionOptimizer
    vision_learning_rate: float
    weight_decay: float
    vision_weight_decay: float
    warmup: float  # share of all steps
    gradient_clip: float
    label_smoothing: float
    average: float  # decay of the moving average of the weights; 0: none
    patience: int  # epochs without a better score until training stops; 0: never
    precision: Precision
    augmentation: Augmentation
    freeze: Frozen
    new_text_head: bool  # the text projection is new, and trained whatever is frozen
    lora: Lora
    gradient_checkpointing: bool
    shard: bool  # FSDP
    seed: int
    cache_bytes: int
    threads: int
    save_steps: int  # besides every epoch; 0: only then
    save_all: bool  # keep a model directory of every checkpoint

    def factor(self, step: int, steps: int) -> float:
        """Linear warm-up, then half a cosine to zero: the factor on learning rates in step 0 <= `step` < `steps`."""
        warmup = max(1, round(steps * self.warmup))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    def optimisers(self, towers: TwoTower) -> list[torch.optim.Optimizer]:
        """AdamW, and for the vision tower SGD with Nesterov momentum where asked for (convolutions from scratch).

        Weight decay is on matrices and kernels only: not on norms, biases, scale and bias.
        """
        of_vision = {id(p) for p in towers.model.vision_model.parameters()}
        trained = [p for p in towers.parameters() if p.requires_grad]
        vision = [p for p in trained if id(p) in of_vision]
        rest = [p for p in trained if id(p) not in of_vision]
        if self.vision_optimizer == "adamw":
            groups = [
                *_groups(vision, self.vision_learning_rate, self.vision_weight_decay),
                *_groups(rest, self.learning_rate, self.weight_decay),
            ]
            return [torch.optim.AdamW(groups, fused=True)]
        made: list[torch.optim.Optimizer] = []
        if vision:
            groups = _groups(vision, self.vision_learning_rate, self.vision_weight_decay)
            made.append(torch.optim.SGD(groups, momentum=0.9, nesterov=True))
        if rest:
            made.append(torch.optim.AdamW(_groups(rest, self.learning_rate, self.weight_decay), fused=True))
        return made

    def autocast(self, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
        """The context that forward passes run in: bfloat16 or plain."""
        if not self._in_bfloat16(device):
            return nullcontext
        return lambda: torch.autocast(device.type, torch.bfloat16)

    def attention(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context that a step, forward and backward, picks its attention's kernel in.

        On CPUs torch's flash kernel takes 2 to 6 times as long backward in bfloat16 as plain matrix products do, at the
        sequences of ViT-B/32 and of texts (torch 2.13, one thread of an AMD EPYC, batch 64 of 12 heads of 50 tokens:
        203 ms against 54), which was 40 % of a step. At 197 tokens, ViT-B/16's, both take about as long.
        """
        if device.type == "cpu" and self._in_bfloat16(device):
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()

    def _in_bfloat16(self, device: torch.device) -> bool:
        return _has_fast_bfloat16(device) if self.precision == "auto" else self.precision == "bfloat16"


def set_learning_rates(optimisers: list[torch.optim.Optimizer], factor: float) -> None:
    """Give every group `factor` times its peak learning rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor


def _groups(parameters: list[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    kinds: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in parameters:  # sharded and whole parameters cannot be updated in one group
        kinds.setdefault((parameter.ndim >= 2, isinstance(parameter, DTensor)), []).append(parameter)
    return [
        {"params": part, "lr": rate, "peak": rate, "weight_decay": decay if is_matrix else 0.0}
        for (is_matrix, _), part in kinds.items()
    ]


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
