"""What tests of several modules share."""

import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from data_jobs import ingest, make_sample
from data_jobs.drawing import Product, draw
from data_jobs.ingest import Ingest
from data_jobs.make_sample import MakeSample
from serve_app.app import build
from serve_app.settings import ServeArgs
from train_jobs import build_index, finetune
from train_jobs.augment import Augmentation
from train_jobs.build_index import BuildIndex
from train_jobs.finetune import Finetune

REPO_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept on a machine between runs is not this user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray on this machine, one for all tests; jobs join it instead of starting their own.

    Eight CPUs on paper, so that a served application and a job fit side by side.
    """
    import ray
    import ray.data

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # unset it warns on machines without GPU
    paths = [str(REPO_ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    ray.init(
        "local",  # never a cluster that happens to run on this machine
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=200 * 1024**2,
        log_to_driver=False,
        logging_level="warning",
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else a failed test shows pages of metrics
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn catalogue of 300 products (data_jobs.make_sample)."""
    folder = tmp_path_factory.mktemp("sample") / "catalogue"
    return make_sample.run(MakeSample(300, folder, size=96))


@pytest.fixture(scope="session")
def trained(ray_cluster: None, catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a real two-worker `finetune` on the drawn catalogue, from its CSV files."""
    output = tmp_path_factory.mktemp("trained") / "model"
    finetune.run(
        Finetune(
            train_csv=str(catalogue / "train.csv"),
            val_csv=str(catalogue / "val.csv"),
            calibration_csv=str(catalogue / "calibration.csv"),
            model_name="scratch:tiny-clip",
            epochs=12,
            batch_size=32,
            learning_rate=1e-3,
            num_workers=2,
            cpus_per_worker=1,
            augmentation=Augmentation(min_area=0.9, brightness=0.1, contrast=0.1),
            output_dir=output,
        )
    )
    return output


@pytest.fixture(scope="session")
def best_model(trained: Path) -> Path:
    return trained / "best_model"


@pytest.fixture(scope="session")
def passages(ray_cluster: None, catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset directory of the catalogue's Persian JSON."""
    folder = tmp_path_factory.mktemp("passages") / "persian"
    ingest.run(Ingest(persian_json=str(catalogue / "persian"), output_dir=folder, image_size=96))
    return folder


@pytest.fixture(scope="session")
def built_index(best_model: Path, passages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the Persian passages, made by the job."""
    folder = tmp_path_factory.mktemp("index") / "index"
    build_index.run(
        BuildIndex(docstore=passages / "docstore.parquet", model=str(best_model), output_dir=folder)
    )
    return folder


@pytest.fixture(scope="session")
def server(best_model: Path, built_index: Path) -> Iterator[str]:
    """The application of serve_app.app on the session's Ray, over real HTTP; its base address."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = ServeArgs(
        model=str(best_model), index=str(built_index), batch_size=16, backend="torch-float32"
    )
    serve.run(build(settings.model_dump()), name="catalens", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="session")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium without network. No longer than a module: its event loop runs in this thread meanwhile."""
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    quiet = ["background-networking", "component-update", "sync", "gpu"]
    with api.sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)],
        )
        yield launched
        launched.close()


def save_photos(products: Sequence[Product], folder: Path) -> Path:
    """Draw product i, 48 pixels square, as `folder/i.png`; returns the folder."""
    for i, product in enumerate(products):
        draw(product, 48).save(folder / f"{i}.png")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(driver: int, name: str) -> Iterator[psutil.Process]:
    """The processes that `driver` started, and those that they did, with `name` in their command lines."""
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                yield process
        except psutil.Error:  # it ended meanwhile
            continue


HEARING_CTRL_C = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]
"""Put before a command that is sent SIGINT: a suite in the background, where shells ignore it, would hand that on.

A preexec_fn would fork this process, which Ray's connection does not survive.
"""
