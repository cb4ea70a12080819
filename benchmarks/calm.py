"""The service under abuse: overload, killed replicas, a killed node, a load that rises and falls.

    python -m benchmarks.calm
    python -m benchmarks.calm --only node ramp
    python -m benchmarks.calm --only overload --model DIR --backend openvino-int8    # of benchmarks.serve --keep

overload   ten times what it can do, on the CPUs that there are, as serve_config.yaml deploys it: how long do those wait
           who are let in, are all others told when to come again, does memory grow, and when is it over?
replicas   kill -9 of one of two Embedders, then of one of two Ingresses, under steady load.
node       two nodes with a replica of each deployment; kill -9 of the raylet of one, whose processes end with it.
ramp       load that rises beyond what one Embedder can do, and falls again, with up to three of them.

Verdicts about unique JPEG files of 320 pixels and unique texts, by a small vision transformer with random weights on
one thread a replica. Serve with HAProxy, as `make serve` starts it; the clients run on the same cores (calm_load).
Loads are shares of the successes/s of a closed loop just before. Failed is whatever is neither 200 nor 429.
"""

import contextlib
import math
import os
import platform
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import psutil
import ray
import tyro

from benchmarks import calm_service
from benchmarks.calm_load import Phase
from benchmarks.calm_report import (
    Row,
    due,
    failures,
    in_phase,
    killed_rows,
    memory_rows,
    ms,
    overload_rows,
    quantile,
    recovered_after,
    seconds,
    show,
)
from benchmarks.calm_service import Service
from benchmarks.train import cpu
from serve_app.settings import ServeArgs

Part = Literal["overload", "replicas", "node", "ramp"]
PARTS: tuple[Part, ...] = ("overload", "replicas", "node", "ramp")
TIMES = 10
RECOVERED, RECOVERY_S = 1.5, 5.0  # times the quiet p50; within so many seconds
MEMORY_GROWTH = 1.05
MARGIN_S = 2.0
"""What a request that was let in may take beyond the longest wait."""
QUIET_S, AFTER_S, STEADY_S, KILL_AT_S = 15.0, 20.0, 40.0, 8.0
TWO = {"num_replicas": 2, "autoscaling_config": None}
APART = {**TWO, "max_replicas_per_node": 1}
FULL_WITHIN_S = 60.0
RETRIES = {
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(256 << 10),
}
RAMP = (
    Phase("low", 15, 0.3),
    Phase("rising", 15, 0.7),
    Phase("high", 60, 1.1),
    Phase("falling", 15, 0.5),
    Phase("low again", 40, 0.15),
)  # shares of the capacity instead of requests/s
SCALING = {
    "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1.2,
    "upscale_delay_s": 2, "downscale_delay_s": 6, "look_back_period_s": 11,
}  # fmt: skip


@dataclass(frozen=True)
class Calm:
    only: tuple[Part, ...] = PARTS
    """What is done to it."""
    seconds: float = 120
    """Of overload."""
    steady: float = 0.4
    """Share of the capacity that is asked of it while something is killed."""
    model: Path | None = None
    """Model directory to serve instead of the small one."""
    backend: str = "torch-float32"
    retries: bool = True
    """Let HAProxy ask another Ingress where one dies before it answered, of requests up to 256 kB."""


def main(config: Calm) -> None:
    memory = psutil.virtual_memory().total >> 30
    print(
        f"{cpu()}, {os.cpu_count()} cores, {memory} GiB, Python {platform.python_version()}, Ray {ray.__version__}; "
        f"load {os.getloadavg()[0]:.1f}; HAProxy asks again: {'yes' if config.retries else 'no'}",
        flush=True,
    )
    parts: dict[Part, Callable[[Calm, Path], list[Row]]] = {
        "overload": overload,
        "replicas": replicas,
        "node": node,
        "ramp": ramp,
    }
    with tempfile.TemporaryDirectory() as scratch:
        calm_service.prepare(Path(scratch))
        for part in config.only:
            started = time.monotonic()
            show(parts[part](config, Path(scratch)))
            print(f"({time.monotonic() - started:.0f} s)\n", flush=True)


@contextlib.contextmanager
def served(
    config: Calm, folder: Path, *nodes: float, **changes: dict[str, Any]
) -> Iterator[tuple[Service, float]]:
    """The service, warmed up, and its successes/s."""
    with calm_service.running(
        folder,
        nodes=nodes,
        changes=changes,
        flags=RETRIES if config.retries else {},
        arguments={"backend": config.backend, **({"model": str(config.model)} if config.model else {})},
    ) as service:
        load = service.clients(Phase("warm", 4, None, 8), Phase("capacity", 8, None, 32)).outcomes()
        counts = Counter(outcome.status for outcome in in_phase(load, "capacity"))
        print(f"capacity {counts['200'] / 8:.0f}/s {dict(counts)}", flush=True)
        time.sleep(3)
        yield service, counts["200"] / 8


def overload(config: Calm, folder: Path) -> list[Row]:
    with served(config, folder, float(os.cpu_count() or 1)) as (service, capacity):
        load = service.clients(
            Phase("quiet", QUIET_S, 0.2 * capacity),
            Phase("overload", config.seconds, TIMES * capacity),
            Phase("after", AFTER_S, 0.2 * capacity),
        )
        begun, ended = load.started + QUIET_S, load.started + QUIET_S + config.seconds
        samples = [service.sample()]
        while time.time() < ended + AFTER_S:
            time.sleep(2)
            samples.append(service.sample())
        outcomes = load.outcomes()
    part = f"overload x {TIMES}"
    quiet, during, after = (in_phase(outcomes, name) for name in ("quiet", "overload", "after"))
    back = recovered_after(outcomes, ended, RECOVERED * quantile(quiet, 0.5))
    longest = ServeArgs().waiting_s + MARGIN_S
    what = f"p50 within {RECOVERED} x quiet after"
    return [
        Row(part, "capacity, and sent", f"{capacity:.0f}/s, {len(during) / config.seconds:.0f}/s"),
        Row(part, "quiet, p50 / p99 ms", ms(quiet)),
        *overload_rows(part, during, config.seconds, longest),
        *memory_rows(part, samples, begun, ended, MEMORY_GROWTH),
        Row(part, what, seconds(back), f"{RECOVERY_S:g} s", back <= RECOVERY_S),
        Row(part, "after, p50 / p99 ms; failed", f"{ms(after)}; {failures(after) or 0}"),
    ]


def replicas(config: Calm, folder: Path) -> list[Row]:
    rows = []
    with served(config, folder, 8.0, Embedder=TWO, Ingress=TWO) as (service, capacity):
        for deployment in ("Embedder", "Ingress"):
            load = service.clients(Phase("steady", STEADY_S, config.steady * capacity))
            time.sleep(KILL_AT_S)
            victim = service.pids(deployment)[0]
            os.kill(victim, signal.SIGKILL)
            killed = time.time()
            full = _until(partial(_has_two, service, deployment, victim))
            part = f"kill -9, 1 of 2 {deployment}s"
            rows += killed_rows(part, load.outcomes(), killed)
            rows.append(Row(part, "two again after", seconds(full)))
    return rows


def node(config: Calm, folder: Path) -> list[Row]:
    apart = {"Embedder": APART, "Ingress": APART, "Retriever": APART}
    with served(config, folder, 4.0, 4.0, **apart) as (service, capacity):
        load = service.clients(Phase("steady", STEADY_S, config.steady * capacity))
        time.sleep(KILL_AT_S)
        before = [service.running(name) for name in apart]
        service.kill_a_node()
        killed = time.time()
        outcomes = load.outcomes()
        after = [service.running(name) for name in apart]
    part = "kill -9 of a node, 1 of 2"
    told = f"{', '.join(apart)}: {before} -> {after}"
    return [Row(part, "replicas", told), *killed_rows(part, outcomes, killed)]


def ramp(config: Calm, folder: Path) -> list[Row]:
    one = {"num_replicas": 1, "autoscaling_config": None}
    with served(config, folder, 8.0, Embedder={"autoscaling_config": SCALING}, Ingress=one) as (
        service,
        capacity,
    ):
        _until(lambda: service.running("Embedder") == 1)
        load = service.clients(*(Phase(p.name, p.seconds, (p.per_s or 0) * capacity) for p in RAMP))
        ends = dict(
            zip(
                (p.name for p in RAMP),
                accumulate((p.seconds for p in RAMP), initial=load.started),
                strict=False,
            )
        )
        counts: list[tuple[float, int]] = []
        while time.time() < load.started + sum(p.seconds for p in RAMP):
            counts.append((time.time() - load.started, service.running("Embedder")))
            time.sleep(0.5)
        outcomes = load.outcomes()
    changes = [counts[0], *(after for before, after in pairwise(counts) if before[1] != after[1])]
    told = [f"{p.name} ({p.per_s:.0%}) from {ends[p.name] - load.started:.0f} s" for p in RAMP]
    high, again = ends["high"], ends["low again"]
    first, last = due(outcomes, high, high + 20), due(outcomes, high + 40, high + 60)
    peak, left = max(count for _, count in counts), counts[-1][1]
    refused = sum(outcome.status == "429" for outcome in outcomes)
    bad = failures(outcomes)
    return [
        Row("ramp", "load, of the capacity of one", ", ".join(told)),
        Row("ramp", "Embedders", ", ".join(f"{count} at {at:.0f} s" for at, count in changes)),
        Row("ramp", "p50 / p99 ms: low", ms(in_phase(outcomes, "low"))),
        Row("ramp", "high, first 20 s", ms(first)),
        Row(
            "ramp", "high, last 20 s", ms(last), "p50 comes back", quantile(last, 0.5) < quantile(first, 0.5)
        ),
        Row("ramp", "low again, last 20 s", ms(due(outcomes, again + 20, again + 40))),
        Row("ramp", "replicas", f"1 -> {peak} -> {left}", "up and down to 1", peak > 1 == left),
        Row("ramp", "failed", f"{bad or 0} of {len(outcomes)}; 429: {refused}", "0", not bad),
    ]


def _has_two(service: Service, deployment: str, victim: int) -> bool:
    others = [pid for pid in service.pids(deployment) if pid != victim]
    return len(others) >= 2 and service.running(deployment) >= 2


def _until(reached: Callable[[], bool]) -> float:
    """Seconds until then; infinity if it takes too long."""
    started = time.monotonic()
    while time.monotonic() < started + FULL_WITHIN_S:
        if reached():
            return time.monotonic() - started
        time.sleep(0.2)
    return math.inf


if __name__ == "__main__":
    main(tyro.cli(Calm, description=__doc__))
