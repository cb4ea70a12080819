"""Publishing: a directory appears whole or not at all, and nobody's work is deleted."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import HEARING_CTRL_C

from data_jobs import artefacts
from data_jobs.artefacts import publish, refuse_overwrite, resumable, write_file
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
    assert str(final) in refusal.value.message and "output directory" in refusal.value.suggestion
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


# ---------------------------------------------------------------------------------- long work, taken up again

PLAN: Mapping[str, object] = {"size": 256, "input files": [["a.csv", "17 5"], ["گل.csv", None]]}


def _work(
    final: Path,
    name: str,
    *,
    plan: Mapping[str, object] = PLAN,
    error: BaseException | None = None,
    overwrite: bool = False,
    resume: bool = False,
    precious: Callable[[Path], bool] = lambda work: False,
    reusable: str | None = None,
) -> list[str]:
    """Write `name` into the work of `final`, and what `error` says; what an earlier run had left there."""
    work = resumable(
        final,
        marker=MARKER,
        plan=plan,
        overwrite=overwrite,
        resume=resume,
        precious=precious,
        reusable=reusable,
    )
    with work as folder:
        before = _names(folder)
        (folder / "parts").mkdir(exist_ok=True)
        (folder / "parts" / name).write_text(name)
        if error is not None:
            raise error
        (folder / MARKER).write_text(name)
    return before


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "plan.json")


def _interrupted(final: Path, name: str, *, overwrite: bool = False) -> None:
    with pytest.raises(KeyboardInterrupt):
        _work(final, name, error=KeyboardInterrupt(), overwrite=overwrite)


def test_work_without_accidents_is_published_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    for resume in (False, True):
        assert _work(final, "1", resume=resume, overwrite=resume) == []
        assert _names(final) == ["1", MARKER]
        assert [path.name for path in final.parent.iterdir()] == ["out"]
        assert not (final / "plan.json").exists()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), OSError(28, "No space left on device")]
)
def test_work_that_was_interrupted_is_taken_up(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "out"
    with pytest.raises(type(error)):
        _work(final, "1", error=error)
    assert not final.exists()
    with pytest.raises(type(error)):
        _work(final, "2", error=error, resume=True)
    assert _work(final, "3", resume=True) == ["1", "2"]
    assert _names(final) == ["1", "2", "3", MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_resume_work_is_thrown_away_only_when_told(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", "1")
    with pytest.raises(InputError, match="was not finished") as refusal:
        _work(tmp_path / "out", "2")
    assert refusal.value.code == "unfinished_run" and "--resume" in refusal.value.suggestion
    assert _work(tmp_path / "out", "2", plan={"other": "plan"}, overwrite=True) == []
    assert _names(tmp_path / "out") == ["2", MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_precious_work_is_kept_and_named(tmp_path: Path) -> None:
    final = tmp_path / "out"
    diverged = InputError("diverged", "The loss is nan.", "Use a lower rate.")
    with pytest.raises(
        InputError, match=r"lower rate\. What the run has made is kept in .*unfinished"
    ) as raised:
        _work(final, "1", error=diverged, precious=lambda work: (work / "parts" / "1").is_file())
    assert raised.value.code == "diverged" and not final.exists()
    assert _work(final, "2", resume=True) == ["1"]


def test_what_is_reusable_stays_for_a_run_of_another_plan(tmp_path: Path) -> None:
    final, hopeless = tmp_path / "out", InputError("one_label", "All are matches.", "Use another loss.")
    with pytest.raises(InputError):
        _work(final, "1", error=hopeless, reusable="parts")
    assert not final.exists()
    aside = tmp_path / ".out.unfinished"
    (aside / "models").mkdir()
    (aside / "models" / "stray").write_text("of a run that was killed while it tidied up")
    (aside / "stray").write_text("the same")
    with pytest.raises(KeyboardInterrupt):
        _work(final, "2", plan={"other": "plan"}, reusable="parts", error=KeyboardInterrupt())
    assert _names(aside) == ["1", "2"]
    assert _work(final, "3", overwrite=True, reusable="parts") == ["1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_work_that_can_never_succeed_is_removed(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", "1")
    with pytest.raises(InputError, match="No row"):
        _work(tmp_path / "out", "2", error=InputError("nothing_usable", "No row.", "Give one."), resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({**PLAN, "size": 128}, "unfinished: --size was 256 and is now 128."),
        ({**PLAN, "input files": [["a.csv", "17 6"]]}, "unfinished: the input files changed."),
        ({**PLAN, "image_size": 1}, "--image-size was None and is now 1"),
        ({"size": 1, "input files": []}, "the input files changed, --size was 256 and is now 1."),
        ({}, "the input files changed, --size was 256 and is now None."),
    ],
)
def test_another_plan_is_refused_by_name_and_the_work_stays(
    tmp_path: Path, plan: Mapping[str, object], said: str
) -> None:
    _interrupted(tmp_path / "out", "1")
    with pytest.raises(InputError) as refusal:
        _work(tmp_path / "out", "2", plan=plan, resume=True)
    assert refusal.value.code == "other_plan"
    assert said in refusal.value.message and "--resume" in refusal.value.suggestion
    assert _work(tmp_path / "out", "3", resume=True) == ["1"]


def test_a_plan_is_compared_as_json(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", "1")
    same = {"input files": (("a.csv", "17 5"), ("گل.csv", None)), "size": 256}  # tuples, in another order
    assert _work(tmp_path / "out", "2", plan=same, resume=True) == ["1"]


def test_what_has_no_plan_is_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "stray").write_text("of a run that was killed before it began")
    assert _work(tmp_path / "out", "1", resume=True) == []
    assert _names(tmp_path / "out") == ["1", MARKER]


def test_overwriting_replaces_at_the_end_only(tmp_path: Path) -> None:
    final = tmp_path / "out"
    _work(final, "old")
    _interrupted(final, "1", overwrite=True)
    assert _names(final) == ["old", MARKER]
    assert _work(final, "2", overwrite=True, resume=True) == ["1"]
    assert _names(final) == ["1", "2", MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_is_not_replaced_unless_told_and_the_work_stays(tmp_path: Path, resume: bool) -> None:
    _interrupted(tmp_path / "out", "1")
    _publish(tmp_path / "out", "other")
    with pytest.raises(InputError) as refusal:
        _work(tmp_path / "out", "2", resume=resume)
    assert refusal.value.code == "output_exists"
    assert _version(tmp_path / "out") == "other"
    assert _work(tmp_path / "out", "3", resume=True, overwrite=True) == ["1"]


def test_what_another_job_published_meanwhile_costs_no_work(tmp_path: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(InputError, match="exists"),
        resumable(tmp_path / "out", marker=MARKER, plan=PLAN) as folder,
    ):
        (folder / MARKER).write_text("slow")
        _publish(tmp_path / "out", "fast")
    assert _version(tmp_path / "out") == "fast"
    assert _work(tmp_path / "out", "1", resume=True, overwrite=True) == [MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_fails_at_the_last_moment_costs_no_work(tmp_path: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(FileNotFoundError),
        resumable(tmp_path / "out", marker=MARKER, plan=PLAN) as folder,
    ):
        (folder / MARKER).write_text("whole")
        (folder / "link").symlink_to("nowhere")  # cannot be flushed
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.unfinished" / "link").unlink()
    assert _work(tmp_path / "out", "1", resume=True) == [MARKER]


def test_a_link_stays_when_long_work_replaces_what_it_points_to(tmp_path: Path) -> None:
    _publish(tmp_path / "v1", "old")
    (tmp_path / "current").symlink_to("v1")
    _work(tmp_path / "current", "new", overwrite=True)
    assert _names(tmp_path / "v1") == ["new", MARKER]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "v1"]


RESUMABLE = """
import json, sys
from pathlib import Path
from data_jobs.artefacts import resumable
from data_jobs.errors import InputError
final, name, flags = sys.argv[1], sys.argv[2], sys.argv[3:]
try:
    with resumable(
        final, marker="report.json", plan={"size": 1}, resume="resume" in flags, overwrite="overwrite" in flags
    ) as folder:
        print(json.dumps(sorted(path.name for path in folder.iterdir() if path.name != "plan.json")), flush=True)
        (folder / name).write_text(name)
        print("written", flush=True)
        if "wait" in flags:
            input()  # the test kills us here, in the middle
        (folder / "report.json").write_text(name)
except InputError as error:
    print(error.code, flush=True)
    sys.exit(2)
"""


def _run(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*HEARING_CTRL_C, sys.executable, "-c", RESUMABLE, *arguments],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _wait_for(job: "subprocess.Popen[str]", line: str) -> None:
    assert job.stdout is not None
    for found in job.stdout:
        if found == f"{line}\n":
            return
    raise AssertionError(f"the job ended without {line!r}")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_process_leaves_its_work_and_no_lock(
    tmp_path: Path, root: Path, how: signal.Signals
) -> None:
    final = str(tmp_path / "out")
    with _run(root, final, "1", "wait") as first:
        _wait_for(first, "written")
        first.send_signal(how)
        first.wait()
        assert first.returncode == -how
    assert not (tmp_path / "out").exists()
    done = subprocess.run(
        [sys.executable, "-c", RESUMABLE, final, "2", "resume"],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == '["1"]\nwritten\n'
    assert _names(tmp_path / "out") == ["1", "2", MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("flags", [[], ["resume"]])
def test_two_runs_at_once_are_refused_and_the_first_goes_on(
    tmp_path: Path, root: Path, flags: list[str]
) -> None:
    final = tmp_path / "out"
    with _run(root, str(final), "1", "wait") as first:
        _wait_for(first, "written")
        with pytest.raises(InputError) as refusal:
            _work(final, "2", plan={"size": 1}, resume="resume" in flags)
        assert refusal.value.code == "already_running" and "output directory" in refusal.value.suggestion
        with _run(root, str(final), "3", *flags) as other:
            other.wait()
            assert other.returncode == 2
        with _run(root, str(tmp_path / "elsewhere"), "4") as neighbour:
            neighbour.wait()
            assert neighbour.returncode == 0
        first.communicate("\n")
        assert first.returncode == 0
    assert _names(final) == ["1", MARKER]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_of_many_runs_at_once_one_works_at_a_time(tmp_path: Path, root: Path) -> None:
    """Whoever gets the lock works alone, though others make, lock and remove the same lock file."""
    jobs = [_run(root, str(tmp_path / "out"), str(n), "overwrite") for n in range(6)]
    said = [job.communicate() for job in jobs]
    codes = [job.returncode for job in jobs]
    assert set(codes) <= {0, 2} and 0 in codes, said
    for job, (out, _) in zip(jobs, said, strict=True):
        assert out in ("[]\nwritten\n", "already_running\n"), job.args
    assert len(_names(tmp_path / "out")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_is_held_by_one_though_its_file_comes_and_goes(tmp_path: Path) -> None:
    """A run that opened the file just before its holder removed it holds a lock on nothing."""
    inside, most, taken = [0], [0], [0]

    def contend() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                with artefacts._alone(tmp_path / ".out.unfinished", tmp_path / "out"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    taken[0] += 1
                    time.sleep(0.0001)
                    inside[0] -= 1
            except InputError:
                continue

    with ThreadPoolExecutor(8) as pool:
        for thread in [pool.submit(contend) for _ in range(8)]:
            thread.result()
    assert taken[0] > 20 and most == [1] and inside == [0]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_nobody_holds_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".out.unfinished.lock").write_text("")
    assert _work(tmp_path / "out", "1") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_kill_9_at_any_moment_of_long_work_leaves_a_whole_artefact(tmp_path: Path, root: Path) -> None:
    """Killed while it starts, writes, flushes or swaps: the output is old or new, and the next run succeeds."""
    final = tmp_path / "out"
    _work(final, "old", plan={"size": 1})
    for attempt in range(8):
        with _run(root, str(final), str(attempt), "overwrite", "resume") as job:
            _wait_for(job, "written")
            time.sleep(0.0005 * attempt)
            job.kill()
        kept = _names(final)
        assert MARKER in kept and (final / MARKER).read_text() in kept
        assert not (final / "plan.json").exists()
    assert _work(final, "new", plan={"size": 1}, overwrite=True, resume=True) is not None
    assert "new" in _names(final)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
