"""The servers of benchmarks.serve: each is started for a block, asked by clients of its own, and ended."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import yaml

from benchmarks import serve_infinity
from benchmarks.serve_load import Answered, Asked, Kind

READY_WITHIN_S = 120.0
REPOSITORY = Path(__file__).parent.parent


class Server:
    """A running server, and the numbers of the requests that it has not seen."""

    def __init__(self, process: psutil.Process, port: int, ready_s: float) -> None:
        self.ready_s = ready_s
        self._process, self._port = process, port
        self._next = 0

    def answer(
        self, kind: Kind, photos: Path, load: int | float, warm_up_s: float, seconds: float
    ) -> Answered:
        """Measure, with clients in a process of their own: `load` is a number of connections, or a float a rate.

        Raises RuntimeError with what they said if that fails.
        """
        connections, per_s = (load, None) if isinstance(load, int) else (0, load)
        asked = Asked(self._port, kind, str(photos), self._next, connections, per_s, warm_up_s, seconds)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serve_load"],
            input=json.dumps(asdict(asked)), capture_output=True, text=True, cwd=REPOSITORY, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        answered = Answered(**json.loads(done.stdout))
        self._next += answered.requests
        return answered

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that every process has used so far; the clients are none of them."""
        found: dict[str, float] = {}
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                name = _process_name(process).partition(".")[0]  # ray::ServeController.what_it_does_just_now
                found[name] = found.get(name, 0.0) + times.user + times.system
        return found

    def memory(self) -> dict[str, float]:
        """MB of every process: its share of what it shares with others (PSS), or RSS where Linux does not say."""
        found: dict[str, float] = {}
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                name = _process_name(process)
                full = process.memory_full_info()
                found[name] = found.get(name, 0.0) + getattr(full, "pss", full.rss) / 1e6
        return found


def _process_name(process: psutil.Process) -> str:
    command = process.cmdline()
    if command and command[0].startswith("ray::"):
        return command[0]
    scripts = [Path(part).name for part in command[:4] if not part.startswith("-")]
    return " ".join([process.name(), *scripts[1:2]])


@contextlib.contextmanager
def running(command: list[str], port: int, ready: str, folder: Path, **environment: str) -> Iterator[Server]:
    """The server for the block, answering. Raises RuntimeError with the end of its log if it does not."""
    log = folder / "server.log"
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment,
        )  # fmt: skip
    watched = psutil.Process(process.pid)
    try:
        while not answers(port, ready):
            if process.poll() is not None or time.monotonic() - started > READY_WITHIN_S:
                raise RuntimeError(f"not ready: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield Server(watched, port, time.monotonic() - started)
    finally:
        left = watched.children(recursive=True) if process.poll() is None else []
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for one in [watched, *left]:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs([watched, *left], timeout=20)


def answers(port: int, path: str) -> bool:
    """Whether it says 200. Asked ten times a second while the server starts on the same cores: cheaply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ours(model: Path, backend: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """`make serve` with this model and backend on a port that is free."""
    deployed = yaml.safe_load((REPOSITORY / "serve_config.yaml").read_text())
    port = _free_port()
    deployed["http_options"]["port"] = port
    deployed["applications"][0]["args"] |= {"model": str(model), "backend": backend}
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(deployed))
    return running(
        [str(Path(sys.executable).parent / "serve"), "run", str(config)],
        port,
        "/healthz/ready",
        folder,
        RAY_AUTH_MODE="disabled",
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
        RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response",
        RAY_SERVE_HAPROXY_TUNE_BUFSIZE="262144",
        RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE="1",
        RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="0",  # it only shortens the end
    )


def older(model: Path, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """See serve_older."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.serve_older", "--model", str(model), "--port", str(port)]
    return running(command, port, "/healthz/ready", folder)


def infinity(python: Path, model: Path, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """See serve_infinity."""
    port, theirs = _free_port(), folder / "for_infinity"
    if not theirs.exists():
        serve_infinity.adapted(model, theirs)
    return running(serve_infinity.command(python, theirs, port), port, "/health", folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
