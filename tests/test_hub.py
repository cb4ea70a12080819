"""Where weights come from: paths, the cache, and a hub that answers, breaks off or keeps silent.

The hub is a real HTTP server on this machine, asked by a real process, since huggingface_hub reads its address
when it is imported.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_jobs.errors import InputError
from train_jobs.hub import local_folder, weights_sha256

ROOT = Path(__file__).parent.parent
REPO = "team/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "merges.txt": b"a b",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights again",
    "tf_model.h5": b"and again",
}
NEEDED = ["config.json", "merges.txt", "model.safetensors"]


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for: one repository, and the paths asked for in `server.asked`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if path == "/next":  # the test's own mark between two loads
            self._json({})
        elif path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/main"):
            self._json({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
        elif path.startswith(f"/api/models/{REPO}/tree/"):
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in FILES.items()
                ]
            )
        elif path.startswith(f"/{REPO}/resolve/"):
            data = FILES[path.rsplit("/", 1)[1]]
            self._answer(data, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _json(self, answer: Any) -> None:
        self._answer(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _answer(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _process(code: str, port: int, cache: Path) -> Any:
    """The JSON that `code` prints in a process whose hub is at `port`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


DOWNLOADS = f"""
import json, os, urllib.request
from data_jobs.errors import InputError
from train_jobs.hub import local_folder

def load(name="{REPO}"):
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/next")
    try:
        folder, revision = local_folder(name)
    except InputError as error:
        return error.code
    return [sorted(os.listdir(folder)), revision, str(folder)]

answers = [load(), load()]
weights = os.path.join(answers[0][2], "model.safetensors")
os.unlink(os.path.realpath(weights))
os.unlink(weights)  # as a download leaves it that broke off
answers += [load(), load("team/other"), load("no such name")]
print(json.dumps(answers))
"""


def test_a_hub_model_is_downloaded_once_and_completed_if_it_broke_off(hub: Any, tmp_path: Path) -> None:
    first, second, third, other, malformed = _process(DOWNLOADS, hub.server_port, tmp_path)
    asked = [set(step.split()) for step in " ".join(hub.asked).split("/next")[1:]]
    files = [{path.rsplit("/", 1)[1] for path in step if "/resolve/" in path} for step in asked]
    assert first == [NEEDED, COMMIT, first[2]]  # one format of the weights, not three
    assert files[0] == set(NEEDED)
    assert second == first
    assert asked[1] == set()
    assert third == first
    assert files[2] == {"model.safetensors"}
    assert (other, malformed) == ("model_not_found", "model_not_found")
    assert asked[4] == set()


def test_a_download_of_an_older_release_that_broke_off_is_completed(hub: Any, tmp_path: Path) -> None:
    """huggingface_hub before 2.0 kept no list of the files that a snapshot should hold."""
    code = f"""
import json, os
from train_jobs.hub import local_folder
print(json.dumps(sorted(os.listdir(local_folder("{REPO}")[0]))))
"""
    assert _process(code, hub.server_port, tmp_path) == NEEDED
    (cached,) = tmp_path.glob("hub/models--*")
    shutil.rmtree(cached / "trees", ignore_errors=True)
    (cached / "snapshots" / COMMIT / "model.safetensors").unlink()
    assert _process(code, hub.server_port, tmp_path) == NEEDED


def test_a_directory_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert local_folder(tmp_path) == (tmp_path, None)
    assert local_folder(str(tmp_path)) == (tmp_path, None)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json") as refusal:
        local_folder(tmp_path)
    assert refusal.value.code == "model_not_found"
    assert "best_model" in refusal.value.suggestion


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "../model", "~/model", "a/b/c", Path("/x/y")])
def test_a_missing_path_is_refused_without_asking_the_hub(name: str | Path) -> None:
    with pytest.raises(InputError, match=f"no directory {name}") as refusal:
        local_folder(name)
    assert refusal.value.code == "model_not_found"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_directory_may_hold_shards_if_all_are_there(kind: str, tmp_path: Path) -> None:
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    shards = [f"{stem}-0000{number}-of-00002.{kind}" for number in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    for shard in shards:
        (tmp_path / shard).write_bytes(b"")
    assert local_folder(tmp_path) == (tmp_path, None)
    (tmp_path / shards[1]).unlink()
    with pytest.raises(InputError, match=shards[1]) as refusal:
        local_folder(tmp_path)
    assert refusal.value.code == "incomplete_weights"


def test_the_weights_hash_is_of_all_shards_in_name_order(tmp_path: Path) -> None:
    assert weights_sha256(tmp_path) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"older")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"older").hexdigest()
    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first ")
    (tmp_path / "config.json").write_bytes(b"not weights")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"first second").hexdigest()


def test_a_silent_hub_is_given_up_within_ten_seconds(tmp_path: Path) -> None:
    code = """
import json, time
from data_jobs.errors import InputError
from train_jobs.hub import DEFAULT_MODEL
from train_jobs.encoder import Encoder
started = time.monotonic()
try:
    Encoder.load(device="cpu")
except InputError as error:
    took = time.monotonic() - started
    print(json.dumps([error.code, error.message, error.suggestion, DEFAULT_MODEL, took]))
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, message, suggestion, name, took = _process(code, silent.getsockname()[1], tmp_path)
    assert code == "model_unreachable"
    assert repr(name) in message
    for remedy in ("CLIP_MODEL_PATH", "--model-name", "make demo"):
        assert remedy in suggestion
    assert took < 10
