"""Server-side pictures: the `image_path` of a batch item, below one configured folder and nowhere else.

The path is walked folder by folder. Each step opens one name relative to the folder opened before it and follows no
link (`openat` with O_NOFOLLOW), so that what is checked is what is read: nobody can swap a folder for a link in
between, as they could after a check by name. Links are refused even where they stay below the root: to follow only
those takes `openat2`, which Linux alone has and Python does not. Bind mounts and hard links are not links here:
whoever may make them below the root decides what is in it.
"""

import os
import stat
from pathlib import Path, PurePosixPath

from data_jobs.errors import InputError

MAX_PATH_BYTES = 4096
"""Linux's own limit; no longer path can be opened."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
"""A pipe nobody writes to must not block us: opened so, it answers at once and is then refused."""


def read_below(root: Path | None, path: str, max_bytes: int) -> bytes:
    """The file at `path`, relative to `root` or absolute and below it; blocking, so call it from a thread.

    Raises InputError: paths_not_allowed (no root), path_outside_root (also for `..` and for links), file_missing (also
    for what is no regular file or cannot be read), file_too_large. What lies outside is never looked at, so no
    message tells whether it exists; none names the root. Raises OSError where the root itself cannot be opened.
    """
    if root is None:
        raise InputError(
            "paths_not_allowed",
            "This server reads no files of its own.",
            "Upload the picture or send it as base64, or have a folder allowed (image_root).",
        )
    names = _names(root, path)
    if not names:
        raise _missing(path)
    folder = os.open(root, _FOLDER)
    try:
        for name in names[:-1]:
            opened = _open(name, folder, _FOLDER, path)
            os.close(folder)
            folder = opened
        return _read(_open(names[-1], folder, _FILE, path), path, max_bytes)
    finally:
        os.close(folder)


def _names(root: Path, path: str) -> tuple[str, ...]:
    """The steps from `root` to `path`, by their spelling alone."""
    try:
        unusable = "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry and no file name can
        unusable = True
    if unusable:
        raise _missing(path)
    asked = PurePosixPath(path)
    if ".." in asked.parts:
        raise _outside(path)
    if not asked.is_absolute():
        return asked.parts
    for spelling in (os.path.abspath(root), os.path.realpath(root)):
        if asked.is_relative_to(spelling):
            return asked.relative_to(spelling).parts
    raise _outside(path)


def _open(name: str, folder: int, flags: int, path: str) -> int:
    """Open one name in an open folder."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if _is_link(name, folder):  # asked only now: the answer words the refusal, it does not decide it
            raise _outside(path) from error
        raise _missing(path) from error


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _read(file: int, path: str, max_bytes: int) -> bytes:
    """All of an open file, which is closed."""
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise _missing(path)
        if found.st_size > max_bytes:
            raise _too_large(path, max_bytes)
        with os.fdopen(file, "rb", closefd=False) as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise _missing(path) from error
    finally:
        os.close(file)
    if len(data) > max_bytes:  # it has grown since
        raise _too_large(path, max_bytes)
    return data


def _missing(path: str) -> InputError:
    return InputError(
        "file_missing",
        f"{_shown(path)} is no file that can be read below the server's image folder.",
        "Check the path; only regular files are read.",
    )


def _outside(path: str) -> InputError:
    return InputError(
        "path_outside_root",
        f"{_shown(path)} leads out of the server's image folder, through '..', a link or another root.",
        "Give a path below that folder, without '..' and links.",
    )


def _too_large(path: str, max_bytes: int) -> InputError:
    return InputError(
        "file_too_large",
        f"The file {_shown(path)} has more than {max_bytes:,} bytes, the limit.",
        "Use a smaller file.",
    )


def _shown(path: str) -> str:
    """The caller's own words, printable and short."""
    return repr(path if len(path) <= 100 else path[:100] + "...")
