"""Training survives: with the driver, a worker or a node killed midway it ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tyro
from conftest import HEARING_CTRL_C, REPO_ROOT, free_port, processes_of

from data_jobs import dataset
from data_jobs.errors import InputError
from train_jobs import finetune
from train_jobs.finetune import Finetune
from train_jobs.spec import ModelSpec

ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPO_ROOT), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
EPOCHS = 8
EXACT = ("epoch", "step", "train_loss", "val_auroc", "val_recall", "learning_rate", "logit_scale")


@pytest.fixture(scope="module")
def data(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue's train, val and calibration as datasets."""
    folder = tmp_path_factory.mktemp("datasets")
    for name in ("train", "val", "calibration"):
        dataset.from_csv(catalogue / f"{name}.csv", folder / name, image_size=80)
    return folder


def flags(data: Path, output: Path, *more: str) -> list[str]:
    return [
        "-m", "train_jobs.finetune",
        *(part for name in ("train", "val", "calibration") for part in (f"--{name}-data", str(data / name))),
        "--model-name", "scratch:tiny-clip", "--epochs", str(EPOCHS), "--batch-size", "32", "--learning-rate", "1e-3",
        "--average", "0.9", "--precision", "float32", "--num-workers", "2", "--cpus-per-worker", "0.5",
        "--save-steps", "2", "--device", "cpu", "--output-dir", str(output), *more,
    ]  # fmt: skip


def start(data: Path, output: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*HEARING_CTRL_C, sys.executable, *flags(data, output, *more)],
        cwd=REPO_ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def last_state(output: Path) -> int:
    """The step of the newest state of the unfinished run; 0 without one."""
    states = (output.parent / f".{output.name}.unfinished" / "checkpoints").glob("step_*")
    return max((int(path.name.removeprefix("step_")) for path in states), default=0)


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 180
    while last_state(output) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no states appear"
        time.sleep(0.01)


def history(output: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((output / "history.json").read_text())
    return [{key: epoch[key] for key in EXACT} for epoch in found]


def weights(output: Path, name: str) -> str | None:
    spec = ModelSpec.read(output / name)
    assert spec is not None
    return spec.weights_sha256


def same_run(output: Path, other: Path) -> None:
    assert history(output) == history(other)  # to the last bit
    for name in ("final_model", "best_model"):
        assert weights(output, name) == weights(other, name)
    assert not list(output.parent.glob(f".{output.name}*"))
    assert not (output / "checkpoints").exists()


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "model"
    finetune.run(tyro.cli(Finetune, args=flags(data, output)[2:]))
    assert len(history(output)) == EPOCHS
    return output


def test_a_stopped_driver_a_killed_one_and_a_killed_worker_cost_only_time(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    first = start(data, output)
    wait_for_step(output, 4, first)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=120)[0]
    assert first.returncode == 130 and "go on with --resume" in said and "Traceback" not in said
    assert not output.exists()

    for more, code in (((), "unfinished_run"), (("--resume", "--epochs", "9"), "other_plan")):
        with pytest.raises(InputError) as refused:
            finetune.run(tyro.cli(Finetune, args=flags(data, output, *more)[2:]))
        assert refused.value.code == code

    stopped_at = last_state(output)
    second = start(data, output, "--resume")
    wait_for_step(output, stopped_at + 9, second)
    for process in [second, *psutil.Process(second.pid).children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    second.communicate()
    killed_at = last_state(output)
    assert killed_at > stopped_at

    third = start(data, output, "--resume")
    wait_for_step(output, killed_at + 6, third)
    next(processes_of(third.pid, "RayTrainWorker")).kill()
    said = third.communicate(timeout=300)[0]
    assert third.returncode == 0, said
    assert f"step {killed_at}" in said
    same_run(output, undisturbed)


CLUSTER = """
import json, subprocess, sys, time
from pathlib import Path
from urllib.request import urlopen

import ray
from ray.cluster_utils import Cluster

port, agent, output = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 1, "include_dashboard": True, "dashboard_port": int(port),
    "dashboard_agent_listen_port": agent, "object_store_memory": 100_000_000})
node = cluster.add_node(num_cpus=1, dashboard_agent_listen_port=agent + 1, object_store_memory=100_000_000)
ray.init(cluster.address, log_to_driver=False, logging_level="error")
job = subprocess.Popen(
    [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{port}", "--",
     sys.executable, *sys.argv[4:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
states = output.parent / f".{output.name}.unfinished" / "checkpoints"
deadline = time.monotonic() + 180
while len(list(states.glob("step_*"))) < 2 and job.poll() is None and time.monotonic() < deadline:
    time.sleep(0.01)
removed_at = max((int(path.name[5:]) for path in states.glob("step_*")), default=0)
cluster.remove_node(node, allow_graceful=False)
said = job.communicate(timeout=240)[0]
print(said)
runs = json.load(urlopen(f"http://127.0.0.1:{port}/api/train/v2/runs/v1"))["train_runs"]
seen = [{"name": run["name"], "status": run["status"]} for run in runs]
print(json.dumps({"removed_at": removed_at, "rc": job.returncode, "dashboard": seen}), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_a_submitted_job_goes_on_with_fewer_workers_when_a_node_is_lost(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """`ray job submit` on two nodes, a worker on each; one node is taken away and --min-workers is 1."""
    output = tmp_path / "model"
    command = flags(data, output, "--min-workers", "1", "--cpus-per-worker", "1")
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(free_port()), str(free_port()), str(output), *command],
        cwd=REPO_ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=420,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"removed_at')))
    assert answer["rc"] == 0, done.stdout[-3000:]
    assert 0 < answer["removed_at"] < EPOCHS * 6
    (seen,) = answer["dashboard"]
    assert seen["name"].startswith("model-") and seen["status"] == "FINISHED"
    # Sums are taken in another order now, so that the last bits differ.
    for epoch, other in zip(history(output), history(undisturbed), strict=True):
        assert epoch == pytest.approx(other, rel=2e-2, abs=2e-2)
