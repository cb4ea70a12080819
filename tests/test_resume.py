"""Ingest survives: a worker, a node or the driver killed midway costs no row and doubles none."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import HEARING_CTRL_C, REPO_ROOT, processes_of

from data_jobs import dataset
from data_jobs.drawing import draw, random_products

ROWS = 240
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPO_ROOT), "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 240 rows, every tenth of them broken, whose pictures take a while to decode."""
    folder = tmp_path_factory.mktemp("source")
    for i, product in enumerate(random_products(12, seed=5)):
        draw(product, 700).save(folder / f"{i}.png")
    rows = [f"{'gone' if i % 10 == 7 else i % 12}.png,product number {i},{i % 2}" for i in range(ROWS)]
    (folder / "pairs.csv").write_text("\n".join(["image_path,text,label", *rows]))
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an ingest without Ray and without accidents makes of it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "dataset"
    dataset.from_csv(source, folder, image_size=64)
    return folder


def same_rows(folder: Path, other: Path) -> None:
    assert dataset.read_pairs(folder).equals(dataset.read_pairs(other))
    one, two = (dataset.read_report(path) for path in (folder, other))
    assert one["pairs"] == two["pairs"] == {"read": ROWS, "written": ROWS * 9 // 10, "rejected": ROWS // 10}
    assert one["fingerprint"] == two["fingerprint"]
    assert (folder / "rejects.csv").read_text() == (other / "rejects.csv").read_text()
    assert not list(folder.parent.glob(f".{folder.name}*"))


def start(source: Path, output: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *HEARING_CTRL_C, sys.executable, "-m", "data_jobs.ingest", "--csv", str(source),
            "--output-dir", str(output), "--image-size", "64", "--rows-per-part", "8", *flags,
        ],
        cwd=REPO_ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def parts_done(output: Path) -> list[Path]:
    return list((output.parent / f".{output.name}.unfinished" / "ledger").glob("*.json"))


def wait_for_parts(output: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while len(parts_done(output)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no parts appear"
        time.sleep(0.01)


def test_a_killed_driver_is_resumed_where_it_was(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    first = start(source, output)
    wait_for_parts(output, 6, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(1)  # its workers may end a part
    assert not output.exists()
    written = {path: path.stat().st_mtime_ns for path in parts_done(output)}
    assert 6 <= len(written) < ROWS / 8

    other = start(source, output, "--resume", "--image-size", "32")
    said = other.communicate()[0]
    assert other.returncode == 2
    assert "other_plan" in said and "--image-size was 64 and is now 32" in said

    again = start(source, output, "--resume")
    wait_for_parts(output, len(written) + 1, again)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    said = again.communicate()[0]
    assert again.returncode == 0, said
    same_rows(output, undisturbed)


def test_ctrl_c_keeps_what_was_written(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    first = start(source, output)
    wait_for_parts(output, 3, first)
    first.send_signal(signal.SIGINT)
    said = first.communicate()[0]
    assert first.returncode == 130, said
    assert "--resume" in said and "Traceback" not in said
    assert not output.exists() and len(parts_done(output)) >= 3
    again = start(source, output, "--resume")
    said = again.communicate()[0]
    assert again.returncode == 0, said
    same_rows(output, undisturbed)


def test_killed_workers_cost_nothing(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    process = start(source, output)
    wait_for_parts(output, 2, process)
    killed: set[int] = set()
    while len(killed) < 3 and process.poll() is None:  # a process is called a writer only while it writes
        for writer in processes_of(process.pid, "(write)"):
            writer.kill()
            killed.add(writer.pid)
        time.sleep(0.02)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert len(killed) >= 2
    same_rows(output, undisturbed)


CLUSTER = """
import json, sys, threading, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from data_jobs.ingest import Ingest, run

source, output = sys.argv[1], Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
ray.init(cluster.address, log_to_driver=False, logging_level="error")
ledger = output.parent / f".{output.name}.unfinished" / "ledger"
removed_at = []

def remove():
    while len(list(ledger.glob("*.json"))) < 5:
        time.sleep(0.01)
    removed_at.append(len(list(ledger.glob("*.json"))))
    cluster.remove_node(nodes[int(sys.argv[3])], allow_graceful=False)

thread = threading.Thread(target=remove)
thread.start()
run(Ingest(csv=source, output_dir=output, image_size=64, rows_per_part=8))
thread.join()
alive = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
print(json.dumps({"removed_at": removed_at[0], "alive": alive}), flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.parametrize("node", ["0", "1"])  # one of them runs the reader
def test_a_node_lost_midway_costs_nothing(source: Path, undisturbed: Path, tmp_path: Path, node: str) -> None:
    output = tmp_path / "dataset"
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(source), str(output), node],
        cwd=REPO_ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"removed_at')))
    assert answer["removed_at"] < ROWS / 8 and answer["alive"] == 1
    same_rows(output, undisturbed)


def test_the_tables_hold_no_row_twice(undisturbed: Path) -> None:
    pairs: pa.Table = dataset.read_pairs(undisturbed)
    assert len(set(pairs["line"].to_pylist())) == pairs.num_rows
