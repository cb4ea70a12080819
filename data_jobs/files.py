"""Files of a source: local paths, and any address that fsspec opens (s3://, gs://, http://, zip://...::archive).

Sources are read through here and nowhere else. Addresses stay strings, since `pathlib` would fold the `//` of
a protocol. A chained address such as `zip://photos/a.jpg::s3://bucket/all.zip` names a file in an archive.
"""

import os
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import fsspec
from fsspec.core import url_to_fs

from data_jobs.errors import InputError

# What opening may raise: OSError for what is not there, ValueError for no path at all (one with a NUL) or an
# unknown protocol, ImportError for a protocol whose package is missing, KeyError for a name that an archive lacks; of
# zipfile, the last four, for an archive that is damaged, cut, locked by a password or compressed in an unknown way.
FAILURES = (
    OSError,
    ValueError,
    ImportError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
)

_STAMPS = (
    "size",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
    "ETag",
    "etag",
    "date_time",
    "CRC",
)


def is_remote(path: str) -> bool:
    """Whether `path` is an address with a protocol, not a local path."""
    return "://" in path


def absolute(path: str) -> str:
    """`path` from the root, so that it means the same in every process; of an address, the local archive at its end."""
    if not is_remote(path):
        return os.path.abspath(path)
    chain, separator, archive = path.rpartition("::")
    return f"{chain}::{os.path.abspath(archive)}" if separator and not is_remote(archive) else path


def parent(path: str) -> str:
    """The folder of a file: `zip://a/b.csv::x.zip` -> `zip://a::x.zip`."""
    if not is_remote(path):
        return os.path.dirname(path)
    first, chain = _first(path)
    protocol, _, place = first.partition("://")
    folder, slash, _ = place.rpartition("/")
    return f"{protocol}://{folder or slash}{chain}"


def join(base: str, path: str) -> str:
    """`path` below `base`, unless it is absolute or an address itself.

    Of addresses, `./` and `../` are resolved, since archives and object stores know neither.
    """
    if is_remote(path) or os.path.isabs(path):
        return path
    if not is_remote(base):
        return str(Path(base, path))
    first, chain = _first(base)
    protocol, _, place = first.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(place, path))}{chain}"


def open_binary(path: str) -> IO[bytes]:
    """Open for reading. Raises one of FAILURES."""
    if not is_remote(path):
        return open(path, "rb")
    filesystem, place = _locate(path)
    stream: IO[bytes] = filesystem.open(place, "rb")
    return stream


def read_bytes(path: str) -> bytes:
    """The whole file. Raises one of FAILURES."""
    with open_binary(path) as stream:
        return stream.read()


def is_file(path: str) -> bool:
    """Whether there is such a file. False too where its archive cannot be read."""
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        filesystem, place = _locate(path)
        return bool(filesystem.isfile(place))
    except FAILURES:
        return False


def is_folder(path: str) -> bool:
    """Whether there is such a folder. False too where its archive cannot be read."""
    if not is_remote(path):
        return os.path.isdir(path)
    try:
        filesystem, place = _locate(path)
        return bool(filesystem.isdir(place))
    except FAILURES:
        return False


def walk(folder: str) -> Iterator[str]:
    """Every file below `folder` at any depth, folder by folder, sorted within each. Raises one of FAILURES."""
    if not is_remote(folder):
        for root, folders, names in os.walk(folder):
            folders.sort()
            yield from (os.path.join(root, name) for name in sorted(names))
        return
    yield from _find(folder, None)


def listing(folder: str) -> list[str]:
    """The files of one folder, sorted; empty where there is no such folder. Raises one of FAILURES."""
    if not is_folder(folder):
        return []
    if not is_remote(folder):
        paths = (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
        return [path for path in paths if os.path.isfile(path)]
    return _find(folder, 1)


def name(path: str) -> str:
    """The last part of a path or address: `zip://a/b.csv::x.zip` -> `b.csv`; of a web address, `%20` is a space."""
    protocol, _, place = _first(path)[0].rpartition("://")
    last = place.rstrip("/").rpartition("/")[2]
    return unquote(last) if protocol in ("http", "https") else last


def stamp(path: str) -> str:
    """Size and time of change, as far as the file system tells: whether a file is still the same one.

    Raises InputError (missing_source).
    """
    try:
        if not is_remote(path):
            found = os.stat(path)
            return f"{found.st_size} {found.st_mtime_ns}"
        filesystem, place = _locate(path)
        info = filesystem.info(place)
        return " ".join(str(info.get(key)) for key in _STAMPS)
    except FAILURES as error:
        raise InputError("missing_source", f"{path} cannot be read ({error}).", "Check the path.") from error


def _find(folder: str, depth: int | None) -> list[str]:
    """The addresses of the files below a remote folder, sorted."""
    filesystem, place = _locate(folder)
    first, chain = _first(folder)
    protocol = first.partition("://")[0]
    found = sorted(filesystem.find(place, maxdepth=depth))
    return [path if is_remote(path) else f"{protocol}://{path}{chain}" for path in found]


def _first(path: str) -> tuple[str, str]:
    """`zip://a::b.zip` -> (`zip://a`, `::b.zip`)."""
    first, separator, rest = path.partition("::")
    return first, separator + rest


def _locate(path: str) -> tuple[Any, str]:
    """The file system of an address and the place on it; archives stay open from one file to the next."""
    first, chain = _first(path)
    if not chain:
        filesystem, place = url_to_fs(path)
        return filesystem, place
    protocol, _, place = first.partition("://")
    return _archive(protocol, chain), place


@lru_cache(maxsize=8)
def _archive(protocol: str, chain: str) -> Any:
    return url_to_fs(f"{protocol}://{chain}")[0]


def known(path: str) -> None:
    """Raise InputError (unknown_protocol) unless something can open addresses such as `path`."""
    if not is_remote(path):
        return
    for part in path.split("::"):
        protocol = part.partition("://")[0] if "://" in part else "file"
        try:
            fsspec.get_filesystem_class(protocol)
        except (ValueError, ImportError) as error:
            raise InputError(
                "unknown_protocol",
                f"Addresses such as {path} cannot be opened here: {error}.",
                "Install the package that fsspec names, or copy the files to a local folder.",
            ) from error
