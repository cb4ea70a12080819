"""The service as benchmarks.calm abuses it: serve_config.yaml on a Ray cluster on this machine, with nodes to kill.

The Ray flags are those that `make serve` sets (HAProxy, gRPC between replicas). Ray's CPUs are on paper.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from transformers import CLIPConfig, CLIPModel

from benchmarks.calm_load import Asked, Outcome, Phase
from benchmarks.serve_load import text
from benchmarks.serve_servers import answers
from data_jobs import drawing, images
from data_jobs import text as texts
from train_jobs import scratch
from train_jobs.encoder import Encoder
from train_jobs.spec import ModelSpec

REPOSITORY = Path(__file__).parent.parent
READY_WITHIN_S = 120.0
PHOTOS, SIDE = 48, 320
FLAGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # it only shortens the end
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",  # scales sooner; for the ramp
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
}
KINDS = ("ServeReplica", "ServeController", "ProxyActor", "HAProxyManager", "haproxy")


@dataclass(frozen=True)
class Sample:
    """What the Serve processes hold at one moment, MB, by kind: PSS, a process's share of what it shares."""

    at: float  # time.time()
    pss: dict[str, float]
    rss: dict[str, float]


class Clients:
    """A load under way."""

    def __init__(self, port: int, photos: Path, first: int, phases: Sequence[Phase]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.calm_load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = Asked(port, str(photos), first, list(phases))
        self._process.stdin.write(json.dumps(asdict(asked)) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        self.started = time.time()

    def outcomes(self) -> list[Outcome]:
        """All of them, once the last phase is over."""
        said = self._process.communicate()[0]
        if self._process.returncode:
            raise RuntimeError("the clients failed; see above")
        return [Outcome(**outcome) for outcome in json.loads(said)]


class Service:
    """What runs, and who can be killed."""

    def __init__(self, cluster: Cluster, port: int, photos: Path) -> None:
        self._cluster, self._port, self._photos = cluster, port, photos
        self._first = 0

    def clients(self, *phases: Phase) -> Clients:
        """Start so much load."""
        self._first += 1_000_000
        return Clients(self._port, self._photos, self._first, phases)

    def running(self, deployment: str) -> int:
        """Replicas that serve."""
        application = serve.status().applications.get("catalens")
        found = None if application is None else application.deployments.get(deployment)
        return 0 if found is None else int(found.replica_states.get("RUNNING", 0))

    def pids(self, deployment: str) -> list[int]:
        """Processes of its replicas."""
        return [p.pid for p, kind in _serve_processes() if kind == f"ServeReplica {deployment}"]

    def kill_a_node(self) -> None:
        """SIGKILL of the raylet of one that is not the first; its workers end when they notice."""
        node = next(iter(self._cluster.worker_nodes))
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    def sample(self) -> Sample:
        """What its processes hold."""
        pss: dict[str, float] = {}
        rss: dict[str, float] = {}
        for process, kind in _serve_processes():
            with contextlib.suppress(psutil.Error):
                full = process.memory_full_info()
                pss[kind] = pss.get(kind, 0.0) + getattr(full, "pss", full.rss) / 1e6
                rss[kind] = rss.get(kind, 0.0) + full.rss / 1e6
        return Sample(time.time(), pss, rss)


def _serve_processes() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        kind = next((kind for kind in KINDS if kind in title), None)
        if kind == "ServeReplica":
            yield (
                process,
                f"ServeReplica {title.split('ServeReplica:catalens:')[-1].split('.')[0].split(' ')[0]}",
            )
        elif kind is not None and "serve run" not in title:
            yield process, kind


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    nodes: Sequence[float],
    changes: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, str],
    arguments: Mapping[str, Any],
) -> Iterator[Service]:
    """The service for the block, ready, on `nodes` of so many CPUs; HTTP comes in at the first.

    `changes` are laid over the deployments of serve_config.yaml (None removes a key), `arguments` over its args,
    `flags` over FLAGS. Whatever was started is dead afterwards.
    """
    os.environ.update(FLAGS | dict(flags))
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    port = _free_port()
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(_deployed(port, folder, changes, arguments)))
    common = {"object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": nodes[0], **common})
    server = None
    try:
        for cpus in nodes[1:]:
            cluster.add_node(num_cpus=cpus, object_store_memory=100_000_000)
        ray.init(cluster.address, namespace="serve", log_to_driver=False, logging_level="error")
        with (folder / "serve.log").open("ab") as log:
            server = subprocess.Popen(
                [str(Path(sys.executable).parent / "serve"), "run", str(config)],
                stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=os.environ | {"RAY_ADDRESS": cluster.address},
            )  # fmt: skip
        _wait(lambda: answers(port, "/healthz/ready"), "not ready; see serve.log", server)
        yield Service(cluster, port, folder / "photos")
    finally:
        mine = psutil.Process().children(recursive=True)
        if ray.is_initialized():
            serve.shutdown()  # also forgets this cluster, so that the next part asks its own
        if server is not None:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(40)
        ray.shutdown()
        cluster.shutdown()
        for process in mine:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(mine, timeout=20)


def _deployed(
    port: int, folder: Path, changes: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    deployed: dict[str, Any] = yaml.safe_load((REPOSITORY / "serve_config.yaml").read_text())
    deployed["http_options"]["port"] = port
    deployed["proxy_location"] = "HeadOnly"  # one machine has one port
    (application,) = deployed["applications"]
    application["args"] |= {"model": str(folder / "model"), **arguments}
    for deployment in application["deployments"]:
        laid_over = deployment | changes.get(deployment["name"], {})
        deployment.clear()
        deployment.update({key: value for key, value in laid_over.items() if value is not None})
    return deployed


def _wait(ready: Any, problem: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(problem)
        time.sleep(0.2)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(folder: Path) -> None:
    """`folder`/photos and `folder`/model: a vision transformer of 5 million parameters, random weights, 224 pixels."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number, product in enumerate(drawing.random_products(PHOTOS, 0)):
        (folder / "photos" / f"{number:03d}.jpg").write_bytes(images.encode_jpeg(drawing.draw(product, SIDE)))
    tokenizer = scratch.train_tokenizer([text(number) for number in range(2000)])
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    small = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**ids, **small, "num_hidden_layers": 4, "vocab_size": len(tokenizer)},
            vision_config={**small, "num_hidden_layers": 6},
            projection_dim=256,
        )
    )
    spec = ModelSpec(
        base_model="drawn", base_revision=None, family="clip", embedding_dim=256,
        image_size=224, image_resize="crop", image_shortest=224, image_resample="bicubic",
        image_mean=scratch.MEAN, image_std=scratch.STD, context_length=scratch.CONTEXT_LENGTH,
        pad_to_context=False, text_normalizer=texts.VERSION, logit_scale=scratch.LOGIT_SCALE, logit_bias=0.0,
    )  # fmt: skip
    Encoder(model, tokenizer, spec, device="cpu").save(folder / "model")
