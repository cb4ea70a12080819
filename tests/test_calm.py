"""What must not hurt: hostile pictures, dying replicas, a new model or index under load, overload."""

import base64
import io
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import processes_of
from PIL import Image
from ray import serve

from data_jobs.drawing import draw, random_products
from serve_app.app import build
from serve_app.settings import ServeArgs
from train_jobs import build_index, scratch
from train_jobs.build_index import BuildIndex
from train_jobs.encoder import Encoder

TEXT = "a red mug"


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def pictures(count: int, seed: int) -> list[bytes]:
    return [encoded(draw(product, 64)) for product in random_products(count, seed=seed)]


class Load:
    """Clients that ask for verdicts about pictures nobody asked about before, one request after the other."""

    def __init__(self, address: str, clients: int, seed: int) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.scores: set[tuple[str, float]] = set()
        self.seconds: list[float] = []
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed + i,)) for i in range(clients)]

    def _ask(self, seed: int) -> None:
        mine = pictures(6, seed)
        with httpx.Client(base_url=self._address, timeout=60) as client:
            asked = 0
            while not self._stop.is_set():
                asked += 1
                started = time.monotonic()
                try:
                    answer = client.post(
                        "/clip/analyze",
                        files={"file": mine[asked % 6]},
                        data={"text": f"{TEXT} {seed} {asked}"},
                    )
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.seconds.append(time.monotonic() - started)
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.scores.add((answer.json()["model"], answer.json()["threshold_used"]))

    @contextmanager
    def running(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def replica_pids(deployment: str, app: str) -> list[int]:
    return [process.pid for process in processes_of(os.getpid(), f"ServeReplica:{app}:{deployment}")]


def test_one_hostile_picture_hurts_no_other_in_a_batch_of_32(client: httpx.Client) -> None:
    sound = pictures(24, seed=77)
    hostile = {
        "truncated": (encoded(draw(random_products(1, seed=3)[0], 96), "JPEG")[:500], "truncated_image"),
        "1 x 1": (encoded(Image.new("RGB", (1, 1))), None),
        "CMYK": (encoded(Image.new("CMYK", (40, 40)), "JPEG"), None),
        "16 bit": (encoded(Image.new("I;16", (40, 40), 40000)), None),
        "animated": (
            encoded(
                Image.new("P", (20, 20)), "GIF", save_all=True, append_images=[Image.new("P", (20, 20), 3)]
            ),
            None,
        ),
        "bomb": (encoded(Image.new("1", (12_000, 12_000))), "too_many_pixels"),
        "nothing": (b"", "empty_file"),
        "html": (b"<html>", "not_an_image"),
    }
    items = [*sound[:12], *(data for data, _ in hostile.values()), *sound[12:]]
    answer = client.post(
        "/clip/analyze-batch",
        json={"items": [{"image": base64.b64encode(data).decode(), "text": TEXT} for data in items]},
    ).json()
    expected = {12 + i: code for i, (_, code) in enumerate(hostile.values()) if code is not None}
    assert {error["index"]: error["code"] for error in answer["errors"]} == expected
    assert [result["index"] for result in answer["results"]] == [i for i in range(32) if i not in expected]


def test_a_killed_embedder_costs_time_only(server: str, client: httpx.Client) -> None:
    """It is the only one: what waits longer than `waiting_s` for the next is told to come again."""
    (victim,) = replica_pids("Embedder", "catalens")
    with Load(server, clients=4, seed=500).running() as load:
        time.sleep(2)
        os.kill(victim, signal.SIGKILL)
        while replica_pids("Embedder", "catalens") in ([], [victim]):
            time.sleep(0.2)
        wait_until_ready(client)
        time.sleep(1)
    assert set(load.statuses) <= {200, 429}, load.statuses
    assert load.statuses[200] > load.statuses[429]


def wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 90
    while client.get("healthz/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def other_model(best_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other vectors and no threshold of its own."""
    folder = tmp_path_factory.mktemp("other") / "other_model"
    scratch.build("scratch:tiny-clip", [TEXT, "a blue hat"], seed=3).save(folder)
    return folder


@pytest.fixture
def second_app(server: str, best_model: Path, built_index: Path) -> Iterator[str]:
    """The application once more beside the first, with room for exactly as much work as fits a small queue."""
    settings = ServeArgs(
        model=str(best_model), index=str(built_index), batch_size=8, waiting_pictures=8, most_requests=64
    )
    serve.run(build(settings.model_dump()), name="second", route_prefix="/second")
    yield f"{server}/second"
    serve.delete("second")


def test_a_new_model_under_load_costs_no_request_and_mixes_nothing(
    second_app: str, best_model: Path, other_model: Path
) -> None:
    """Thresholds tell which model judged: the calibrated one has its own, the other the default."""
    calibrated = Encoder.load(best_model).spec.threshold
    assert calibrated is not None
    with Load(second_app, clients=3, seed=900).running() as load:
        time.sleep(1)
        serve.run(build({"model": str(other_model)}), name="second", route_prefix="/second")
        time.sleep(3)
    assert set(load.statuses) == {200}, load.statuses
    assert load.scores == {("best_model", calibrated.value), ("other_model", 0.25)}
    after = httpx.get(f"{second_app}/clip/config").json()
    assert after["model"] == "other_model"


def test_overload_is_refused_at_once_and_leaves_no_trace(second_app: str) -> None:
    """40 clients of a model that lets 8 pictures wait: some are answered, the rest is told when to come again."""
    data = pictures(40, seed=4000)

    def ask(number: int) -> httpx.Response:
        return httpx.post(
            f"{second_app}/clip/analyze-batch",
            files=[("files", picture) for picture in data[number:] + data[:number]],
            data={"texts": [f"{TEXT} {number} {i}" for i in range(40)]},
            timeout=60,
        )

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}, statuses
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "too_busy"
    seconds = [httpx.get(f"{second_app}/healthz/ready", timeout=30).elapsed.total_seconds() for _ in range(3)]
    assert statistics.median(seconds) < 5
    assert ask(0).status_code == 200


def test_a_new_version_of_the_index_is_taken_while_searches_go_on(
    server: str, best_model: Path, passages: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    job = BuildIndex(docstore=passages / "docstore.parquet", model=str(best_model), output_dir=index)
    build_index.run(job)
    serve.run(build({"model": str(best_model), "index": str(index)}), name="live", route_prefix="/live")
    try:
        versions: list[str] = []
        stop = threading.Event()
        failures: list[str] = []

        def search() -> None:
            with httpx.Client(timeout=30) as client:
                while not stop.is_set():
                    answer = client.post(f"{server}/live/search", json={"text": "کیف", "top_k": 3})
                    if answer.status_code != 200:
                        failures.append(answer.text)
                    else:
                        versions.append(answer.json()["index_version"])

        thread = threading.Thread(target=search)
        thread.start()
        build_index.run(job)
        deadline = time.monotonic() + 60
        while "v002" not in versions and time.monotonic() < deadline:
            time.sleep(0.1)
        stop.set()
        thread.join()
        assert not failures
        assert versions[0] == "v001" and versions[-1] == "v002" and versions == sorted(versions)
    finally:
        serve.delete("live")
