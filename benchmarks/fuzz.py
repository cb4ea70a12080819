"""Hostile requests by the ten thousand over real HTTP: none may be answered 5xx or in a way that OpenAPI does not tell,
and no process of the service may die.

    python -m benchmarks.fuzz --cases 20000
    python -m benchmarks.fuzz --cases 2000 --seed 7
    python -m benchmarks.fuzz --url http://127.0.0.1:8000       # a service of yours, without keys or limits of rate

OpenAPI    schemathesis draws requests from /openapi.json, for each operation ones that fit and ones that do not, and
           checks every answer: no server error; its status, its content type and its JSON are as documented.
by hand    what tests/hostile.py draws: damaged, lying and odd pictures as files and as base64, forms and JSON that are
           nearly sound, odd methods and addresses. An answer is below 500 and documented; an error has the contract's
           shape.
bombs      files that hold or promise more than they weigh, to each route.
batches    a batch of damaged pictures with a sound one before and after each: all sound ones are judged, and alike.

The service that is started has a random model, an index, a folder of pictures and an allowed host (loopback), so that
paths and URLs are looked at too; with RAY_SERVE_ENABLE_HA_PROXY=1 it is behind HAProxy. Processes are those of Ray
Serve, with --url all of this machine's: one that is not there at the end has died. Memory is what they hold (PSS) after
a tenth of the cases, and at the end. Ends with 1 on any complaint.
"""

import contextlib
import multiprocessing
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import psutil
import pyarrow as pa
import ray
import schemathesis
import tyro
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from ray import serve
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from data_jobs import drawing, images, schema
from serve_app.app import build
from serve_app.settings import ServeArgs
from tests import hostile
from train_jobs import index, scratch
from train_jobs.index import Queries

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OF_OPENAPI = 0.5
"""Share of the cases that schemathesis draws."""
A_ROUND = 400
"""Cases that one run of hypothesis draws: it remembers all of them."""
SHOWN = 3
"""Complaints of one kind that are shown."""
PARTS = 10
"""After the first the service is warm; each is told on stderr."""
TITLES = ("ray::ServeReplica", "ray::ServeController", "ray::ProxyActor", "ray::HAProxyManager")
GROWTH_MB = 300
"""More than caches (64 MB in an ingress) and allocators take: a leak of 20 kB a case would be seen."""


@dataclass(frozen=True)
class Fuzz:
    cases: int = 20_000
    """Requests, in all."""
    url: str | None = None
    """A running service (default: one is started)."""
    clients: int = 3
    """Processes that send, each one request at a time."""
    seed: int = 0


@dataclass(frozen=True)
class Share:
    """What one client sends."""

    url: str
    cases: int
    seed: int
    bombs: bool


@dataclass
class Tally:
    """What came of it."""

    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # by kind, route, status
    complaints: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by kind, route, what
    examples: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        return sum(self.answers.values())

    def complain(self, kind: str, route: str, what: str, sent: str) -> None:
        self.complaints[kind, route, what] += 1
        self.examples.setdefault((kind, route, what), []).append(sent[:2000])
        del self.examples[kind, route, what][SHOWN:]

    def add(self, other: "Tally") -> None:
        self.answers += other.answers
        self.complaints += other.complaints
        for key, examples in other.examples.items():
            self.examples[key] = [*self.examples.get(key, []), *examples][:SHOWN]


# ----------------------------------------------------------------------------------------------- the clients


def attack(share: Share) -> Tally:
    """Send a client's share. The first seeds of two clients are far apart, so that they draw other cases."""
    tally = Tally()
    with httpx.Client(base_url=share.url, timeout=60) as client:
        openapi = client.get("/openapi.json").json()
        seeds = iter(range(share.seed * 1_000_000, (share.seed + 1) * 1_000_000))
        for bomb in hostile.bombs().values() if share.bombs else ():
            for route in hostile.routes(openapi):
                if route.form is not None:
                    _send(client, openapi, hostile.upload(route, bomb), tally, "bomb")
        operations = list(_operations(share.url))
        while (left := round(share.cases * OF_OPENAPI) - tally.cases) > 0:
            for operation, strategy in operations:
                _draw(
                    strategy,
                    next(seeds),
                    min(A_ROUND, -(-left // len(operations))),
                    lambda case, operation=operation: _validate(case, operation, share.url, tally),
                )
        by_hand = hostile.requests(openapi)
        while (left := share.cases - tally.cases) > 0:
            for strategy in by_hand.values():
                most = min(A_ROUND, -(-left // len(by_hand)))
                _draw(
                    strategy, next(seeds), most, lambda sent: _send(client, openapi, sent, tally, sent.kind)
                )
            _draw(
                st.lists(hostile.pictures(), min_size=1, max_size=15),
                next(seeds), -(-left // 40), lambda files: _batch(client, files, tally),
            )  # fmt: skip
    return tally


def _operations(url: str) -> Iterator[tuple[str, st.SearchStrategy[Any]]]:
    """For each operation what fits and, where it takes anything, what does not."""
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        yield operation.label, operation.as_strategy()
        if operation.body or list(operation.iter_parameters()):
            negative = schemathesis.GenerationMode.NEGATIVE
            yield operation.label, operation.as_strategy(generation_mode=negative)


def _draw(strategy: st.SearchStrategy[Any], seed: int, most: int, use: Any) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        use(drawn)

    run()


def _validate(case: Any, operation: str, url: str, tally: Tally) -> None:
    """One of schemathesis' cases."""
    try:
        response = case.call(base_url=url, timeout=60)
    except Exception as error:
        tally.answers["OpenAPI", operation, 0] += 1
        tally.complain("OpenAPI", operation, f"no answer: {type(error).__name__}", case.as_curl_command())
        return
    tally.answers["OpenAPI", operation, response.status_code] += 1
    try:
        case.validate_response(response, checks=CHECKS)
    except (FailureGroup, Failure) as found:
        for failure in found.exceptions if isinstance(found, FailureGroup) else [found]:
            what = f"{type(failure).__name__}, status {response.status_code}"
            tally.complain("OpenAPI", operation, what, f"{failure}\n{case.as_curl_command()}")


def _send(client: httpx.Client, openapi: dict[str, Any], sent: hostile.Sent, tally: Tally, kind: str) -> None:
    """One request of tests/hostile.py."""
    route = f"{sent.method} {sent.route}" if sent.route else "elsewhere"
    try:
        answer = client.request(sent.method, sent.path, content=sent.body, headers=sent.headers)
    except httpx.HTTPError as error:
        tally.answers[kind, route, 0] += 1
        tally.complain(kind, route, f"no answer: {type(error).__name__}", repr(sent))
        return
    tally.answers[kind, route, answer.status_code] += 1
    content_type = answer.headers.get("content-type", "")
    if what := hostile.complaint(openapi, sent, answer.status_code, content_type, answer.content):
        tally.complain(kind, route, what, f"{answer.text[:300]}\n{sent!r}")


def _batch(client: httpx.Client, files: list[bytes], tally: Tally) -> None:
    """Damaged pictures among sound ones."""
    body, sound = hostile.batch(files, hostile.sound()["jpeg"])
    route = "POST /clip/analyze-batch"
    try:
        answer = client.post("/clip/analyze-batch", json=body)
    except httpx.HTTPError as error:
        tally.answers["batch", route, 0] += 1
        tally.complain("batch", route, f"no answer: {type(error).__name__}", repr(files))
        return
    tally.answers["batch", route, answer.status_code] += 1
    if answer.status_code != 200:
        tally.complain("batch", route, f"status {answer.status_code}", f"{answer.text[:300]}\n{files!r}")
        return
    told = answer.json()
    scores = {result["index"]: result["similarity_score"] for result in told["results"]}
    if len(told["results"]) + len(told["errors"]) != len(body["items"]):
        tally.complain("batch", route, "not every item is answered", repr(files))
    if max(scores.get(place, 9.0) for place in sound) - min(scores.get(place, 9.0) for place in sound) > 1e-4:
        tally.complain("batch", route, "a sound picture has suffered", repr(files))


# ----------------------------------------------------------------------------------------------- the service


@contextlib.contextmanager
def service() -> Iterator[str]:
    """The application on a Ray of its own; its address."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        _prepare(folder)
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
        ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="warning")
        port = _free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = ServeArgs(
            model=str(folder / "model"),
            index=str(folder / "index"),
            backend="torch-float32",
            threads=1,
            image_root=str(folder / "images"),
            image_url_hosts=("127.0.0.1",),
        )
        serve.run(build(settings.model_dump()), name="catalens", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        shutil.rmtree(folder)


def _prepare(folder: Path) -> None:
    """A model, an index of 200 documents, and a folder with a picture and a link that leads out of it."""
    products = drawing.random_products(200, 0)
    titles = [drawing.describe(product, variant=number) for number, product in enumerate(products)]
    model = scratch.build("scratch:tiny-clip", titles)
    model.spec = replace(
        model.spec, image_resize="crop"
    )  # as published models have it: long pictures are scaled up
    model.save(folder / "model")
    documents = pa.Table.from_pylist(
        [
            {
                "id": f"d{row}", "food_id": f"g{row}", "title": title, "passage_text": title, "image_path": None,
                "metadata": f'{{"price": {row}, "colour": ["red", {row % 3}]}}',
            }
            for row, title in enumerate(titles)
        ],
        schema.DOCSTORE,
    )  # fmt: skip
    nobody = Queries("nobody asked", np.empty((0, model.spec.embedding_dim), np.float32), [], [])
    index.write(
        folder / "index", model.texts(titles), documents, model.spec, embedded="titles",
        queries={"text": nobody, "image": nobody},
    )  # fmt: skip
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").write_bytes(images.encode_jpeg(drawing.draw(products[0], 64)))
    (folder / "images" / "link.jpg").symlink_to(folder / "model" / "spec.json")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Process:
    """One of Ray Serve's."""

    pid: int
    started: float  # a pid may be given again
    title: str = field(compare=False)  # Ray adds what is being done


def processes() -> dict[Process, float]:
    """Those of our Ray, else all of this machine, and the MB that each holds."""
    found = {}
    ours = psutil.Process().children(recursive=True) if ray.is_initialized() else psutil.process_iter()
    for one in ours:
        with contextlib.suppress(psutil.Error):
            title = " ".join(one.cmdline())
            if any(name in title for name in TITLES):
                memory = one.memory_full_info()
                title = title.removeprefix("ray::").partition(".")[0][:60]
                found[Process(one.pid, one.create_time(), title)] = getattr(memory, "pss", memory.rss) / 1e6
    return found


# ----------------------------------------------------------------------------------------------------- report


def measure(config: Fuzz, url: str) -> bool:
    """Send everything and print what came of it. True if there is nothing to complain about."""
    first = _verdict(url)
    at_first = processes()
    started = time.monotonic()
    tally, warm = Tally(), at_first
    with ProcessPoolExecutor(config.clients, multiprocessing.get_context("spawn")) as pool:
        for part in range(PARTS):
            cases = -(-config.cases // (PARTS * config.clients))
            first_seed = config.seed * 1000 + part * config.clients
            shares = [
                Share(url, cases, first_seed + number, bombs=not part) for number in range(config.clients)
            ]
            for done in pool.map(attack, shares):
                tally.add(done)
            if not part:
                warm = processes()
            told = f"{tally.cases:,} cases, {time.monotonic() - started:.0f} s, {tally.complaints.total()} complaints"
            print(told, file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    at_last = processes()
    _print_answers(tally)
    print(f"\n{tally.cases:,} cases in {seconds:.0f} s ({tally.cases / seconds:.0f} a second)")
    server_errors = sum(
        count for (_, _, status), count in tally.answers.items() if status >= 500 or not status
    )
    print(f"5xx or no answer: {server_errors}; other complaints: {tally.complaints.total() - server_errors}")
    for (kind, route, what), count in tally.complaints.most_common():
        print(f"\n{count} x {kind}, {route}: {what}")
        for example in tally.examples[kind, route, what]:
            print(f"    {example}")
    lives = _print_processes(at_first, warm, at_last)
    same = _verdict(url) == first
    print(f"\nready at the end, and a verdict is the same as before: {'yes' if same else 'NO'}")
    if ray.is_initialized():
        states = {
            name: {str(state): count for state, count in found.replica_states.items()}
            for name, found in serve.status().applications["catalens"].deployments.items()
        }
        print(f"serve.status: {states}")
    sound = not tally.complaints and lives and same and tally.cases >= config.cases
    print(
        f"\ntarget of {config.cases:,} cases, no 5xx, no complaint, no dead process: {'met' if sound else 'MISSED'}"
    )
    return sound


def _verdict(url: str) -> Any:
    """Of a sound picture, once the service is ready."""
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/healthz/ready").raise_for_status()
        files = {"file": hostile.sound()["jpeg"]}
        return client.post("/clip/analyze", files=files, data={"text": "a red mug"}).raise_for_status().json()


def _print_answers(tally: Tally) -> None:
    statuses = sorted({status for _, _, status in tally.answers})
    kinds: dict[tuple[str, str], Counter[int]] = {}
    for (kind, route, status), count in tally.answers.items():
        kinds.setdefault((kind, route), Counter())[status] += count
    print(f"{'':18} {'':32} {'cases':>7}" + "".join(f"{status or 'none':>7}" for status in statuses))
    for (kind, route), counts in sorted(kinds.items()):
        cells = "".join(f"{counts[status] or '':>7}" for status in statuses)
        print(f"{kind:18} {route:32} {counts.total():7}{cells}")
    totals = Counter[int]()
    for counts in kinds.values():
        totals += counts
    print(f"{'all':18} {'':32} {totals.total():7}" + "".join(f"{totals[status]:7}" for status in statuses))


def _print_processes(
    first: dict[Process, float], warm: dict[Process, float], last: dict[Process, float]
) -> bool:
    if not first:
        print("\nThere are no processes of Ray Serve on this machine; whether any died is not known.")
        return True
    print(f"\n{'process':60} {'pid':>7} {'MB before':>10} {'warm':>7} {'after':>7}")
    for process, megabytes in sorted(first.items(), key=lambda found: found[0].title):
        after = f"{last[process]:7.0f}" if process in last else "   DEAD"
        print(f"{process.title:60} {process.pid:7} {megabytes:10.0f} {warm.get(process, 0):7.0f} {after}")
    growth = sum(last.values()) - sum(warm.values())
    print(
        f"all: {sum(first.values()):.0f} MB before, {sum(warm.values()):.0f} warm, {sum(last.values()):.0f} after",
        end="",
    )
    met = "met" if growth <= GROWTH_MB else "MISSED"
    print(f"; growth since warm {growth:.0f} MB (target at most {GROWTH_MB}: {met})")
    return first.keys() <= last.keys() and growth <= GROWTH_MB


def main() -> None:
    config = tyro.cli(Fuzz, description=__doc__)
    proxy = "HAProxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "Ray's Python proxy"
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Ray {ray.__version__} with {proxy}, "
        f"schemathesis {version('schemathesis')}, hypothesis {hypothesis.__version__}, Pillow {version('pillow')}; "
        f"{config.clients} clients, seed {config.seed}"
    )
    with contextlib.nullcontext(config.url) if config.url else service() as url:
        sound = measure(config, url)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
