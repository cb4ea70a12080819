"""Our index at 100,000 and 1,000,000 vectors of 512: each kind against brute force, by recall, speed, size and filters.

    python -m benchmarks.retrieval --rows 100000
    python -m benchmarks.retrieval --rows 1000000 --folder DIR --kinds hnsw --rounds 0    # what takes longest, ahead
    python -m benchmarks.retrieval --rows 1000000 --folder DIR

Compared is what the service runs: versions written by train_jobs.index.write, opened by LiveIndex and searched by
Index.search with the modality of the query, documents and all, in a process with the environment that
serve_config.yaml gives the Retriever (one thread a search). Brute force is the same of the kind flat: single queries,
one thread. The others are there twice, with the settings that index.write tunes for recall .95 and for .99. Vectors:
benchmarks/clusters.py. Queries are held out and unique; settings are tuned on others than are measured. Recall@10 is
the share of the ten nearest that is found. Every round opens each index in a new process, in turn, and has its own
queries; in brackets: from-to of rounds.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
import pyarrow as pa
import tyro

from benchmarks.clusters import Clusters, Vectors
from data_jobs import schema, text
from data_jobs.errors import InputError
from serve_app.query import Query
from train_jobs import filters, index, index_kinds, index_version
from train_jobs.index import Hit, Index
from train_jobs.index_kinds import AT, MODALITIES, TIE, Kind, Modality
from train_jobs.live_index import LiveIndex
from train_jobs.spec import ModelSpec

HIGH = 0.99
IMAGE_TARGET, TEXT_TARGET = (40, HIGH), (10, 0.95)  # times brute force, recall
BATCH = 64
LOTS = 1000  # documents fall into so many lots, which filters choose from
FILTERS = (1, 10, 100, 300)  # lots that pass
SERVER = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Retrieval:
    rows: int = 100_000
    """Vectors: 100000 and 1000000 are those of docs/RETRIEVAL.md."""
    dimension: int = 512
    kinds: tuple[Kind, ...] = ("flat", "hnsw", "ivf-pq")
    """Which are built, and searched."""
    folder: Path | None = None
    """Where vectors and indexes stay, so that a later run need not make them again (default: nowhere)."""
    tuned: int = 2000
    """Held-out queries of each modality that settings are tuned on."""
    queries: int = 600
    """Single queries of each modality a round; of exact searches as many as take as long as 60 scans."""
    rounds: int = 3
    """0: build only."""
    seed: int = 0
    child: tuple[str, str, int] | None = None
    """Used by the benchmark itself: this step, of this index, in this round."""


def main(config: Retrieval) -> None:
    if config.child is not None:
        assert config.folder is not None
        step, name, number = config.child
        steps = {"draw": _draw, "build": _build, "search": partial(_search, number=number)}
        return steps[step](config, config.folder, name)
    memory = psutil.virtual_memory().total / 2**30
    print(
        f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, faiss "
        f"{faiss.__version__}; load {os.getloadavg()[0]:.1f}\n{config.rows} x {config.dimension}; the rule picks "
        + ": ".join(index_kinds.choose(config.rows, config.dimension, memory=index_kinds.machine_memory()))
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = config.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "truth.npz").is_file():
            _step(config, folder, "draw", "")
        for kind in config.kinds:
            if not (folder / f"{kind}.json").is_file():
                _step(config, folder, "build", kind)
        names = [name for kind in config.kinds for name in (kind, f"{kind}-high") if (folder / name).is_dir()]
        _print_builds(config, folder)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(config.rounds):
            for name in names:
                found[name].append(_step(config, folder, "search", name, number))
        if config.rounds:
            _print_searches(found)


def _step(config: Retrieval, folder: Path, step: str, name: str, number: int = 0) -> dict[str, Any]:
    """Run one step in a process of its own; what it printed last."""
    command = [sys.executable, "-m", "benchmarks.retrieval", "--folder", str(folder)]
    command += ["--child", step, name, str(number)]
    for key in ("rows", "dimension", "tuned", "queries", "rounds", "seed"):
        command += [f"--{key}", str(getattr(config, key))]
    environment = os.environ | (SERVER if step == "search" else {})
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return answer


# ------------------------------------------------------------------------------------ the steps


def _draw(config: Retrieval, folder: Path, _: str) -> None:
    """vectors.npy, and truth.npz: queries of both modalities, and the cosines of the ten nearest to those measured."""
    world = Clusters(config.dimension, config.seed)
    vectors = world.pictures(config.rows, part=0)
    np.save(folder / "vectors.npy", vectors)
    found: dict[str, Vectors] = {}
    for part, (modality, drawn) in enumerate((("image", world.pictures), ("text", world.texts))):
        found[f"{modality}_tuned"] = drawn(config.tuned, 1 + 2 * part)
        asked = found[f"{modality}_asked"] = drawn(config.queries * max(1, config.rounds), 2 + 2 * part)
        found[f"{modality}_truth"] = index_kinds.exact(vectors, asked, AT)[0]
    np.savez(folder / "truth.npz", **found)
    print("{}")


def _build(config: Retrieval, folder: Path, name: str) -> None:
    kind: Kind = name  # type: ignore[assignment]
    vectors = np.load(folder / "vectors.npy")
    truth = np.load(folder / "truth.npz")
    queries = {
        modality: index.Queries("drawn", truth[f"{modality}_tuned"], [""] * config.tuned, [-1] * config.tuned)
        for modality in MODALITIES
    }
    build, marks = index_kinds.build, {}

    def timed_build(*arguments: Any) -> faiss.Index:
        started = time.perf_counter()
        made = build(*arguments)
        marks["structure_s"] = time.perf_counter() - started
        return made

    index_kinds.build = timed_build
    started = time.perf_counter()
    manifest = index.write(
        folder / kind, vectors, _documents(config.rows), _spec(config.dimension),
        embedded="drawn vectors", queries=queries, kind=kind,
    )  # fmt: skip
    marks["whole_s"] = time.perf_counter() - started
    if kind != "flat":
        _write_high(folder, kind, vectors, queries)
    sizes = {path.name: path.stat().st_size for path in (folder / kind / manifest.version).iterdir()}
    peak = _memory("VmHWM")
    (folder / f"{kind}.json").write_text(
        json.dumps(marks | {"sizes": sizes, "factory": manifest.factory, "peak": peak})
    )
    print("{}")


def _write_high(
    folder: Path, kind: Kind, vectors: Vectors, queries: Mapping[Modality, index.Queries]
) -> None:
    """The same files with the settings that index.write would have tuned for HIGH."""
    version, manifest = index_version.current(folder / kind)
    structure = index_kinds.open_mapped(version / index_version.VECTORS)
    measured = dict(manifest.measured)
    for modality, asked in queries.items():
        try:
            settings, recall = index_kinds.tune(
                structure, kind, vectors, asked.vectors, modality=modality, target=HIGH
            )
        except InputError as error:
            print(error)
            return
        measured[modality] = replace(measured[modality], settings=settings, recall_at_10=recall)
    high = folder / f"{kind}-high"
    shutil.copytree(folder / kind, high, copy_function=os.link)
    facts = asdict(replace(manifest, measured=measured, target_recall=HIGH))
    (high / version.name / index_version.MANIFEST).unlink()  # a link to the other's
    (high / version.name / index_version.MANIFEST).write_text(json.dumps(facts))


def _search(config: Retrieval, folder: Path, name: str, number: int) -> None:
    started = time.perf_counter()
    live = LiveIndex(folder / name, _spec(config.dimension).model_hash)
    index_kinds.set_up_batches(config.dimension)
    opened = live.current
    result: dict[str, Any] = {"open_s": time.perf_counter() - started}
    truth = np.load(folder / "truth.npz")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    mine = slice(number * config.queries, (number + 1) * config.queries)
    flat = opened.manifest.kind == "flat"
    few = max(30, min(config.queries, 60_000_000 // config.rows))
    for modality in MODALITIES:
        asked = truth[f"{modality}_asked"][mine][: few if flat else config.queries]
        nearest = truth[f"{modality}_truth"][mine][: len(asked)]
        _ask(opened, truth[f"{modality}_tuned"][: few if flat else 200], modality)  # warm
        seconds, hits = _ask(opened, asked, modality)
        batches = []
        for start in range(0, len(asked), BATCH):
            began = time.perf_counter()
            opened.search_batch(asked[start : start + BATCH], AT, modality=modality)
            batches.append(time.perf_counter() - began)
        result[modality] = {
            "settings": opened.manifest.measured[modality].settings,
            "recall": _recall(vectors, asked, hits, nearest[:, -1]),
            "seconds": seconds,
            "batches_per_s": len(asked) / sum(batches),
        }
    result["rss"], result["anonymous"] = _memory("VmRSS"), _memory("RssAnon")
    asked, nearest = truth["image_asked"][mine][:few], truth["image_truth"][mine][:few, -1]
    seconds, hits = _ask(opened, asked, None)
    result["exact"] = {"recall": _recall(vectors, asked, hits, nearest), "seconds": seconds}
    lots = np.arange(config.rows) % LOTS
    for passing in FILTERS:
        condition = {"lot": {"lt": passing}}
        began = time.perf_counter()
        opened.search(asked[0], AT, modality="image", filter=filters.parse(condition))
        first = time.perf_counter() - began
        seconds, hits = _ask(opened, asked[: 2 * few // 3], "image", condition)
        rows = np.flatnonzero(lots < passing)
        nearest = index_kinds.exact(vectors[rows], asked[: len(hits)], AT)[0][:, -1]
        result[f"filter {passing}"] = {
            "first_s": first,
            "seconds": seconds,
            "recall": _recall(vectors, asked[: len(hits)], hits, nearest),
            "wrong": int(sum(lots[int(hit.document["id"])] >= passing for some in hits for hit in some)),
        }
    live.close()
    print(json.dumps(result))


def _ask(
    opened: Index, queries: Vectors, modality: Modality | None, condition: dict[str, Any] | None = None
) -> tuple[list[float], list[list[Hit]]]:
    """One query after the other, as the Retriever does it for a `Query`."""
    seconds, found = [], []
    for vector in queries:
        query = Query([(vector, 1.0)], modality, AT, condition, exact=modality is None, model_hash="")
        started = time.perf_counter()
        passes = None if query.filter is None else filters.parse(query.filter)
        hits = opened.search(
            query.parts[0][0], query.top_k, modality=query.modality, exact=query.exact, filter=passes
        )
        seconds.append(time.perf_counter() - started)
        found.append(hits)
    return seconds, found


def _recall(vectors: Vectors, queries: Vectors, found: list[list[Hit]], nearest: Vectors) -> float:
    """Share of the nearest that was found, the last of which has the cosine `nearest` [Q] to its query.

    The cosines are computed here: ivf-pq's own are rounded.
    """
    right = 0
    for query, hits, last in zip(queries, found, nearest, strict=True):
        rows = [int(hit.document["id"]) for hit in hits]
        right += int((vectors[rows] @ query >= last - TIE).sum())
    return right / sum(map(len, found))


def _documents(rows: int) -> pa.Table:
    numbers = [str(row) for row in range(rows)]
    columns = {
        "id": numbers,
        "food_id": numbers,
        "title": [f"Product {number}" for number in numbers],
        "passage_text": [f"What is told about product {number}." for number in numbers],
        "image_path": [None] * rows,
        "metadata": [json.dumps({"lot": row % LOTS}) for row in range(rows)],
    }
    return pa.table(columns, schema=schema.DOCSTORE)


def _spec(dimension: int) -> ModelSpec:
    return ModelSpec(
        base_model="drawn vectors", base_revision=None, family="clip", embedding_dim=dimension,
        image_size=32, image_resize="crop", image_shortest=32, image_resample="bicubic",
        image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), context_length=77, pad_to_context=False,
        text_normalizer=text.VERSION, logit_scale=10.0, logit_bias=0.0, calibration=None, threshold=None,
        metrics={}, data_fingerprint=None, weights_sha256="00" * 32,
    )  # fmt: skip


def _memory(name: str) -> float:
    """Bytes of this process, of a line in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(name)), float("nan"))


# ------------------------------------------------------------------------------------ what is printed


def _print_builds(config: Retrieval, folder: Path) -> None:
    print(
        "\n| kind | structure | build s | with tuning, documents, files s | peak RSS GB | vectors GB | all GB |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in config.kinds:
        made = json.loads((folder / f"{kind}.json").read_text())
        sizes = made["sizes"]
        print(
            f"| {kind} | {made['factory']} | {made['structure_s']:.0f} | {made['whole_s']:.0f} | "
            f"{made['peak'] / 1e9:.2f} | {sizes[index_version.VECTORS] / 1e9:.3f} | {sum(sizes.values()) / 1e9:.3f} |",
            flush=True,
        )


def _print_searches(found: Mapping[str, list[dict[str, Any]]]) -> None:
    scans = {
        modality: [_per_s(run[modality]) for run in found["flat"]] if "flat" in found else []
        for modality in MODALITIES
    }
    print(
        "\n| index | queries | settings | recall@10 | single q/s | p50 ms | p99 ms | "
        f"batches of {BATCH}, q/s | x brute force |\n|---|---|---|---|---|---|---|---|---|"
    )
    best: dict[str, float] = {}
    for name, runs in found.items():
        for modality in MODALITIES:
            recall = statistics.mean(run[modality]["recall"] for run in runs)
            ratios = [_per_s(run[modality]) / scan for run, scan in zip(runs, scans[modality], strict=False)]
            print(
                f"| {name} | {modality} | {_settings(runs[0][modality]['settings'])} | {recall:.3f} | "
                f"{_speed(runs, modality)} | {_spread([run[modality]['batches_per_s'] for run in runs])} | "
                f"{_spread(ratios)} |"
            )
            floor = IMAGE_TARGET[1] if modality == "image" else TEXT_TARGET[1]
            if ratios and recall >= floor:
                best[modality] = max(best.get(modality, 0.0), statistics.median(ratios))
        recall = statistics.mean(run["exact"]["recall"] for run in runs)
        if not name.endswith("-high"):
            print(f"| {name} | image | exact | {recall:.3f} | {_speed(runs, 'exact')} | | |")
    print(
        "\n| index | passes | recall@10 | single q/s | p50 ms | p99 ms | first time ms | kept out, yet found |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        for passing in FILTERS:
            key = f"filter {passing}"
            first = statistics.median(run[key]["first_s"] for run in runs)
            print(
                f"| {name} | {passing / LOTS:.1%} | {statistics.mean(run[key]['recall'] for run in runs):.3f} | "
                f"{_speed(runs, key)} | {1000 * first:.0f} | {sum(run[key]['wrong'] for run in runs)} |"
            )
    print(
        "\n| index | open s (checksums, warm-up) | RSS GB | of it not the mapped files, GB |\n|---|---|---|---|"
    )
    for name, runs in found.items():
        opening, rss, own = ([run[key] for run in runs] for key in ("open_s", "rss", "anonymous"))
        print(f"| {name} | {_spread(opening)} | {max(rss) / 1e9:.2f} | {max(own) / 1e9:.2f} |")
    print()
    for modality, (times, recall) in (("image", IMAGE_TARGET), ("text", TEXT_TARGET)):
        reached = best.get(modality)
        outcome = (
            "not measured" if not scans[modality] else "met" if reached and reached >= times else "MISSED"
        )
        shown = "none" if reached is None else f"{reached:.0f} x"
        print(f"{modality} queries at recall {recall}: {shown} of brute force, target {times} x: {outcome}")


def _per_s(asked: Mapping[str, Any]) -> float:
    return len(asked["seconds"]) / sum(asked["seconds"])


def _speed(runs: list[dict[str, Any]], key: str) -> str:
    pooled = [1000 * second for run in runs for second in run[key]["seconds"]]
    speeds = _spread([_per_s(run[key]) for run in runs])
    return f"{speeds} | {statistics.median(pooled):.2f} | {float(np.quantile(pooled, 0.99)):.2f}"


def _spread(numbers: list[float]) -> str:
    """The median and, of several, from-to."""
    if not numbers:
        return ""
    shown = [f"{number:.0f}" if number >= 100 else f"{number:.3g}" for number in sorted(numbers)]
    middle = statistics.median(numbers)
    median = f"{middle:.0f}" if middle >= 100 else f"{middle:.3g}"
    return median if len(numbers) == 1 else f"{median} ({shown[0]}-{shown[-1]})"


def _settings(settings: Mapping[str, int] | None) -> str:
    return "exact" if settings is None else " ".join(f"{name} {value}" for name, value in settings.items())


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main(tyro.cli(Retrieval, description=__doc__))
