"""Files by path and by address: local ones, archives, memory and a real web server."""

import functools
import http.server
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from data_jobs import files
from data_jobs.errors import InputError

TREE = {"a.txt": b"one", "b/c.txt": b"two", "b/deep/d.txt": b"three", "گل/ماگ.txt": b"four"}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name, content in TREE.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return str(tmp_path / "in")


@pytest.fixture
def archive(tmp_path: Path) -> str:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as opened:
        for name, content in TREE.items():
            opened.writestr(f"in/{name}", content)
    return str(tmp_path / "all.zip")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that serves `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(params=["local", "file", "zip", "memory", "http"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same files behind every kind of address."""
    kind = request.param
    if kind == "zip":
        yield f"zip://in::{request.getfixturevalue('archive')}"
    elif kind == "memory":
        memory = fsspec.filesystem("memory")
        for name, content in TREE.items():
            memory.pipe(f"/in/{name}", content)
        yield "memory:///in"
        memory.rm("/in", recursive=True)
    else:
        place = request.getfixturevalue("folder")
        server = request.getfixturevalue("server") if kind == "http" else ""
        yield {"local": place, "file": f"file://{place}", "http": f"{server}/in"}[kind]


def _below(root: str, name: str) -> str:
    first, separator, chain = root.partition("::")
    return f"{first}/{name}{separator}{chain}"


def test_what_is_there(root: str) -> None:
    c = files.join(root, "b/c.txt")
    assert c == _below(root, "b/c.txt")
    assert files.read_bytes(c) == b"two"
    with files.open_binary(c) as stream:
        assert stream.read(1) == b"t"
    assert files.is_file(c) and files.is_folder(root) and files.is_folder(files.parent(c))
    assert not files.is_file(files.join(root, "nowhere")) and not files.is_folder(files.join(root, "nowhere"))
    assert (files.name(c), files.name(files.parent(c)), files.parent(files.parent(c))) == ("c.txt", "b", root)
    files.known(c)


def test_walking_and_listing(root: str) -> None:
    walked = list(files.walk(root))
    assert len(walked) == len(set(walked)) == 4
    assert sorted(files.read_bytes(path) for path in walked) == sorted(TREE.values())
    assert sorted(map(files.name, walked)) == ["a.txt", "c.txt", "d.txt", "ماگ.txt"]
    assert files.listing(root) == [_below(root, "a.txt")]
    assert files.listing(files.join(root, "b")) == [_below(root, "b/c.txt")]
    assert files.listing(files.join(root, "b/")) == [_below(root, "b/c.txt")]
    assert files.listing(files.join(root, "nowhere")) == []


def test_what_is_not_there(root: str) -> None:
    missing = files.join(root, "nowhere.txt")
    with pytest.raises(files.FAILURES):
        files.read_bytes(missing)
    with pytest.raises(InputError) as refusal:
        files.stamp(missing)
    assert refusal.value.code == "missing_source" and "nowhere.txt" in refusal.value.message


def test_dots_in_paths_are_resolved(root: str) -> None:
    assert files.join(files.join(root, "b"), "./c.txt") == files.join(root, "b/c.txt")
    up = files.join(files.join(root, "b"), "../a.txt")
    assert files.read_bytes(up) == b"one"


@pytest.mark.parametrize(
    ("base", "path", "joined"),
    [
        ("/data", "a/b.jpg", "/data/a/b.jpg"),
        ("/data", "./a//b.jpg", "/data/a/b.jpg"),
        ("/data/link", "../b.jpg", "/data/link/../b.jpg"),  # a link's parent is no matter of text
        ("/data", "/photos/b.jpg", "/photos/b.jpg"),
        ("/data", "s3://bucket/b.jpg", "s3://bucket/b.jpg"),
        ("", "b.jpg", "b.jpg"),
        ("s3://bucket", "b.jpg", "s3://bucket/b.jpg"),
        ("s3://bucket/a/", "./b.jpg", "s3://bucket/a/b.jpg"),
        ("s3://bucket/a", "../b.jpg", "s3://bucket/b.jpg"),
        ("s3://bucket/a", "/photos/b.jpg", "/photos/b.jpg"),
        ("zip://::all.zip", "b.jpg", "zip://b.jpg::all.zip"),
        ("zip://a::s3://bucket/all.zip", "../b.jpg", "zip://b.jpg::s3://bucket/all.zip"),
        ("file:///", "b.jpg", "file:///b.jpg"),
        ("zip://a::all.zip", "http://host/b.jpg", "http://host/b.jpg"),
    ],
)
def test_join(base: str, path: str, joined: str) -> None:
    assert files.join(base, path) == joined


@pytest.mark.parametrize(
    ("path", "parent", "name"),
    [
        ("/data/a.csv", "/data", "a.csv"),
        ("a.csv", "", "a.csv"),
        ("s3://bucket/x/a.csv", "s3://bucket/x", "a.csv"),
        ("zip://x/a.csv::all.zip", "zip://x::all.zip", "a.csv"),
        ("zip://a.csv::s3://bucket/all.zip", "zip://::s3://bucket/all.zip", "a.csv"),
        ("file:///a.csv", "file:///", "a.csv"),
        ("http://host/x/a.csv", "http://host/x", "a.csv"),
    ],
)
def test_parent_and_name(path: str, parent: str, name: str) -> None:
    assert (files.parent(path), files.name(path)) == (parent, name)


def test_the_root_of_an_archive(archive: str) -> None:
    assert files.name(f"zip://::{archive}") == ""
    assert files.listing(f"zip://::{archive}") == []
    assert len(list(files.walk(f"zip://::{archive}"))) == 4


def test_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.absolute("a/../b.csv") == str(tmp_path / "b.csv")
    assert files.absolute("/b.csv") == "/b.csv"
    assert files.absolute("s3://bucket/a/../b.csv") == "s3://bucket/a/../b.csv"
    assert files.absolute("zip://b.csv::all.zip") == f"zip://b.csv::{tmp_path}/all.zip"
    assert files.absolute("zip://b.csv::s3://bucket/all.zip") == "zip://b.csv::s3://bucket/all.zip"


def test_a_stamp_changes_with_the_file(folder: str) -> None:
    path = os.path.join(folder, "a.txt")
    for address in (path, f"file://{path}"):
        os.utime(path, (1, 1))
        before = files.stamp(address)
        assert files.stamp(address) == before
        os.utime(path, (2, 2))
        assert files.stamp(address) != before


def test_a_stamp_tells_members_of_equal_size_apart(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as opened:
        for name, content in (("1", "mug"), ("2", "hat"), ("3", "mug")):
            opened.writestr(zipfile.ZipInfo(name), content)
    first, second, third = (files.stamp(f"zip://{name}::{tmp_path}/all.zip") for name in "123")
    assert first == third != second


def _flip(path: str, place: int) -> None:
    content = bytearray(Path(path).read_bytes())
    content[place] ^= 0xFF
    Path(path).write_bytes(content)


def test_a_damaged_archive_is_a_failure_that_has_a_name(archive: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        _flip(archive, opened.getinfo("in/a.txt").header_offset + 30 + len("in/a.txt"))
    with pytest.raises(files.FAILURES, match="CRC"):
        files.read_bytes(f"zip://in/a.txt::{archive}")
    assert files.read_bytes(f"zip://in/b/c.txt::{archive}") == b"two"

    cut = tmp_path / "cut.zip"
    cut.write_bytes(Path(archive).read_bytes()[:100])
    with pytest.raises(files.FAILURES, match="not a zip file"):
        files.read_bytes(f"zip://in/a.txt::{cut}")
    assert not files.is_file(f"zip://in/a.txt::{cut}") and not files.is_folder(f"zip://in::{cut}")
    with pytest.raises(InputError, match="not a zip file"):
        files.stamp(f"zip://in/a.txt::{cut}")


def test_a_locked_archive_is_a_failure(archive: str) -> None:
    with zipfile.ZipFile(archive) as opened:
        entry = opened.start_dir + 8  # the flags of the first file: bit 0 says that it is encrypted
    content = bytearray(Path(archive).read_bytes())
    content[entry] |= 1
    content[6] |= 1
    Path(archive).write_bytes(content)
    with pytest.raises(files.FAILURES, match="password"):
        files.read_bytes(f"zip://in/a.txt::{archive}")


@pytest.mark.parametrize("path", ["a\0b", "zip://a\0b::all.zip", "nope://a", "http://127.0.0.1:1/a.txt"])
def test_what_cannot_be_a_file_is_none(path: str) -> None:
    assert not files.is_file(path) and not files.is_folder(path)
    with pytest.raises(files.FAILURES):
        files.read_bytes(path)


@pytest.mark.parametrize("path", ["nope://a", "zip://a::nope://b", "nope://a::b.zip"])
def test_an_unknown_protocol_is_named(path: str) -> None:
    with pytest.raises(InputError, match="nope") as refusal:
        files.known(path)
    assert refusal.value.code == "unknown_protocol"


@pytest.mark.parametrize(
    "path", ["/data", "a.csv", "zip://a::b.zip", "http://host/a", "zip://a::http://host/b.zip"]
)
def test_known_protocols(path: str) -> None:
    files.known(path)
