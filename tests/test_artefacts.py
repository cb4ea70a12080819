"""Publishing: a directory appears whole or not at all, and nobody's work is deleted."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_jobs import artefacts
from data_jobs.artefacts import publish, refuse_overwrite, write_file
from data_jobs.errors import InputError

MARKER = "report.json"


def _publish(final: Path, version: str, *, overwrite: bool = False) -> None:
    with publish(final, marker=MARKER, overwrite=overwrite) as folder:
        (folder / MARKER).write_text(version)
        (folder / "pairs").mkdir()
        (folder / "pairs" / "part").write_text(version)


def _version(final: Path) -> str:
    """What is published; fails if it is not all of one version."""
    version = (final / MARKER).read_text()
    assert sorted(path.name for path in final.rglob("*")) == ["pairs", "part", MARKER]
    assert (final / "pairs" / "part").read_text() == version
    return version


def _refusal(final: Path, *, overwrite: bool) -> str:
    with pytest.raises(InputError) as refusal:
        _publish(final, "new", overwrite=overwrite)
    assert str(final) in refusal.value.message and "--output-dir" in refusal.value.suggestion
    return refusal.value.code


def test_a_new_directory_appears_at_the_end_only(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    with publish(final, marker=MARKER) as folder:
        assert not final.exists()
        assert folder.parent == final.parent  # the same file system, so that it can be renamed
        (folder / MARKER).write_text("1")
    assert [path.name for path in final.parent.iterdir()] == ["out"]
    assert (final / MARKER).read_text() == "1"


def test_an_old_directory_is_replaced_when_told(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "old")
    _publish(tmp_path / "out", "new", overwrite=True)
    assert _version(tmp_path / "out") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_old_directory_is_not_replaced_unless_told(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "old")
    assert _refusal(tmp_path / "out", overwrite=False) == "output_exists"
    assert _version(tmp_path / "out") == "old"


def test_what_another_job_published_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(InputError, match="exists"),
        publish(tmp_path / "out", marker=MARKER) as folder,
    ):
        (folder / MARKER).write_text("slow")
        _publish(tmp_path / "out", "fast")
    assert _version(tmp_path / "out") == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_directory_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("work")
    for name in ("thesis", "file"):
        assert _refusal(tmp_path / name, overwrite=overwrite) == "not_an_artefact"
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refuse_overwrite(tmp_path / "out", marker=MARKER, overwrite=False)
    _publish(tmp_path / "out", "new")
    assert _version(tmp_path / "out") == "new"


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    _publish(tmp_path / "v1", "old")
    (tmp_path / "current").symlink_to("v1")
    _publish(tmp_path / "current", "new", overwrite=True)
    assert _version(tmp_path / "v1") == "new"
    assert (tmp_path / "current").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "v1"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_inside_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], overwrite: bool
) -> None:
    if overwrite:
        _publish(tmp_path / "out", "old")
    with (  # noqa: PT012
        pytest.raises(error),
        publish(tmp_path / "out", marker=MARKER, overwrite=overwrite) as folder,
    ):
        (folder / MARKER).write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if overwrite else [])
    if overwrite:
        assert _version(tmp_path / "out") == "old"


def test_swapping_by_renames_ends_as_swapping_at_once(tmp_path: Path) -> None:
    for swap in (artefacts._exchange, artefacts._rename_twice):
        new, old = tmp_path / swap.__name__ / "new", tmp_path / swap.__name__ / "old"
        _publish(new, "new")
        _publish(old, "old")
        if swap(new, old) is False:
            continue  # this system cannot
        assert (_version(old), _version(new)) == ("new", "old")
        assert len(list(new.parent.iterdir())) == 2


def test_a_failed_swap_by_renames_puts_the_old_directory_back(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError):
        artefacts._rename_twice(tmp_path / "missing", tmp_path / "out")
    assert _version(tmp_path / "out") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


ENDLESS = """
import itertools, sys
from pathlib import Path
from data_jobs.artefacts import publish
for version in itertools.count():
    with publish(sys.argv[1], marker="report.json", overwrite=True) as folder:
        (folder / "report.json").write_text(str(version))
        (folder / "pairs").mkdir()
        print("writing", version, flush=True)
        if sys.argv[2:] and version == int(sys.argv[2]):
            input()  # the test kills us here, in the middle
        (folder / "pairs" / "part").write_text(str(version))
"""


@pytest.fixture
def root() -> Path:
    return Path(artefacts.__file__).parent.parent


def _start(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *arguments],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_9_in_the_middle_leaves_the_old_artefact(tmp_path: Path, root: Path) -> None:
    with _start(root, str(tmp_path / "out"), "1") as job:
        assert job.stdout is not None
        for line in job.stdout:
            if line == "writing 1\n":
                break
        job.kill()
    assert job.returncode == -9
    assert _version(tmp_path / "out") == "0"
    _publish(tmp_path / "out", "after", overwrite=True)  # what the dead job left is in nobody's way
    assert _version(tmp_path / "out") == "after"


def test_kill_9_at_any_moment_leaves_a_whole_artefact(tmp_path: Path, root: Path) -> None:
    for attempt, pause in enumerate((0.001, 0.004, 0.013, 0.031)):
        final = tmp_path / str(attempt)
        with _start(root, str(final)) as job:
            assert job.stdout is not None
            list(itertools.islice(job.stdout, 3))  # two are published for sure
            time.sleep(pause)
            job.kill()
        assert int(_version(final)) >= 1


def test_readers_never_find_nothing(tmp_path: Path, root: Path) -> None:
    _publish(tmp_path / "a", "1")
    _publish(tmp_path / "b", "2")
    if not artefacts._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system has no renameat2(RENAME_EXCHANGE)")
    missed = 0
    with _start(root, str(tmp_path / "a")) as job:
        assert job.stdout is not None
        job.stdout.readline()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            missed += not (tmp_path / "a" / MARKER).exists()
        job.kill()
    assert int(_version(tmp_path / "a")) > 1
    assert missed == 0


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "CURRENT", "v001")
    write_file(tmp_path / "CURRENT", b"v002 \xff")
    assert (tmp_path / "CURRENT").read_bytes() == b"v002 \xff"
    write_file(tmp_path / "CURRENT", "ماگ")
    assert (tmp_path / "CURRENT").read_text(encoding="utf-8") == "ماگ"
    assert [path.name for path in tmp_path.iterdir()] == ["CURRENT"]
