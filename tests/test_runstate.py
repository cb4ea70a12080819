"""RunState: whole or not at all, whatever happens to the process or the disk."""

import os
import resource
import signal
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist

from train_jobs.runstate import KEPT, RunState


def _state(step: int, size: int = 40) -> RunState:
    model = torch.nn.Linear(size, 2)
    torch.nn.init.constant_(model.weight, step)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, size)).sum().backward()
    optimiser.step()
    return RunState(
        step=step,
        model=model.state_dict(),
        average=None,
        optimisers=[optimiser.state_dict()],
        history=[{"epoch": 1, "val_auroc": float("nan"), "best": 1.0}],
        running=[{"loss": 0.1, "seconds": 2.0}, {"loss": 0.2, "seconds": 3.0}],
    )


def _step(folder: Path) -> int | None:
    state = RunState.latest(folder)
    return None if state is None else state.step


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = _state(7)
    assert saved.save(tmp_path / "states") == tmp_path / "states" / "step_00000007"
    loaded = RunState.latest(tmp_path / "states")
    assert loaded is not None
    assert (loaded.step, loaded.average, loaded.running) == (7, None, saved.running)
    assert str(loaded.history) == str(saved.history)  # with its NaN
    assert all(torch.equal(loaded.model[name], value) for name, value in saved.model.items())
    moments, expected = (state.optimisers[0]["state"][0]["exp_avg"] for state in (loaded, saved))
    assert torch.equal(moments, expected) and expected.any()
    assert loaded.optimisers[0]["param_groups"] == saved.optimisers[0]["param_groups"]


def test_the_layout_of_tensors_is_kept(tmp_path: Path) -> None:
    kernel = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    RunState(1, {"kernel": kernel}, {"kernel": kernel}, []).save(tmp_path)
    loaded = RunState.latest(tmp_path)
    assert loaded is not None and loaded.average is not None
    assert loaded.model["kernel"].stride() == loaded.average["kernel"].stride() == kernel.stride()


def test_nothing_yet(tmp_path: Path) -> None:
    assert RunState.latest(tmp_path) is None
    assert RunState.latest(tmp_path / "not there") is None


def test_the_newest_counts_and_the_oldest_go(tmp_path: Path) -> None:
    for step in (5, 90, 100, 1000):
        _state(step).save(tmp_path)
    assert _step(tmp_path) == 1000
    assert KEPT == 2
    assert sorted(os.listdir(tmp_path)) == ["step_00000100", "step_00001000"]


def test_a_state_that_is_there_already_is_replaced(tmp_path: Path) -> None:
    _state(3).save(tmp_path)
    _state(3, size=50).save(tmp_path)
    loaded = RunState.latest(tmp_path)
    assert loaded is not None and loaded.model["weight"].shape == (2, 50)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_what_a_killed_writer_left_is_passed_over(tmp_path: Path, part: float) -> None:
    _state(3).save(tmp_path)
    whole = (tmp_path / "step_00000003" / "state.pt").read_bytes()
    half = tmp_path / ".step_00000004.writing-0123abcd"
    half.mkdir()
    (half / "state.pt").write_bytes(whole[: int(part * len(whole))])
    assert _step(tmp_path) == 3
    _state(4).save(tmp_path)
    assert _step(tmp_path) == 4


def _damaged(whole: bytes) -> dict[str, bytes]:
    middle = whole.rindex(b"data/0", 0, len(whole) // 2) + 200  # within the weights
    return {
        "empty": b"",
        "cut in half": whole[: len(whole) // 2],
        "without its last bytes": whole[:-20],
        "nothing but zeros": bytes(len(whole)),
        "another file": b"not a state " * 100,
        "one byte of the weights": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }


@pytest.mark.parametrize(
    "damage", ["empty", "cut in half", "without its last bytes", "nothing but zeros", "another file",
               "one byte of the weights"],
)  # fmt: skip
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    _state(3, size=2000).save(tmp_path)
    newest = _state(4, size=2000).save(tmp_path) / "state.pt"
    newest.write_bytes(_damaged(newest.read_bytes())[damage])
    assert _step(tmp_path) == 3
    _state(4).save(tmp_path)  # what a resumed run does when it comes there again
    assert _step(tmp_path) == 4


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        (_state(step).save(tmp_path) / "state.pt").write_bytes(b"")
    assert RunState.latest(tmp_path) is None


def _save_without_room(folder: Path) -> str:
    """What rank 0 gets when no file may grow beyond 50 kB, as on a full disk."""
    if dist.get_rank():
        return ""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        _state(4, size=100_000).save(folder)
    except OSError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return "no error"


def test_a_full_disk_is_an_os_error_and_keeps_the_last_state(tmp_path: Path) -> None:
    _state(3).save(tmp_path)
    message = tiny.both(_save_without_room, tmp_path)[0]
    assert str(tmp_path / "step_00000004") in message and "File too large" in message
    assert os.listdir(tmp_path) == ["step_00000003"]
    assert _step(tmp_path) == 3
