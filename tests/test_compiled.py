"""Compiled graphs are kept on the machine, and used only while every byte is as it was written."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from train_jobs import compiled as module
from train_jobs.compiled import KEPT_DAYS, compiled
from train_jobs.openvino_towers import package

openvino = package("openvino")
OPTIONS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catalens"


def graph(folder: Path, factor: float) -> Path:
    """x -> factor * x as a saved graph."""
    x = openvino.opset13.parameter([-1, 3], np.float32, name="x")
    made = openvino.Model([openvino.opset13.multiply(x, np.float32(factor))], [x], "times")
    openvino.save_model(made, folder / "times.xml", compress_to_fp16=False)
    return folder / "times.xml"


class Core:
    """OpenVINO's own, with a record of what it compiled."""

    def __init__(self) -> None:
        self._core = openvino.Core()
        self.compilations = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._core, name)

    def compile_model(self, *args: object) -> object:
        self.compilations += 1
        return self._core.compile_model(*args)


def answer(core: Core, path: Path, **options: object) -> np.ndarray:
    return compiled(core, path, {**OPTIONS, **options})({"x": X})[0]


def test_a_second_start_compiles_nothing(home: Path, tmp_path: Path) -> None:
    path = graph(tmp_path, 2)
    first, second = Core(), Core()
    np.testing.assert_array_equal(answer(first, path), 2 * X)
    np.testing.assert_array_equal(answer(second, path), 2 * X)
    assert (first.compilations, second.compilations) == (1, 0)
    assert len(list(home.iterdir())) == 1


def test_another_graph_under_the_same_name_and_other_options_are_compiled(home: Path, tmp_path: Path) -> None:
    core = Core()
    path = graph(tmp_path, 2)
    times = path.stat().st_mtime_ns
    answer(core, path)
    np.testing.assert_array_equal(answer(core, path, INFERENCE_NUM_THREADS=2), 2 * X)
    graph(tmp_path, 3)
    os.utime(path, ns=(times, times))
    np.testing.assert_array_equal(answer(core, path), 3 * X)
    assert core.compilations == 3


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-9] + b"damaged!!"]
)
def test_a_damaged_one_is_compiled_anew_and_replaced(home: Path, tmp_path: Path, damage: object) -> None:
    path = graph(tmp_path, 2)
    answer(Core(), path)
    (kept,) = home.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    core = Core()
    np.testing.assert_array_equal(answer(core, path), 2 * X)
    assert core.compilations == 1
    assert len(kept.read_bytes()) == len(whole)


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.testing.assert_array_equal(answer(Core(), graph(tmp_path, 2)), 2 * X)
    assert "cannot be kept" in caplog.text


def test_what_was_not_used_for_long_is_removed(home: Path, tmp_path: Path) -> None:
    path = graph(tmp_path, 2)
    answer(Core(), path)
    (old,) = home.iterdir()
    long_ago = time.time() - (KEPT_DAYS + 1) * 86_400
    os.utime(old, (long_ago, long_ago))
    answer(Core(), path)  # used again: as good as new
    answer(Core(), path, INFERENCE_NUM_THREADS=2)
    assert len(list(home.iterdir())) == 2
    os.utime(old, (long_ago, long_ago))
    answer(Core(), graph(tmp_path, 3))
    assert old not in set(home.iterdir())


def test_it_lies_below_home_without_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = module._place(openvino.Core(), graph(tmp_path, 2), OPTIONS)
    assert place.parent == tmp_path / ".cache" / "catalens"


def test_one_that_may_only_be_read_is_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = graph(tmp_path, 2)
    answer(Core(), path)

    def refused(*args: object) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(os, "utime", refused)
    core = Core()
    np.testing.assert_array_equal(answer(core, path), 2 * X)
    assert core.compilations == 0


def test_the_oldest_beyond_so_many_bytes_are_removed_and_what_a_killed_process_left(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(Core(), graph(tmp_path, 2))
    (first,) = home.iterdir()
    half = home / f".{first.name}.1a2b3c4d"
    half.write_bytes(b"half")
    for place, age in ((first, 60), (half, 120)):
        os.utime(place, (time.time() - age, time.time() - age))
    monkeypatch.setattr(module, "KEPT_BYTES", 1.5 * first.stat().st_size)
    answer(Core(), graph(tmp_path, 3))
    (kept,) = home.iterdir()
    assert kept != first
