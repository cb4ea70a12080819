"""Training speed, in one run on the same model and pictures: ours, a bare PyTorch loop, open_clip's training loop.

    python -m benchmarks.train
    python -m benchmarks.train --model scratch:resnet --precision float32
    python -m benchmarks.train --model vit-b-32 --batch-size 16 --rows 640 --epochs 1 --rounds 1
    python -m benchmarks.train --open-clip-site DIR   # from: pip install --target DIR --no-deps open_clip_torch ...

All train the same weights on the same pairs, unique JPEG files and texts, on one thread a process, with AdamW (fused),
the gradient clipped at norm 1, warm-up and cosine, in rounds that start with another one each.

bare       what one would write by hand with our functions: pixels and token ids in memory, our random views and
           contrastive loss, forward, backward, step. No Ray, events, validation, checkpoints, prefetching. It draws the
           same random numbers as ours, so that the same losses show the same work.
bare twice two of these at once, each with half the batch, which exchange nothing: what two workers cannot exceed.
ours       `python -m train_jobs.finetune` with its Ray cluster, as its own step events tell. Pixels are decoded once,
           before the first step; "decoding" is --cache-gb 0: anew each epoch, one step ahead in a second thread.
open_clip  see train_open_clip.py: files opened, decoded and cropped by Pillow, texts tokenised, by --loader-workers
           processes each epoch; every text padded to its context, once as long as open_clip's default and once only
           as long as the longest text here. It trains convolutions channels first, ours and the bare loop
           channels last.

Pairs/s leave out the first --warm-up steps, and of open_clip the first two of each epoch, in which its loader starts.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Literal

import numpy as np
import ray
import torch
import transformers
import tyro
from tensorboardX.proto.event_pb2 import Event
from transformers import CLIPConfig, CLIPModel

from benchmarks import train_open_clip
from benchmarks.train_open_clip import OpenClip
from data_jobs import dataset, drawing, text
from train_jobs import losses, scratch
from train_jobs.augment import Augmentation, draws, views
from train_jobs.batches import CANVAS, TEXT_BANK_LIMIT
from train_jobs.encoder import Encoder
from train_jobs.pairdata import PairData, to_channels_first
from train_jobs.spec import ModelSpec

HELD_OUT = 100
"""Pairs for validation, and as many for calibration."""
PICTURE_SIZE = 256
LEARNING_RATE, WEIGHT_DECAY, GRADIENT_CLIP, WARMUP = 5e-4, 0.1, 1.0, 0.1
TARGETS = {"bare": 0.95, "open_clip": 1.0, "two workers": 1.85, "waiting": 0.05}
VIT_B_32 = "vit-b-32"


@dataclass(frozen=True)
class Train:
    model: str = "scratch:tiny-clip"
    """scratch:tiny-clip, scratch:resnet, vit-b-32 (of that size, random weights), or a model directory."""
    photos: Path | None = None
    """Folder of JPEG photos, searched at any depth (default: drawn ones, 256 px)."""
    rows: int = 2048
    """Training pairs."""
    epochs: int = 4
    batch_size: int = 128
    """Pairs a step, over all workers."""
    warm_up: int = 16
    """Steps that are not counted."""
    rounds: int = 3
    """Times that everyone trains."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the CPU has instructions for it."""
    loader_workers: int = 1
    """Loader processes of open_clip."""
    open_clip_site: Path | None = None
    """Where open_clip_torch was installed to with pip install --target, if not beside this project."""
    seed: int = 0


@dataclass(frozen=True)
class Work:
    """What everyone is given."""

    folder: Path  # holds the model, the datasets train, val and calibration, and open_clip's pairs.csv
    epochs: int
    batch_size: int
    steps: int
    warm_up: int
    precision: str
    seed: int

    @property
    def warmup_steps(self) -> int:
        """Those with a rising learning rate."""
        return max(1, round(self.steps * WARMUP))


@dataclass(frozen=True)
class Window:
    """One step or several."""

    step: int  # the last, from 1
    pairs: int
    seconds: float
    waited: float  # seconds without data


@dataclass(frozen=True)
class Outcome:
    """One training."""

    windows: list[Window]
    loss: float  # the mean of the last epoch
    whole_pairs_per_s: float = math.nan  # with validation and checkpoints
    command_seconds: float = math.nan  # from start to end

    def pairs_per_s(self, warm_up: int) -> float:
        counted = self._counted(warm_up)
        return sum(w.pairs for w in counted) / sum(w.seconds for w in counted)

    def data_wait(self, warm_up: int) -> float:
        """Share of the time, 0..1."""
        counted = self._counted(warm_up)
        return sum(w.waited for w in counted) / sum(w.seconds for w in counted)

    def _counted(self, warm_up: int) -> list[Window]:
        before = [0, *(w.step for w in self.windows)]
        return [w for w, last in zip(self.windows, before, strict=False) if last >= warm_up]


# ----------------------------------------------------------------------------------- the bare loop


def bare(work: Work) -> Outcome:
    return _bare_loops(work, 1)[0]


def bare_twice(work: Work) -> Outcome:
    """The windows of the two one after the other: half as many seconds for each pair."""
    one, other = _bare_loops(replace(work, batch_size=work.batch_size // 2), 2)
    windows = [
        Window(a.step, a.pairs + b.pairs, (a.seconds + b.seconds) / 2, 0.0)
        for a, b in zip(one.windows, other.windows, strict=True)
    ]
    return Outcome(windows, math.nan)


def _bare_loops(work: Work, count: int) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
        together = manager.Barrier(count)
        return [future.result() for future in [pool.submit(bare_loop, work, together) for _ in range(count)]]


def bare_loop(work: Work, together: Barrier) -> Outcome:
    torch.set_num_threads(1)
    encoder = Encoder.load(work.folder / "model", device="cpu")
    data = PairData.open(work.folder / "train")
    towers, size, batch_size = encoder.towers.train(), encoder.spec.image_size, work.batch_size
    towers.model.vision_model.to(memory_format=torch.channels_last)
    pixels = data.decode(range(len(data)), encoder.spec, CANVAS)
    ids = encoder.token_ids(data.texts)
    groups = torch.arange(len(data))
    parameters = list(towers.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        fused=True,
    )
    half = work.precision == "bfloat16"
    autocast = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
    per_epoch = work.steps // work.epochs
    windows: list[Window] = []
    total = 0.0
    together.wait()
    for step in range(work.steps):
        started = time.perf_counter()
        epoch, within = divmod(step, per_epoch)
        if within == 0:
            order, total = np.random.default_rng([work.seed, epoch]).permutation(len(data)), 0.0
        rows = order[within * batch_size : (within + 1) * batch_size]
        drawn = draws(batch_size, torch.Generator().manual_seed(work.seed * 1_000_003 + step))
        images = views(to_channels_first(pixels[rows]), size, Augmentation(), drawn)
        images = images.contiguous(memory_format=torch.channels_last)
        texts = encoder.padded([ids[row] for row in rows])
        optimiser.zero_grad(set_to_none=True)
        with autocast:
            of_images, of_texts, scale, _ = towers(images, texts)
        loss = losses.contrastive(of_images, of_texts, groups[rows], groups[rows], scale)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * _factor(step, work)
        optimiser.step()
        total += loss.item()
        windows.append(Window(step + 1, batch_size, time.perf_counter() - started, 0.0))
    return Outcome(windows, total / per_epoch)


def _factor(step: int, work: Work) -> float:
    warmup = work.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, work.steps - warmup)))


# -------------------------------------------------------------------------------------------- ours


def ours(work: Work, workers: int, cache_gb: float) -> Outcome:
    """Raises RuntimeError with the end of what the command printed."""
    with tempfile.TemporaryDirectory(dir=work.folder) as scratch_folder:
        output, log = Path(scratch_folder) / "run", Path(scratch_folder) / "log"
        command = [
            *(sys.executable, "-m", "train_jobs.finetune", "--output-dir", str(output)),
            *("--train-data", str(work.folder / "train"), "--val-data", str(work.folder / "val")),
            *("--calibration-data", str(work.folder / "calibration")),
            *("--model-name", str(work.folder / "model"), "--device", "cpu"),
            *("--epochs", str(work.epochs), "--batch-size", str(work.batch_size)),
            *("--learning-rate", str(LEARNING_RATE), "--weight-decay", str(WEIGHT_DECAY)),
            *("--gradient-clip", str(GRADIENT_CLIP), "--warmup", str(WARMUP)),
            *("--precision", work.precision, "--seed", str(work.seed), "--cache-gb", str(cache_gb)),
            *("--num-workers", str(workers), "--cpus-per-worker", "1"),
        ]
        started = time.perf_counter()
        with log.open("w") as out:
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, cwd=Path(__file__).parent.parent, check=False
            )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {log.read_text()[-2000:]}")
        history = json.loads((output / "history.json").read_text())
        return _told(work, list(_events(output / "tensorboard")), history[-1]["train_loss"], seconds)


def _told(work: Work, events: list[Event], loss: float, seconds: float) -> Outcome:
    """An outcome by the run's step and epoch events."""
    windows: list[Window] = []
    ends = []
    scalars: dict[int, dict[str, float]] = {}
    for event in events:
        for value in event.summary.value:
            scalars.setdefault(event.step, {})[value.tag] = value.simple_value
            if value.tag == "epoch/train_loss":
                ends.append(event.wall_time)
    for step, named in sorted(scalars.items()):
        if "speed/samples_per_s" in named:
            pairs = (step - (windows[-1].step if windows else 0)) * work.batch_size
            took = pairs / named["speed/samples_per_s"]
            windows.append(Window(step, pairs, took, took * named["speed/data_wait"]))
    epochs_after_first = (work.steps - work.steps // work.epochs) * work.batch_size
    whole = epochs_after_first / (ends[-1] - ends[0]) if len(ends) > 1 else math.nan
    return Outcome(windows, loss, whole, seconds)


def _events(folder: Path) -> Iterator[Event]:
    """What is recorded in TensorBoard's files: length, its checksum, event, its checksum."""
    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            yield Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4


# --------------------------------------------------------------------------------------- open_clip


def open_clip(work: Work, context: int, loader_workers: int, site: Path | None) -> Outcome:
    job = OpenClip(
        site=site,
        model=work.folder / "model",
        csv=work.folder / "pairs.csv",
        context=context,
        precision=work.precision,
        batch_size=work.batch_size,
        epochs=work.epochs,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        gradient_clip=GRADIENT_CLIP,
        warmup_steps=work.warmup_steps,
        loader_workers=loader_workers,
        seed=work.seed,
    )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        steps = pool.submit(train_open_clip.run, job).result()
    per_epoch = work.steps // work.epochs
    windows = [
        Window(number + 1, work.batch_size, seconds, waited)
        for number, (seconds, waited) in enumerate(zip(steps.seconds, steps.waited, strict=True))
        if number % per_epoch >= 2
    ]
    return Outcome(windows, statistics.mean(steps.losses[-per_epoch:]))


# ------------------------------------------------------------------------------ the model, the pairs


def prepare(config: Train, folder: Path) -> int:
    """Write datasets, model and open_clip's CSV; the tokens of the longest text."""
    pictures = _drawn(config, folder) if config.photos is None else _photos(config, config.photos)
    parts = {
        "train": pictures[: config.rows],
        "val": pictures[config.rows : -HELD_OUT],
        "calibration": pictures[-HELD_OUT:],
    }
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["image_path", "text", "label"])
            writer.writerows((path, text, 1) for path, text in part)
        dataset.from_csv(folder / f"{name}.csv", folder / name, image_size=PICTURE_SIZE)
    data = PairData.open(folder / "train")
    if not len(set(data.texts)) == len(set(data.picture_ids)) == len(data) == config.rows:
        raise SystemExit(f"{config.rows} unique pairs are wanted, and {len(data)} were ingested.")
    _initial_model(config, data.texts).save(folder / "model")
    ids = Encoder.load(folder / "model", device="cpu").token_ids(data.texts)
    (folder / "files").mkdir()
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for row, text in enumerate(data.texts):  # the very bytes that ours decodes
            path = folder / "files" / f"{row}.jpg"
            path.write_bytes(data.images[row].as_py())
            writer.writerow([path, text])
    return max(map(len, ids))


def _drawn(config: Train, folder: Path) -> list[tuple[Path, str]]:
    (folder / "drawn").mkdir()
    made = []
    for number, product in enumerate(drawing.random_products(config.rows + 2 * HELD_OUT, config.seed)):
        path = folder / "drawn" / f"{number}.jpg"
        drawing.draw(product, PICTURE_SIZE).save(path, quality=92)
        made.append((path, f"{drawing.describe(product, ('en', 'fa')[number % 2], number)} {number}"))
    return made


def _photos(config: Train, photos: Path) -> list[tuple[Path, str]]:
    unique = {hashlib.sha256(path.read_bytes()).digest(): path for path in sorted(photos.rglob("*.jpg"))}
    found, wanted = sorted(unique.values()), config.rows + 2 * HELD_OUT
    if len(found) < wanted:
        raise SystemExit(f"{photos} holds {len(found)} unique photos; --rows {config.rows} takes {wanted}.")
    random.Random(config.seed).shuffle(found)
    return [
        (path.absolute(), f"{path.parent.name} product number {number}, as photographed in the shop")
        for number, path in enumerate(found[:wanted])
    ]


def _initial_model(config: Train, texts: list[str]) -> Encoder:
    if config.model == VIT_B_32:
        return vit_b_32(texts, config.seed)
    if config.model.startswith(scratch.PREFIX):
        return scratch.build(config.model, texts, config.seed)
    return Encoder.load(config.model, device="cpu")


def vit_b_32(texts: list[str], seed: int) -> Encoder:
    """A CLIPModel of openai/clip-vit-base-patch32's size with random weights, and a tokenizer of `texts`."""
    tokenizer = scratch.train_tokenizer(texts)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=ids))  # all else by default is that model's
    spec = ModelSpec(
        base_model=VIT_B_32,
        base_revision=None,
        family="clip",
        embedding_dim=model.config.projection_dim,
        image_size=model.config.vision_config.image_size,
        image_resize="crop",
        image_shortest=model.config.vision_config.image_size,
        image_resample="bicubic",
        image_mean=scratch.MEAN,
        image_std=scratch.STD,
        context_length=scratch.CONTEXT_LENGTH,
        pad_to_context=False,
        text_normalizer=text.VERSION,
        logit_scale=scratch.LOGIT_SCALE,
        logit_bias=0.0,
    )
    return Encoder(model, tokenizer, spec, device="cpu")


# ------------------------------------------------------------------------------------- the rounds


Runs = dict[str, list[Outcome | None]]
"""By contestant, the outcome of each round; None for a failure."""


def contestants(config: Train, longest: int, with_open_clip: bool) -> dict[str, Callable[[Work], Outcome]]:
    found: dict[str, Callable[[Work], Outcome]] = {
        "bare": bare,
        "ours, 1 worker": lambda work: ours(work, 1, 2.0),
        "ours, 2 workers": lambda work: ours(work, 2, 2.0),
        "bare twice": bare_twice,
        "ours, 1 worker, decoding": lambda work: ours(work, 1, 0.0),
    }
    if with_open_clip:
        for context in (scratch.CONTEXT_LENGTH, longest):
            found[f"open_clip, {context} tokens"] = lambda work, context=context: open_clip(
                work, context, config.loader_workers, config.open_clip_site
            )
    return found


def main(config: Train) -> None:
    if config.rows <= TEXT_BANK_LIMIT:
        raise SystemExit(
            f"With {TEXT_BANK_LIMIT} texts or fewer ours contrasts with all of them in each step, which the others "
            f"do not: --rows {config.rows} must be more."
        )
    if config.batch_size % 2 or (os.cpu_count() or 1) < 2:
        raise SystemExit("Two workers want two cores and an even --batch-size.")
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
    version = train_open_clip.version(config.open_clip_site)
    print(
        f"{cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Ray {ray.__version__}, open_clip {version or 'not there'}"
    )
    with tempfile.TemporaryDirectory() as scratch_folder:
        folder = Path(scratch_folder)
        longest = prepare(config, folder)
        per_epoch = config.rows // config.batch_size
        work = Work(
            folder=folder,
            epochs=config.epochs,
            batch_size=config.batch_size,
            steps=config.epochs * per_epoch,
            warm_up=config.warm_up,
            precision=precision,
            seed=config.seed,
        )
        print(
            f"{config.model}, {precision}, {config.rows} pairs ({config.photos or 'drawn'}), {config.epochs} epochs of "
            f"{per_epoch} steps of {config.batch_size}; the longest text has {longest} tokens; {config.rounds} rounds"
        )
        entries = contestants(config, longest, version is not None)
        report(work, rounds(config, work, entries))
    if version is None:
        print(
            "open_clip was left out: open_clip_train cannot be imported. Install the extra `bench`, or see "
            "--open-clip-site."
        )
    print(
        "Not measured: GPUs, several machines, pictures that come from a network, SGD for the vision tower, several "
        "loader processes on as many cores."
    )


def rounds(config: Train, work: Work, entries: dict[str, Callable[[Work], Outcome]]) -> Runs:
    runs: Runs = {name: [] for name in entries}
    names = list(entries)
    for number in range(config.rounds):
        for name in names:
            try:
                outcome = entries[name](work)
            except Exception as error:  # whatever it was, the others are still worth measuring
                print(f"round {number + 1}: {name} FAILED: {error}", flush=True)
                runs[name].append(None)
                continue
            runs[name].append(outcome)
            print(f"round {number + 1}: {name}: {outcome.pairs_per_s(work.warm_up):.0f} pairs/s", flush=True)
        names.append(names.pop(0))
    return runs


# -------------------------------------------------------------------------------------- the report


def report(work: Work, runs: Runs) -> None:
    print(
        "\n| | pairs/s: median (from, to) | waiting for data | of bare | with validation and checkpoints, pairs/s "
    )
    print("| whole command, s | loss of the last epoch | failures |\n|---|---|---|---|---|---|---|---|")
    for name, outcomes in runs.items():
        there = [outcome for outcome in outcomes if outcome is not None]
        if not there:
            print(f"| {name} | | | | | | | {len(outcomes)} of {len(outcomes)} |")
            continue
        rates = [outcome.pairs_per_s(work.warm_up) for outcome in there]
        cells = [
            name,
            f"{statistics.median(rates):.1f} ({min(rates):.1f}, {max(rates):.1f})",
            f"{statistics.median(outcome.data_wait(work.warm_up) for outcome in there):.1%}",
            _shown(ratio(work, runs, name, "bare"), 3),
            _shown(statistics.median(outcome.whole_pairs_per_s for outcome in there), 1),
            _shown(statistics.median(outcome.command_seconds for outcome in there), 0),
            _shown(statistics.median(outcome.loss for outcome in there), 4),
            f"{len(outcomes) - len(there)} of {len(outcomes)}",
        ]
        print(f"| {' | '.join(cells)} |")
    print()
    one, two = "ours, 1 worker", "ours, 2 workers"
    _judge("ours by the bare loop", ratio(work, runs, one, "bare"), TARGETS["bare"])
    for name in runs:
        if name.startswith("open_clip"):
            _judge(f"ours by {name}", ratio(work, runs, one, name), TARGETS["open_clip"])
            decoding = ratio(work, runs, "ours, 1 worker, decoding", name)
            _judge(f"ours, decoding as it does, by {name}", decoding, TARGETS["open_clip"])
    _judge("two workers by one", ratio(work, runs, two, one), TARGETS["two workers"])
    print(f"  (two bare loops by one: {_shown(ratio(work, runs, 'bare twice', 'bare'), 3)})")
    for name in (one, two):
        waits = [o.data_wait(work.warm_up) for o in runs[name] if o is not None]
        if waits:
            wait = statistics.median(waits)
            met = "met" if wait < TARGETS["waiting"] else "MISSED"
            print(f"{name}, waiting for data: {wait:.1%}, target below {TARGETS['waiting']:.0%}: {met}")


def ratio(work: Work, runs: Runs, above: str, below: str) -> float:
    """The median over the rounds of one's pairs/s by the other's in the same round; NaN if there is none."""
    found = [
        a.pairs_per_s(work.warm_up) / b.pairs_per_s(work.warm_up)
        for a, b in zip(runs[above], runs[below], strict=True)
        if a is not None and b is not None
    ]
    return statistics.median(found) if found else math.nan


def _judge(what: str, value: float, target: float) -> None:
    verdict = "not measured" if math.isnan(value) else "met" if value >= target else "MISSED"
    print(f"{what}: {_shown(value, 3)}, target {target}: {verdict}")


def _shown(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main(tyro.cli(Train, description=__doc__))
