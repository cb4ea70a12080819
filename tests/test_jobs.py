"""Jobs as users run them: as commands, and submitted to a real cluster with token authentication."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO_ROOT, free_port

from data_jobs.make_sample import MakeSample
from data_jobs.make_sample import run as make_sample

BIN = Path(sys.executable).parent
COMMANDS = [
    "data_jobs.make_sample", "data_jobs.ingest", "data_jobs.split", "train_jobs.finetune", "train_jobs.evaluate",
    "train_jobs.build_index", "train_jobs.calibrate", "train_jobs.compare", "train_jobs.embed", "serve_app.demo",
]  # fmt: skip


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=REPO_ROOT, env=os.environ | environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("job", COMMANDS)
def test_help_explains_every_flag(job: str) -> None:
    done = run(job, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {job}")
    assert done.stdout.count(f"python -m {job}") > 1
    assert "--output" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "remedy"),
    [
        (
            ["data_jobs.ingest", "--csv", "nowhere.csv", "--output-dir", "x"],
            "missing_source",
            "Check the path",
        ),
        (["data_jobs.make_sample", "3", "--output-dir", "x"], "too_few_products", "at least 20"),
        (
            ["train_jobs.build_index", "--docstore", "README.md", "--output-dir", "x"],
            "not_a_docstore",
            "docstore.parquet",
        ),
        (
            ["train_jobs.evaluate", "--model", "./nowhere", "--csv", "x.csv", "--output-dir", "x"],
            "model_not_found",
            "Check the path",
        ),
    ],
)
def test_a_user_error_is_one_clear_line_and_exit_2(arguments: list[str], code: str, remedy: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert f"error ({code})" in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert not (REPO_ROOT / "x").exists()


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run("data_jobs.make_sample", "20", "--output-dir", str(tmp_path / "file" / "sample"))
    assert done.returncode == 2, done.stderr
    assert "error (input_output)" in done.stderr and str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_the_default_model_without_a_network_says_what_to_do_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(
        "train_jobs.evaluate", "--csv", "x.csv", "--output-dir", str(tmp_path / "x"),
        HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "openai/clip-vit-base-patch32" in done.stderr
    assert "make demo" in done.stderr
    assert time.monotonic() - started < 60  # the imports; transformers alone would retry for half a minute


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Ray cluster of its own (`ray start`), with token authentication on; the environment of its clients."""
    home = tmp_path_factory.mktemp("home")
    port, dashboard, agent, client = (free_port() for _ in range(4))
    environment = os.environ | {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_ADDRESS": "",
        "PYTHONPATH": "",
    }
    environment.pop("RAY_ADDRESS")
    subprocess.run(
        [BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True
    )
    head = subprocess.Popen(
        [
            BIN / "ray", "start", "--head", "--block", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", "--num-cpus=4",
            "--object-store-memory=150000000", f"--temp-dir=/tmp/ray-{os.getpid()}", "--disable-usage-stats",
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"{address}/api/gcs_healthz", head)
        yield environment | {"RAY_API_SERVER_ADDRESS": address}
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"{url} does not answer")


def submit(cluster: dict[str, str], *entrypoint: str) -> "subprocess.CompletedProcess[str]":
    """Submit and wait; asks again while the cluster's job agent is still starting."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [BIN / "ray", "job", "submit", "--", *entrypoint],
            env=cluster, cwd=REPO_ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            return done
        time.sleep(2)


def test_a_job_runs_through_ray_job_submit_with_a_token(cluster: dict[str, str], tmp_path: Path) -> None:
    sample = make_sample(MakeSample(20, tmp_path / "sample", size=64))
    output = tmp_path / "dataset"
    done = submit(
        cluster, sys.executable, "-m", "data_jobs.ingest", "--csv", str(sample / "products.csv"),
        "--output-dir", str(output),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "26 pairs read = 20 written + 6 rejected" in done.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["pairs"] == {"read": 26, "written": 20, "rejected": 6}


def test_a_submission_without_the_token_is_refused(cluster: dict[str, str], tmp_path: Path) -> None:
    stranger = cluster | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    done = submit(stranger, "true")
    assert done.returncode != 0
    assert "401" in done.stdout + done.stderr or "nauth" in done.stdout + done.stderr
