"""The training loop of one worker: plain PyTorch, told how to report and where to save.

`finetune` runs it under Ray Train; it runs as well in a notebook, alone, with `report=print`.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_jobs.errors import InputError
from train_jobs import losses, metrics
from train_jobs.augment import Augmentation, views
from train_jobs.encoder import Encoder
from train_jobs.pairdata import (
    PairData,
    PixelCache,
    epoch_batches,
    group_ids,
    score_pairs,
    to_channels_first,
)

Loss = Literal["contrastive", "pairs"]
Precision = Literal["auto", "float32", "bfloat16"]

CANVAS = 1.15
"""Training pictures are decoded this much larger than the model's input, so that crops keep detail."""
TEXT_BANK_LIMIT = 512
"""With at most this many distinct texts, each step contrasts its pictures with all of them."""


@dataclass(frozen=True)
class Schedule:
    """How to train: everything the loop needs beside model and data."""

    loss: Loss
    epochs: int
    batch_size: int  # global: over all workers
    learning_rate: float
    weight_decay: float
    warmup: float  # share of all steps
    gradient_clip: float
    label_smoothing: float
    precision: Precision
    augmentation: Augmentation
    seed: int
    cache_bytes: int
    threads: int


def train(
    encoder: Encoder,
    train_data: PairData,
    val_data: PairData,
    schedule: Schedule,
    *,
    progress: Callable[[dict[str, Any]], None],
    end_of_epoch: Callable[[dict[str, float], Encoder], None],
) -> None:
    """Train `encoder` in place.

    `progress` is called on rank 0 at most once a second with epoch, step, steps, loss and samples_per_s;
    `end_of_epoch` on every rank with the same metrics. Raises InputError (too_few_pairs, no_matches,
    diverged).
    """
    rank, workers = _rank(), _workers()
    data = train_data if schedule.loss == "pairs" else _matches(train_data)
    batches = _Batches(encoder, data, schedule, rank, workers)
    towers = encoder.towers
    towers.model.vision_model.to(memory_format=torch.channels_last)  # a third faster for convolutions on CPU
    model: nn.Module = nn.parallel.DistributedDataParallel(towers) if workers > 1 else towers
    optimiser = torch.optim.AdamW(
        _parameter_groups(towers, schedule.weight_decay), lr=schedule.learning_rate, fused=True
    )
    total = schedule.epochs * batches.steps
    warmup = max(1, round(total * schedule.warmup))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _cosine(step, warmup, total))
    autocast = _autocast(schedule.precision, encoder.device)
    spoken = 0.0
    for epoch in range(schedule.epochs):
        model.train()
        started, seen, total_loss = time.perf_counter(), 0, 0.0
        for step, batch in enumerate(batches.of(epoch), 1):
            with autocast():
                images, texts, scale, bias = model(batch.pixels, batch.input_ids, batch.attention_mask)
            if schedule.loss == "contrastive":
                loss = losses.contrastive(
                    images, texts, batch.image_groups, batch.text_groups, scale, schedule.label_smoothing
                )
                loss = loss + 0.0 * bias  # DDP wants a gradient, if only zero, for every parameter
            else:
                loss = losses.pairs(images, texts, batch.labels, scale, bias)
            if not torch.isfinite(loss):
                raise InputError(
                    "diverged",
                    f"The loss is {loss.item()} in epoch {epoch + 1}, step {step}.",
                    "Use a lower --learning-rate.",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(towers.parameters(), schedule.gradient_clip)
            optimiser.step()
            scheduler.step()
            seen += len(batch.pixels) * workers
            total_loss += float(loss.detach())
            if rank == 0 and (time.monotonic() - spoken > 1 or step == batches.steps):
                spoken = time.monotonic()
                progress(
                    {
                        "epoch": epoch + 1,
                        "epochs": schedule.epochs,
                        "step": step,
                        "steps": batches.steps,
                        "loss": total_loss / step,
                        "samples_per_s": seen / (time.perf_counter() - started),
                    }
                )
        seconds = time.perf_counter() - started
        end_of_epoch(
            {
                "epoch": epoch + 1,
                "train_loss": _mean(total_loss / batches.steps),
                "val_auroc": _val_auroc(encoder, val_data, rank, workers),
                "learning_rate": float(scheduler.get_last_lr()[0]),
                "logit_scale": towers.scale().item(),
                "samples_per_s": seen / seconds,
            },
            encoder,
        )


@dataclass(frozen=True)
class _Batch:
    pixels: Tensor  # float [n, 3, S, S] in 0..255
    image_groups: Tensor  # int64 [n]
    input_ids: Tensor  # int64 [m, L]
    attention_mask: Tensor
    text_groups: Tensor  # int64 [m]
    labels: Tensor  # int64 [n]


class _Batches:
    """This worker's slices of the global batches, augmented, on the device."""

    def __init__(self, encoder: Encoder, data: PairData, schedule: Schedule, rank: int, workers: int) -> None:
        self._encoder, self._data, self._schedule = encoder, data, schedule
        self._rank, self._workers = rank, workers
        self._batch = min(schedule.batch_size, len(data) // workers * workers)
        if self._batch == 0:
            raise InputError(
                "too_few_pairs", f"{len(data)} pairs do not feed {workers} workers.", "Use --num-workers 1."
            )
        self.steps = max(1, len(data) // self._batch)
        size = encoder.spec.image_size
        canvas = size if schedule.augmentation == Augmentation.none() else round(size * CANVAS)
        self._cache = PixelCache(
            data,
            canvas,
            encoder.spec.image_resize,
            budget_bytes=schedule.cache_bytes,
            threads=schedule.threads,
        )
        self._ids = encoder.token_ids(data.texts)
        number = group_ids([*data.image_groups, *data.text_groups])
        self._image_groups = torch.tensor([number.get(g or "", losses.NO_GROUP) for g in data.image_groups])
        self._text_groups = torch.tensor([number[g] for g in data.text_groups])
        self._bank = self._bank_rows() if schedule.loss == "contrastive" else None

    def of(self, epoch: int) -> Any:
        """The batches of one epoch, in order."""
        schedule, device = self._schedule, self._encoder.device
        generator = torch.Generator().manual_seed(
            (schedule.seed * 100_003 + epoch) * 1009 + self._rank  # distinct for every epoch and worker
        )
        share = self._batch // self._workers
        for rows in epoch_batches(len(self._data), self._batch, seed=schedule.seed, epoch=epoch):
            mine = rows[self._rank * share : (self._rank + 1) * share]
            pixels = to_channels_first(self._cache.batch(mine.tolist())).to(device)
            if self._bank is None:
                text_rows, text_groups = mine, self._text_groups[mine]
            else:
                text_rows, text_groups = self._bank
            ids, mask = self._encoder.padded([self._ids[row] for row in text_rows])
            seen = views(pixels, self._encoder.spec.image_size, schedule.augmentation, generator)
            yield _Batch(
                pixels=seen.contiguous(memory_format=torch.channels_last),
                image_groups=self._image_groups[mine].to(device),
                input_ids=ids,
                attention_mask=mask,
                text_groups=text_groups.to(device),
                labels=torch.from_numpy(self._data.labels[mine]).to(device),
            )

    def _bank_rows(self) -> tuple[np.ndarray, Tensor] | None:
        """This worker's share of one row for each distinct text, padded to equal shares with NO_GROUP."""
        first = {t: row for row, t in reversed(list(enumerate(self._data.texts)))}
        if len(first) > TEXT_BANK_LIMIT:
            return None
        rows = np.array(sorted(first.values()))
        short = -len(rows) % self._workers
        groups = torch.cat([self._text_groups[rows], torch.full((short,), losses.NO_GROUP)])
        rows = np.concatenate([rows, rows[:1].repeat(short)])
        return rows[self._rank :: self._workers], groups[self._rank :: self._workers]


def _matches(data: PairData) -> PairData:
    rows = np.flatnonzero(data.labels == 1)
    if not len(rows):
        raise InputError(
            "no_matches",
            f"None of the {len(data)} training pairs is a match.",
            "Contrastive training learns from matches; use --loss pairs for mismatches alone.",
        )
    return data if len(rows) == len(data) else data.take(rows)


def _parameter_groups(towers: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only: not on norms, biases, scale and bias."""
    parameters = [p for p in towers.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _cosine(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine to zero: the factor on the learning rate."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def _autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(device) else "float32"
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def _val_auroc(encoder: Encoder, data: PairData, rank: int, workers: int) -> float:
    """AUROC over all validation pairs, each scored by one worker."""
    encoder.towers.eval()
    rows = np.arange(len(data))[rank::workers]
    mine = (score_pairs(encoder, data.take(rows)), data.labels[rows])
    everyone: list[Any] = [mine]
    if workers > 1:
        everyone = [None] * workers
        dist.all_gather_object(everyone, mine)
    scores, labels = (np.concatenate(part) for part in zip(*everyone, strict=True))
    return metrics.auroc(scores, labels)


def _mean(value: float) -> float:
    if _workers() == 1:
        return value
    total = torch.tensor(value)
    dist.all_reduce(total)
    return total.item() / _workers()


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
