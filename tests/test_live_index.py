"""LiveIndex: versions are exchanged under searches, and nothing bad takes the place of what works."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_index import UNASKED, make_documents, spec, units, write

from data_jobs.errors import InputError
from train_jobs import index, live_index
from train_jobs.index import CURRENT, MANIFEST
from train_jobs.live_index import LiveIndex

MODEL = spec().model_hash
NEVER = 3600.0
"""Seconds between looks, for tests that look themselves."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "index", 100)
    return tmp_path / "index"


@pytest.fixture
def live(folder: Path) -> Iterator[LiveIndex]:
    held = LiveIndex(folder, MODEL, period=NEVER)
    yield held
    held.close()


def _write_of_another_model(folder: Path) -> None:
    other = spec(weights_sha256="cd" * 32)
    index.write(folder, units(5), make_documents(5), other, embedded="x", queries=UNASKED)


def _damage(folder: Path, version: str) -> None:
    """Replace a file: writing into it would break who has it mapped."""
    path = folder / version / "index.faiss"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def _until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end, "it did not come about in 30 s"
        time.sleep(0.01)


def test_it_opens_the_current_version(live: LiveIndex) -> None:
    assert len(live.current) == 100
    status = live.status()
    assert (status["version"], status["last_error"]) == ("v001", None)
    assert status["loaded_at"] is not None and status["loaded_at"].endswith("+00:00")
    assert not live.refresh()


def test_it_takes_the_next_version_by_itself(folder: Path) -> None:
    held = LiveIndex(folder, MODEL, period=0.01)
    try:
        write(folder, 7)
        _until(lambda: len(held.current) == 7)
        assert held.status()["version"] == "v002"
        (folder / CURRENT).write_text("v001\n")  # back
        _until(lambda: len(held.current) == 100)
    finally:
        held.close()
    write(folder, 9)
    time.sleep(0.1)
    assert len(held.current) == 100  # closed: it looks no longer


def test_a_folder_made_anew_is_noticed_though_the_name_is_the_same(folder: Path, live: LiveIndex) -> None:
    shutil.rmtree(folder)
    assert not live.refresh()
    assert "is no index" in str(live.status()["last_error"])
    write(folder, 8)
    assert live.refresh()
    assert (live.current.manifest.version, len(live.current)) == ("v001", 8)
    assert live.status()["last_error"] is None


def test_another_models_version_is_not_taken(folder: Path, live: LiveIndex) -> None:
    _write_of_another_model(folder)
    assert not live.refresh()
    assert len(live.current) == 100
    said = live.status()["last_error"]
    assert said is not None and MODEL in said and spec(weights_sha256="cd" * 32).model_hash in said
    write(folder, 6)
    assert live.refresh()
    assert live.status() == {**live.status(), "version": "v003", "last_error": None}


def test_a_refusal_is_forgotten_when_current_goes_back(folder: Path, live: LiveIndex) -> None:
    _write_of_another_model(folder)
    live.refresh()
    (folder / CURRENT).write_text("v001\n")
    assert not live.refresh()
    assert live.status()["last_error"] is None


def test_a_damaged_version_is_not_taken_and_read_again_only_after_a_while(
    folder: Path, live: LiveIndex, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, 50)
    whole = (folder / "v002" / "index.faiss").read_bytes()
    _damage(folder, "v002")
    assert not live.refresh()
    assert "v002/index.faiss" in str(live.status()["last_error"])
    (folder / "v002" / "index.faiss").unlink()
    (folder / "v002" / "index.faiss").write_bytes(whole)  # the copy is whole now
    assert not live.refresh()
    assert len(live.current) == 100
    assert len(caplog.records) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + live_index.RETRY + 1)
    assert live.refresh()
    assert (len(live.current), live.status()["last_error"]) == (50, None)


def test_after_a_damaged_version_the_next_is_taken_at_once(folder: Path, live: LiveIndex) -> None:
    write(folder, 50)
    _damage(folder, "v002")
    live.refresh()
    write(folder, 60)
    assert live.refresh()
    assert len(live.current) == 60


@pytest.mark.parametrize("spoil", ["manifest", "current", "garbage"])
def test_what_is_no_index_is_not_taken(folder: Path, live: LiveIndex, spoil: str) -> None:
    write(folder, 50)
    if spoil == "manifest":
        (folder / "v002" / MANIFEST).write_text("{")
    elif spoil == "current":
        (folder / CURRENT).write_text("v009\n")
    else:
        (folder / CURRENT).write_bytes(b"\xff\x00")
    assert not live.refresh()
    assert len(live.current) == 100
    assert "is no index" in str(live.status()["last_error"])


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: shutil.rmtree(folder / "v001"), "not_an_index"),
        (lambda folder: _damage(folder, "v001"), "index_damaged"),
        (_write_of_another_model, "index_of_another_model"),
    ],
)
def test_there_is_no_server_without_an_index_to_begin_with(
    folder: Path, spoil: Callable[[Path], None], code: str
) -> None:
    spoil(folder)
    with pytest.raises(InputError) as refusal:
        LiveIndex(folder, MODEL)
    assert refusal.value.code == code


def test_searches_go_on_while_versions_come_and_go(folder: Path) -> None:
    """Four threads search without pause; every answer is right for the version that gave it, none fails, and the
    files of versions in use are deleted below them."""
    sizes = [100 + 10 * n for n in range(12)]
    vectors = {rows: units(rows) for rows in sizes}
    queries = units(50, seed=9)
    right = {rows: [f"d{row}" for row in (queries @ vectors[rows].T).argmax(axis=1)] for rows in sizes}
    live = LiveIndex(folder, MODEL, period=0.001)
    stop = threading.Event()
    wrong: list[object] = []
    seen: set[int] = set()
    searches = [0]

    def search() -> None:
        number = 0
        held = live.current
        while not stop.is_set():
            number += 1
            if number % 50 == 0:  # else keep the old one beyond its end
                held = live.current
            try:
                found = held.search(queries[number % 50], 1)[0].document["id"]
                seen.add(len(held))
                searches[0] += 1
                if found != right[len(held)][number % 50]:
                    wrong.append((number, len(held), found))
            except BaseException as error:
                wrong.append(error)
                raise

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for rows in sizes[1:]:
        write(folder, rows)  # its third from now on deletes this one
        _until(lambda rows=rows: len(live.current) == rows)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    live.close()
    assert wrong == []
    assert searches[0] > 200 and len(seen) > 3
    assert sorted(path.name for path in folder.glob("v*")) == ["v011", "v012"]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-pq"])
def test_a_version_deleted_while_mapped_is_searched_as_before(tmp_path: Path, kind: str) -> None:
    rows = 3000
    index.write(tmp_path, units(rows), make_documents(rows), spec(), embedded="x", queries=UNASKED, kind=kind)  # type: ignore[arg-type]
    live = LiveIndex(tmp_path, MODEL, period=NEVER)
    queries = units(30, seed=3)
    before = [live.current.search(query, 20) for query in queries]
    shutil.rmtree(tmp_path)
    assert not any(tmp_path.parent.glob(f"{tmp_path.name}/*"))
    assert [live.current.search(query, 20) for query in queries] == before
    assert not live.refresh()
    assert [live.current.search(query, 20) for query in queries] == before
    live.close()
