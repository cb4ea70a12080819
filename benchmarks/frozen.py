"""What it saves to compute a frozen vision tower's outputs once instead of in every epoch.

    python -m benchmarks.frozen [--epochs 10] [--rounds 3]

A vision tower of ViT-B/32's size (random weights: only speed is measured) with a new small text tower is trained on
drawn pictures by the trainer's own loop, on one thread, without random views: once as the trainer does it, from outputs
computed beforehand (that time counts), and once with the tower run in every step, which views that change the colours
by 0.0001 % enforce (they also decode a little larger, and resample). Both see the same batches, and their losses are
printed to show it.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
import tyro

from benchmarks.train import Train, cpu, prepare, vit_b_32
from train_jobs import two_towers
from train_jobs.augment import Augmentation
from train_jobs.encoder import Encoder
from train_jobs.loop import Training
from train_jobs.pairdata import PairData
from train_jobs.schedule import Lora, Schedule

PLAIN = Augmentation.none()
NEARLY_PLAIN = replace(PLAIN, tint=1e-6)


@dataclass(frozen=True)
class Frozen:
    rows: int = 640
    """Training pairs, unique pictures and texts."""
    epochs: int = 10
    batch_size: int = 64
    rounds: int = 3
    """Times that each of both trains, in turn."""


def main(config: Frozen) -> None:
    torch.set_num_threads(1)
    print(
        f"{cpu()}, one thread of {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    with tempfile.TemporaryDirectory() as scratch_folder:
        folder = Path(scratch_folder)
        prepare(Train(rows=config.rows), folder)
        data, held_out = (PairData.open(folder / name) for name in ("train", "val"))
        vit_b_32(data.texts, seed=0).save(folder / "vision")
        two_towers.build(folder / "vision", "scratch:text", texts=data.texts).save(folder / "towers")
        runs: dict[str, list[tuple[float, float]]] = {
            "outputs computed once": [],
            "tower run in every step": [],
        }
        for _ in range(config.rounds):
            for name, views in zip(runs, (PLAIN, NEARLY_PLAIN), strict=True):
                runs[name].append(_timed(lambda views=views: _train(config, folder, data, held_out, views)))
                seconds, loss = runs[name][-1]
                print(f"{name}: {seconds:.1f} s, loss of the last epoch {loss:.4f}", flush=True)
    once, each = ([seconds for seconds, _ in found] for found in runs.values())
    ratios = [slow / fast for fast, slow in zip(once, each, strict=True)]
    print(
        f"{config.epochs} epochs of {config.rows} pairs with validation and checkpoints: "
        f"{statistics.median(once):.1f} s instead of {statistics.median(each):.1f} s, "
        f"{statistics.median(ratios):.1f} times as fast (from {min(ratios):.1f} to {max(ratios):.1f}; "
        "it grows with the epochs)."
    )


def _timed(work: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    loss = work()
    return time.perf_counter() - started, loss


def _train(config: Frozen, folder: Path, data: PairData, held_out: PairData, views: Augmentation) -> float:
    """The mean loss of the last epoch."""
    schedule = Schedule(
        loss="contrastive",
        choose_by="recall",
        epochs=config.epochs,
        batch_size=config.batch_size,
        accumulate=1,
        learning_rate=1e-3,
        vision_optimizer="adamw",
        vision_learning_rate=1e-3,
        weight_decay=0.1,
        vision_weight_decay=0.1,
        warmup=0.1,
        gradient_clip=1.0,
        label_smoothing=0.0,
        average=0.0,
        patience=0,
        precision="auto",
        augmentation=views,
        freeze="vision",
        new_text_head=True,
        lora=Lora(),
        gradient_checkpointing=False,
        shard=False,
        seed=0,
        cache_bytes=2 * 10**9,
        threads=1,
        save_steps=0,
        save_all=False,
    )
    encoder = Encoder.load(folder / "towers", device="cpu")
    with tempfile.TemporaryDirectory(dir=folder) as run:
        return Training(encoder, data, held_out, schedule, Path(run)).run()[-1]["train_loss"]


if __name__ == "__main__":
    main(tyro.cli(Frozen, description=__doc__))
