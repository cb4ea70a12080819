"""Directories that appear whole or not at all: written aside, flushed, renamed.

Every artefact (dataset, model, index) is published through here, so that Ctrl-C, kill -9 and a full disk
leave either the old directory or the new one, and never half of one.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_jobs.errors import InputError


@contextmanager
def publish(final: str | Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `final`; on success flush it and rename it to `final`.

    `marker` is the file that proves a directory to be an artefact of this kind. An existing `final` is
    replaced only with `overwrite`, and only if it is empty or holds the marker, so that a mistyped path never
    deletes somebody's work.

    Raises InputError (output_exists, not_an_artefact).
    """
    final = Path(final).absolute()
    refuse_overwrite(final, marker=marker, overwrite=overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.parent / f".{final.name}.writing-{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        yield aside
        flush(aside)
        if final.exists():
            retired = final.parent / f".{final.name}.retired-{uuid.uuid4().hex[:8]}"
            os.rename(final, retired)
            os.rename(aside, final)
            shutil.rmtree(retired)
        else:
            os.rename(aside, final)
        flush(final.parent, recursive=False)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_overwrite(final: Path, *, marker: str, overwrite: bool) -> None:
    """Raise InputError early, before hours of work, when `publish` would refuse `final`."""
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not (final / marker).is_file():
        raise InputError(
            "not_an_artefact",
            f"{final} exists and holds no {marker}, so it is not an earlier output.",
            "Choose another --output-dir.",
        )
    if not overwrite:
        raise InputError(
            "output_exists", f"{final} exists.", "Add --overwrite, or choose another --output-dir."
        )


def write_file(path: Path, data: bytes | str) -> None:
    """Write one file atomically: aside, fsync, rename."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    aside.write_bytes(data.encode() if isinstance(data, str) else data)
    flush(aside)
    os.replace(aside, path)
    flush(path.parent, recursive=False)


def flush(path: Path, *, recursive: bool = True) -> None:
    """fsync a file, or a directory with (by default) all that is below it."""
    for child in path.rglob("*") if recursive and path.is_dir() else ():
        _fsync(child)
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
