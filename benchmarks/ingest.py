"""Ingest N, 4 N and 16 N pairs: peak memory of every process, and rows/s against a bare loop on the same photos.

    python -m benchmarks.ingest --rows 12500 --photos ../shared/data/grocery/images
    python -m benchmarks.ingest --rows 2000 --photos ../shared/data/grocery/images --side 960

The bare loop reads, decodes, resizes and encodes with the functions that ingest uses, in as many processes as there are
cores, and does nothing else: no hashes, no texts, no Parquet, no Ray. It runs before, between and after the ingests.
Every row has a text of its own; photos repeat on disk, and are decoded anew each time. Memory is the proportional
set size (PSS: shared pages are divided among their users), read every two seconds.
"""

import csv
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import tyro
from PIL import Image

from data_jobs import dataset, images, ingest, make_sample, stream
from data_jobs.ingest import Ingest
from data_jobs.make_sample import MakeSample

BARE_ROWS = 6000


@dataclass(frozen=True)
class Config:
    rows: int = 12_500
    """N; 4 N and 16 N follow."""
    photos: Path | None = None
    """Folder of JPEG photos (default: 500 drawn ones)."""
    pool: int = 2000
    """Most photos taken from the folder."""
    side: int | None = None
    """Instead of the photos: mosaics of them, so many pixels square, that are as detailed as photos of that size."""
    child: tuple[str, str] | None = None
    """Used by the benchmark itself: ingest this CSV into this directory and print the seconds of each phase."""


def main(config: Config) -> None:
    if config.child is not None:
        return child(*config.child)
    memory = psutil.virtual_memory().total >> 30
    print(f"{cpu()}, {os.cpu_count()} cores, {memory} GiB, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        photos = pool_of(config, Path(scratch))
        sizes = [path.stat().st_size for path in photos]
        print(f"{len(photos)} different photos, {statistics.median(sizes) / 1000:.1f} kB at the median")
        bare = [bare_rate(photos)]
        print(f"bare loop: {bare[-1]:.0f} rows/s on {os.cpu_count()} processes")
        runs = []
        for factor in (1, 4, 16):
            runs.append(measure(config.rows * factor, photos, Path(scratch)))
            bare.append(bare_rate(photos))
            print(f"bare loop: {bare[-1]:.0f} rows/s")
        report(runs, statistics.median(bare), bare)


def report(runs: list[dict[str, Any]], bare: float, all_bare: list[float]) -> None:
    print(
        f"\nbare loop, median of {len(all_bare)}: {bare:.0f} rows/s (from {min(all_bare):.0f} to {max(all_bare):.0f})"
    )
    print(
        "| rows | rejected | start s | stream s | finish s | rows/s streaming | of bare | rows/s in all | of bare |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for run in runs:
        rows, seconds = run["rows"], run["seconds"]
        streaming, whole = rows / seconds["stream"], rows / sum(seconds.values())
        phases = " | ".join(f"{seconds[phase]:.1f}" for phase in ("start", "stream", "finish"))
        print(
            f"| {rows} | {run['rejected']} | {phases} "
            f"| {streaming:.0f} | {streaming / bare:.2f} | {whole:.0f} | {whole / bare:.2f} |"
        )
    print("\npeak memory, MB (the largest of its kind)")
    kinds = sorted({kind for run in runs for kind in run["memory"]})
    print(f"| rows | {' | '.join(kinds)} |")
    print(f"|---|{'---|' * len(kinds)}")
    for run in runs:
        print(
            f"| {run['rows']} | " + " | ".join(f"{run['memory'].get(kind, 0):.0f}" for kind in kinds) + " |"
        )


def pool_of(config: Config, scratch: Path) -> list[Path]:
    if config.photos is None:
        make_sample.run(MakeSample(500, scratch / "sample", size=384))
        found = sorted((scratch / "sample" / "images").glob("p*.jpg"))
    else:
        found = sorted(path.absolute() for path in config.photos.rglob("*.jpg"))
    random.Random(0).shuffle(found)
    return (
        mosaics(found, config.side, scratch, min(config.pool, 500)) if config.side else found[: config.pool]
    )


def mosaics(photos: list[Path], side: int, scratch: Path, count: int) -> list[Path]:
    made = []
    for number in range(count):
        canvas = Image.new("RGB", (side, side))
        place, x, y, height = number, 0, 0, 0
        while y < side:
            with Image.open(photos[place * 7919 % len(photos)]) as photo:
                canvas.paste(photo, (x, y))
                x, height, place = x + photo.width, max(height, photo.height), place + 1
            if x >= side:
                x, y, height = 0, y + height, 0
        made.append(scratch / f"mosaic{number}.jpg")
        canvas.save(made[-1], quality=90)
    return made


def measure(rows: int, photos: list[Path], scratch: Path) -> dict[str, Any]:
    """Ingest `rows` pairs in a process of its own, watching the memory of it and of all that it starts."""
    source, output = scratch / f"{rows}.csv", scratch / "dataset"
    with source.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image_path", "text", "label"])
        writer.writerows(
            (photos[i % len(photos)], f"Product number {i} of a large catalogue", i % 2) for i in range(rows)
        )
    command = [sys.executable, "-m", "benchmarks.ingest", "--child", str(source), str(output)]
    memory: dict[str, float] = defaultdict(float)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, memory, stop))
    watcher.start()
    answer = process.communicate()[0]
    stop.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"ingest of {rows} rows failed with exit code {process.returncode}")
    result: dict[str, Any] = json.loads(answer.strip().splitlines()[-1])
    assert result["written"] + result["rejected"] == rows
    shutil.rmtree(output)
    return {"rows": rows, "memory": dict(memory), **result}


def watch(pid: int, memory: dict[str, float], stop: threading.Event) -> None:
    root = psutil.Process(pid)
    while not stop.wait(2):
        try:
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                kind, used = kind_of(process, pid), process.memory_full_info().pss / 1e6
            except psutil.Error:
                continue
            memory[kind] = max(memory[kind], used)


def kind_of(process: psutil.Process, driver: int) -> str:
    if process.pid == driver:
        return "driver"
    title = " ".join(process.cmdline())
    for kind in ("(read)", "(write)", "raylet", "gcs_server", "dashboard", "agent"):
        if kind in title:
            return kind
    return "idle worker" if "ray::" in title else "other"


def child(source: str, output: str) -> None:
    """Ingest, and print rows and the seconds of each phase as JSON."""
    marks = {"begin": time.perf_counter()}
    run_stream, run_finish = stream.ingest, dataset.finish

    def timed_stream(*args: Any, **options: Any) -> None:
        marks["stream"] = time.perf_counter()
        run_stream(*args, **options)

    def timed_finish(*args: Any, **options: Any) -> dict[str, Any]:
        marks["finish"] = time.perf_counter()
        answer = run_finish(*args, **options)
        marks["end"] = time.perf_counter()
        return answer

    stream.ingest, dataset.finish = timed_stream, timed_finish
    report = ingest.run(Ingest(csv=source, output_dir=Path(output)))
    edges = list(marks.values())
    seconds = dict(
        zip(
            ("start", "stream", "finish"),
            (b - a for a, b in pairwise(edges)),
            strict=True,
        )
    )
    print(
        json.dumps(
            {
                "seconds": seconds,
                "written": report["pairs"]["written"],
                "rejected": report["pairs"]["rejected"],
            }
        )
    )


def bare_rate(photos: list[Path]) -> float:
    """Rows/s of nothing but read, decode, resize and encode, on all cores."""
    cores = os.cpu_count() or 1
    jobs = [[str(photos[i % len(photos)]) for i in range(start, BARE_ROWS, cores)] for start in range(cores)]
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(bare_loop, [job[:50] for job in jobs], chunksize=1)  # imports, first pages
        started = time.perf_counter()
        pool.map(bare_loop, jobs, chunksize=1)
        return BARE_ROWS / (time.perf_counter() - started)


def bare_loop(paths: list[str]) -> None:
    for path in paths:
        images.encode_jpeg(images.shrink(images.decode(Path(path).read_bytes(), target=256), 256))


def cpu() -> str:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
