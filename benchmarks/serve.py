"""Serving speed, in one run on the same ViT-B/32: ours, the older systems' design, infinity, and the bound.

    python -m benchmarks.serve
    python -m benchmarks.serve --photos FOLDER --infinity-python DIR/bin/python
    python -m benchmarks.serve --only int8 --rounds 1 --seconds 3 --model DIR    # of an earlier run's --keep

ours       serve_config.yaml on a fresh Ray with HAProxy, as `make serve` starts it, backend openvino-int8 or -bfloat16.
older      see serve_older: one FastAPI process, one float32 CLIPModel, CLIPProcessor and a forward pass per request.
infinity   see serve_infinity: float32 on PyTorch, with batches, one picture or one text a request.
bound      see serve_bound: our backends called in-process with perfect batches, without any server.

Every server is started anew in every round. Closed loops of 1, 16 and 64 connections, and Poisson arrivals at 80 % of
what ours has just done at 16 (p50, p99 from the moment that a request was due). Every request has a JPEG file and a
text that its server has not seen; photos are 348 or 1600 pixels long, from --photos or drawn. The clients run on the
same cores: see serve_load for what that costs. Ratios are of the same round; their median is judged.

Random weights: what the embeddings mean is not measured here. The int8 export is calibrated on these photos, and its
gate is given pairs whose labels are float32's own verdicts: it only shows that int8 keeps their order.
"""

import csv
import math
import os
import platform
import random
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image

from benchmarks import serve_bound, serve_infinity, serve_servers
from benchmarks.serve_load import Answered, Kind, text
from benchmarks.serve_servers import Server
from benchmarks.train import cpu, vit_b_32
from data_jobs import drawing, images
from train_jobs import export
from train_jobs.encoder import Encoder

SIZES = {"small": 348, "large": 1600}
"""Longest side of the photos, pixels."""
PHOTOS = 48
"""Different ones of each size; comments make files of them that differ."""
Entry = Literal["bound", "older", "infinity", "int8", "bfloat16"]
ENTRIES: tuple[Entry, ...] = ("bound", "older", "infinity", "int8", "bfloat16")
OURS: tuple[Entry, ...] = ("int8", "bfloat16")
OPEN = 0
"""In place of a concurrency: the open loop."""


@dataclass(frozen=True)
class Serve:
    photos: Path | None = None
    """Folder of JPEG photos, searched at any depth (default: drawn ones)."""
    model: Path | None = None
    """Model directory with an export in int8 and bfloat16 (default: random weights, exported here in 2 minutes)."""
    keep: Path | None = None
    """Where to keep the model made here, for --model."""
    infinity_python: Path | None = None
    """Python of an environment with infinity_emb; without it, infinity is left out."""
    only: tuple[Entry, ...] = ENTRIES
    """Whom to measure."""
    seconds: float = 5
    """Of each measurement."""
    warm_up: float = 2
    """Seconds before each measurement."""
    rounds: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """One measurement."""

    kind: Kind
    size: str  # of the photos; "" for texts
    concurrency: int  # or OPEN

    def __str__(self) -> str:
        return f"{self.kind} {self.size}".strip()


ANALYSES = [Question("analyze", size, n) for size in SIZES for n in (1, 16, 64)]
EMBEDDINGS = [Question("images", "small", 16), Question("texts", "", 16)]
JUDGED = Question("analyze", "small", 16)
QUESTIONS: dict[Entry, list[Question]] = {
    "older": [question for question in ANALYSES if question.concurrency < 64 or question.size == "small"],
    "infinity": EMBEDDINGS,
    "int8": [*ANALYSES, Question("analyze", "small", OPEN), *EMBEDDINGS],
    "bfloat16": [*ANALYSES, *EMBEDDINGS],
}


@dataclass
class Record:
    """Of one entry, what came of each round; None for a failed one."""

    answered: dict[Question, list[Answered | None]] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)  # MB by process
    cpu: list[dict[str, float]] = field(default_factory=list)  # ms by process, of a request of JUDGED


@dataclass
class Bounds:
    """Of each round: items a second by backend and question, and seconds of the bare call by backend and size."""

    per_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    bare_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)


# ---------------------------------------------------------------------------- the photos, the model


def write_photos(config: Serve, folder: Path) -> None:
    """PHOTOS of each size as folder/small/000.jpg and so on."""
    if config.photos is None:
        pictures = [drawing.draw(p, 512) for p in drawing.random_products(PHOTOS, config.seed)]
    else:
        found = sorted(config.photos.rglob("*.jpg"))
        if len(found) < PHOTOS:
            raise SystemExit(f"{config.photos} holds {len(found)} JPEG photos; {PHOTOS} are wanted.")
        random.Random(config.seed).shuffle(found)
        pictures = [images.decode(path.read_bytes()) for path in found[:PHOTOS]]
    for name, side in SIZES.items():
        (folder / name).mkdir()
        for number, picture in enumerate(pictures):
            scale = side / max(picture.size)
            size = (round(picture.width * scale), round(picture.height * scale))
            photo = picture.resize(size, Image.Resampling.BICUBIC)
            (folder / name / f"{number:03d}.jpg").write_bytes(images.encode_jpeg(photo, quality=88))


def make_model(folder: Path, seed: int) -> Path:
    """A ViT-B/32 of random weights with its export, calibrated on the small photos."""
    texts = [text(number) for number in range(2000)]
    model = folder / "vit-b-32"
    encoder = vit_b_32(texts, seed)
    encoder.save(model)
    pairs = _self_labelled(encoder, folder / "small", texts[::61])
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["image_path", "text", "label"])
        writer.writerows(pairs)
    export.run(
        export.Export(
            model=str(model), precision=("bfloat16", "int8"), csv=str(folder / "pairs.csv"),
            threads=(1,),
        )
    )  # fmt: skip
    return model


def _self_labelled(encoder: Encoder, folder: Path, texts: list[str]) -> list[tuple[Path, str, int]]:
    """Pairs that float32 is surest of: the highest and the lowest cosines, as matches and mismatches."""
    paths = sorted(folder.glob("*.jpg"))
    cosines = encoder.images([Image.open(path) for path in paths]) @ encoder.texts(texts).T
    low, high = np.quantile(cosines, [0.15, 0.85])
    return [
        (path, texts[column], int(cosines[row, column] > high))
        for row, path in enumerate(paths)
        for column in range(len(texts))
        if not low <= cosines[row, column] <= high
    ]


# ---------------------------------------------------------------------------------------- the rounds


def measure_bounds(config: Serve, model: Path, folder: Path, bounds: Bounds) -> None:
    works = {
        str(question): (question.kind, folder / question.size)
        for question in [*ANALYSES, *EMBEDDINGS]
        if question.concurrency == 16
    }
    for name in OURS:
        if name not in config.only:
            continue
        backend = f"openvino-{name}"
        rates = serve_bound.throughput(model, backend, list(works.values()), config.seconds)
        for work, rate in zip(works, rates, strict=True):
            bounds.per_s.setdefault((name, work), []).append(rate)
        bare = serve_bound.bare_call(model, backend, [folder / size for size in SIZES], config.seconds)
        for size, seconds in zip(SIZES, bare, strict=True):
            bounds.bare_s.setdefault((name, size), []).append(seconds)
        told = ", ".join(f"{work} {rate:.1f}/s" for work, rate in zip(works, rates, strict=True))
        print(
            f"  bound {name}: {told}; bare call {', '.join(f'{1000 * s:.1f} ms' for s in bare)}", flush=True
        )


def start(config: Serve, entry: Entry, model: Path, folder: Path) -> AbstractContextManager[Server]:
    """That entry's server."""
    if entry == "older":
        return serve_servers.older(model, folder)
    if entry == "infinity":
        assert config.infinity_python is not None
        return serve_servers.infinity(config.infinity_python, model, folder)
    return serve_servers.ours(model, f"openvino-{entry}", folder)


def measure_server(config: Serve, entry: Entry, server: Server, photos: Path, record: Record) -> None:
    record.ready_s.append(server.ready_s)
    print(f"  {entry}: ready after {server.ready_s:.1f} s", flush=True)
    at_16 = math.nan
    for question in QUESTIONS[entry]:
        load = 0.8 * at_16 if question.concurrency == OPEN else question.concurrency
        # What waits for 64 others on a slow server needs longer to be seen at all.
        stretch = 3 if entry == "older" and question.concurrency == 64 else 1
        before = server.cpu()
        answered = server.answer(
            question.kind, photos / question.size, load, config.warm_up * stretch, config.seconds * stretch
        )
        if question == JUDGED:
            at_16 = answered.per_s
            used = {name: after - before.get(name, after) for name, after in server.cpu().items()}
            record.cpu.append({name: 1000 * s / answered.requests for name, s in used.items()})
        record.answered.setdefault(question, []).append(answered)
        print(f"  {entry}: {question} at {_load(question)}: {_told(answered)}", flush=True)
    record.memory.append(server.memory())


def measure(config: Serve, model: Path, folder: Path) -> tuple[dict[Entry, Record], Bounds]:
    records: dict[Entry, Record] = {entry: Record() for entry in config.only if entry != "bound"}
    bounds = Bounds()
    entries = list(config.only)
    for number in range(config.rounds):
        print(f"round {number + 1}", flush=True)
        for entry in entries:
            if entry == "bound":
                measure_bounds(config, model, folder, bounds)
                continue
            try:
                with start(config, entry, model, folder) as server:
                    measure_server(config, entry, server, folder, records[entry])
            except Exception as error:  # whatever it was, the others are still worth measuring
                print(f"  {entry} FAILED: {error}", flush=True)
            for question in QUESTIONS[entry]:  # a failure leaves a gap in its round
                row = records[entry].answered.setdefault(question, [])
                row.extend([None] * (number + 1 - len(row)))
        entries.append(entries.pop(0))
    return records, bounds


# ---------------------------------------------------------------------------------------- the report


def report(records: dict[Entry, Record], bounds: Bounds) -> None:
    print("\n| | asked | connections | a second: median (from, to) | p50 ms | p99 ms | failures |")
    print("|---|---|---|---|---|---|---|")
    for entry, record in records.items():
        for question, rounds in record.answered.items():
            there = [answered for answered in rounds if answered is not None]
            if there:
                print(f"| {entry} | {question} | {_load(question)} | {_cells(there)} |")
    for (name, work), rates in bounds.per_s.items():
        print(f"| bound, {name} | {work} | in-process | {_spread(rates)} | | | |")
    for (name, size), seconds in bounds.bare_s.items():
        print(
            f"| bare call, {name} | analyze {size} | in-process | | {1000 * statistics.median(seconds):.1f} | | |"
        )
    for entry, record in records.items():
        if record.memory:
            print(f"\n{entry}, memory (MB, each process's share): ", end="")
            last = record.memory[-1]
            print(", ".join(f"{name} {size:.0f}" for name, size in sorted(last.items(), key=lambda i: -i[1])))
            print(f"  in all {sum(last.values()):.0f}; ready after {_spread(record.ready_s)} s")
        if record.cpu:
            last = sorted(record.cpu[-1].items(), key=lambda i: -i[1])
            told = ", ".join(f"{name} {ms:.1f}" for name, ms in last if ms >= 0.1)
            whole = sum(ms for _, ms in last)
            print(f"{entry}, CPU (ms a request, {JUDGED} at 16 connections): {told}; in all {whole:.1f}")
    print()
    _judge_all(records, bounds)


def _judge_all(records: dict[Entry, Record], bounds: Bounds) -> None:
    for name, least in (("int8", 6.0), ("bfloat16", 3.5)):
        for size in SIZES:
            asked = Question("analyze", size, 16)
            mine = _rates(records, name, asked)
            _judge(
                f"{name}, analyze {size}, by the older design", mine, _rates(records, "older", asked), least
            )
            _judge(
                f"{name}, analyze {size}, by the bound", mine, bounds.per_s.get((name, str(asked)), []), 0.9
            )
    for question in EMBEDDINGS:
        mine = _rates(records, "int8", question)
        _judge(f"int8, {question}, by infinity", mine, _rates(records, "infinity", question), 4.0)
    for name in OURS:
        for size in SIZES:
            alone = _answers_of(records, name, Question("analyze", size, 1))
            mine = [statistics.median(a.latencies) if a and a.latencies else math.nan for a in alone]
            what = f"{name}, analyze {size}, p50 at 1 by the bare call"
            _judge(what, mine, bounds.bare_s.get((name, size), []), 1.3, at_most=True)
    for name in OURS:
        if name in records:
            ready = records[name].ready_s
            _judge(f"{name}, start to ready, s", ready, [1.0] * len(ready), 15.0, at_most=True)


def _judge(
    what: str, above: Sequence[float], below: Sequence[float], target: float, *, at_most: bool = False
) -> None:
    """Of the ratios of the same rounds the median."""
    ratios = [a / b for a, b in zip(above, below, strict=False) if not math.isnan(a) and b > 0]
    wanted = f"target {'at most' if at_most else 'at least'} {target}"
    if not ratios:
        print(f"{what}: not measured, {wanted}")
        return
    found = statistics.median(ratios)
    met = found <= target if at_most else found >= target
    print(
        f"{what}: {found:.2f} ({min(ratios):.2f}, {max(ratios):.2f}), {wanted}: {'met' if met else 'MISSED'}"
    )


def _answers_of(records: dict[Entry, Record], name: str, question: Question) -> list[Answered | None]:
    return next((r.answered.get(question, []) for entry, r in records.items() if entry == name), [])


def _rates(records: dict[Entry, Record], name: str, question: Question) -> list[float]:
    return [a.per_s if a else math.nan for a in _answers_of(records, name, question)]


def _load(question: Question) -> str:
    return "open loop" if question.concurrency == OPEN else str(question.concurrency)


def _told(answered: Answered) -> str:
    p50, p99 = _quantiles(answered)
    return f"{answered.per_s:.1f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, failures {answered.failures or 0}"


def _cells(there: list[Answered]) -> str:
    p50, p99 = (statistics.median(values) for values in zip(*map(_quantiles, there), strict=True))
    failures = sum(sum(answered.failures.values()) for answered in there)
    of = sum(answered.requests for answered in there)
    return f"{_spread([a.per_s for a in there])} | {p50:.1f} | {p99:.1f} | {failures} of {of}"


def _quantiles(answered: Answered) -> tuple[float, float]:
    """p50 and p99 in ms."""
    if not answered.latencies:
        return math.nan, math.nan
    p50, p99 = np.quantile(answered.latencies, [0.5, 0.99])
    return 1000 * float(p50), 1000 * float(p99)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}, {max(values):.1f})"


def main(config: Serve) -> None:
    names = ("ray", "torch", "transformers", "openvino")
    print(
        f"{cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in names)
    )
    reason = serve_infinity.missing(config.infinity_python) if "infinity" in config.only else "not asked for"
    if reason:
        print(f"infinity is left out: {reason}")
        config = replace(config, only=tuple(entry for entry in config.only if entry != "infinity"))
    elif config.infinity_python is not None:
        print(f"infinity's environment: {serve_infinity.version(config.infinity_python)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_photos(config, folder)
        model = config.model or make_model(folder, config.seed)
        if config.keep is not None and config.model is None:
            shutil.copytree(model, config.keep)
        sizes = {n: np.mean([p.stat().st_size for p in (folder / n).glob("*.jpg")]) / 1000 for n in SIZES}
        tokens = Encoder.load(model, "cpu").token_ids([text(number) for number in range(100)])
        print(
            f"{config.model or 'random weights'}; photos ({config.photos or 'drawn'}): "
            + ", ".join(f"{name} {SIZES[name]} px, {kb:.0f} kB" for name, kb in sizes.items())
            + f"; texts of {np.mean([len(ids) for ids in tokens]):.1f} tokens; {config.rounds} rounds of "
            f"{config.seconds:g} s a measurement"
        )
        report(*measure(config, model, folder))


if __name__ == "__main__":
    main(tyro.cli(Serve, description=__doc__))
