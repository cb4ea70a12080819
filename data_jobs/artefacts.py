"""Directories that appear whole or not at all: written aside, flushed, renamed.

Every artefact (dataset, model, index) is published through here, so that Ctrl-C, kill -9 and a full disk
leave either the old directory or the new one, and never half of one.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from data_jobs.errors import InputError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h and renameat2(2)


@contextmanager
def publish(final: str | Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `final`; on success flush it and rename it to `final`.

    `marker` is the file that proves a directory to be an artefact of this kind. An existing `final` is
    replaced only with `overwrite`, and only if it is empty or holds the marker, so that a mistyped path never
    deletes somebody's work. Where `final` is a link, what it points to is replaced.

    Raises InputError (output_exists, not_an_artefact).
    """
    final = Path(final).resolve()
    refuse_overwrite(final, marker=marker, overwrite=overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.parent / f".{final.name}.writing-{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        yield aside
        _install(aside, final, marker=marker, overwrite=overwrite)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def resumable(
    final: str | Path,
    *,
    marker: str,
    plan: Mapping[str, object],
    overwrite: bool = False,
    resume: bool = False,
    precious: Callable[[Path], bool] = lambda work: False,
    reusable: str | None = None,
) -> Iterator[Path]:
    """As `publish`, for long work: what a killed run has written is kept beside `final` and taken up with `resume`.

    `plan` (JSON values) says what makes two runs the same work; it stands beside the directory. That is yielded empty,
    or, with `resume`, as an earlier run of the same plan left it; without, such work is lost only by `overwrite`.
    Ctrl-C, kill -9 and an output that another run made meanwhile keep it; work that can never succeed (InputError
    in the block) is removed, unless it is `precious` all the same (by default never). The sub-folder `reusable` stays
    even then, for a run of any plan to take up: its user must know what is in it. Two runs at once on one `final` are
    refused.

    Raises InputError (output_exists, not_an_artefact, already_running, other_plan,
    unfinished_run).
    """
    final = Path(final).resolve()
    refuse_overwrite(final, marker=marker, overwrite=overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.parent / f".{final.name}.unfinished"
    begun = aside.with_name(f"{aside.name}.plan")
    with _alone(aside, final):
        if not resume and aside.is_dir() and begun.is_file():
            if not overwrite:
                raise InputError(
                    "unfinished_run",
                    f"An earlier run on {final} was not finished; its work is in {aside}.",
                    "Add --resume to go on with it, or --overwrite to start anew.",
                )
            begun.unlink()
            _remove(aside, but=reusable)
        if aside.is_dir() and begun.is_file():
            _same_plan(json.loads(begun.read_text()), json.loads(json.dumps(plan)))
        else:
            _remove(aside, but=reusable)
            aside.mkdir(exist_ok=True)
            write_file(begun, json.dumps(plan, indent=1))
        try:
            yield aside
        except InputError as error:
            if precious(aside):
                kept = f"{error.suggestion} What the run has made is kept in {aside}."
                raise InputError(error.code, error.message, kept) from error
            begun.unlink(missing_ok=True)
            _remove(aside, but=reusable)
            raise
        _install(aside, final, marker=marker, overwrite=overwrite)
        begun.unlink()  # first, since with it what follows would pass for unfinished work
        shutil.rmtree(aside, ignore_errors=True)  # what was replaced


def _remove(aside: Path, *, but: str | None) -> None:
    """Remove the directory and what is in it, or all but one sub-folder if that holds anything."""
    kept = aside / but if but else None
    if kept is None or not kept.is_dir() or not any(kept.iterdir()):
        shutil.rmtree(aside, ignore_errors=True)
        return
    for child in aside.iterdir():
        if child.is_dir() and child != kept:
            shutil.rmtree(child, ignore_errors=True)
        elif child != kept:
            child.unlink()


def _same_plan(before: dict[str, object], now: dict[str, object]) -> None:
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        differences = (
            f"the {key} changed"  # a fingerprint: its digits tell nothing
            if " " in key
            else f"--{key.replace('_', '-')} was {str(before.get(key))[:100]} and is now {str(now.get(key))[:100]}"
            for key in changed
        )
        raise InputError(
            "other_plan",
            f"This is not the run that was left unfinished: {', '.join(differences)}.",
            "Resume with the same flags and files, or start anew with --overwrite instead of --resume.",
        )


@contextmanager
def _alone(aside: Path, final: Path) -> Iterator[None]:
    """Hold a lock that the system lets go when the process ends, however it ends."""
    lock = aside.with_name(f"{aside.name}.lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(held.fileno()).st_ino == lock.stat().st_ino
        except (BlockingIOError, FileNotFoundError):  # held, or removed since it was opened
            mine = False
        if not mine:
            raise InputError(
                "already_running",
                f"Another run is writing {final}.",
                "Wait for it, or choose another output directory.",
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _install(aside: Path, final: Path, *, marker: str, overwrite: bool) -> None:
    """Make `aside` durable and rename it to `final`; afterwards `aside` is gone, or is what stood there before."""
    flush(aside)
    refuse_overwrite(final, marker=marker, overwrite=overwrite)  # another job may have finished meanwhile
    if not final.exists():
        os.rename(aside, final)
    elif not _exchange(aside, final):
        _rename_twice(aside, final)
    flush(final.parent, recursive=False)


def refuse_overwrite(final: Path, *, marker: str, overwrite: bool) -> None:
    """Raise InputError early, before hours of work, when `publish` would refuse `final`.

    The messages speak of an output directory: a job may call its flag otherwise.
    """
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not (final / marker).is_file():
        raise InputError(
            "not_an_artefact",
            f"{final} exists and holds no {marker}, so it is not an earlier output.",
            "Choose another output directory.",
        )
    if not overwrite:
        raise InputError(
            "output_exists", f"{final} exists.", "Add --overwrite, or choose another output directory."
        )


def write_file(path: Path, data: bytes | str) -> None:
    """Write one file atomically."""
    with replacing(path) as aside:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a place beside `path` to write to; on success flush it and rename it to `path`, else remove it."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield aside
        flush(aside)
        os.replace(aside, path)
        flush(path.parent, recursive=False)
    finally:
        aside.unlink(missing_ok=True)


def flush(path: Path, *, recursive: bool = True) -> None:
    """fsync a file, or a directory with (by default) all that is below it."""
    for child in path.rglob("*") if recursive and path.is_dir() else ():
        _fsync(child)
    _fsync(path)


def _exchange(new: Path, old: Path) -> bool:
    """Swap two directories in one step, so that no moment has neither; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # not Linux
        return False
    status: int = renameat2(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return status == 0  # else a file system without it, such as NFS


def _rename_twice(new: Path, old: Path) -> None:
    """Swap two directories by renaming; an error or Ctrl-C in between puts the old one back."""
    retired = old.parent / f".{old.name}.retired-{uuid.uuid4().hex[:8]}"
    try:
        os.rename(old, retired)
        os.rename(new, old)
        os.rename(retired, new)
    except BaseException:
        if retired.exists() and not old.exists():
            os.rename(retired, old)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
