"""LiveIndex: the current version of an index folder, exchanged while searches go on.

A thread looks at CURRENT. A version that it did not name before is verified and warmed up beside the one in use, and
then takes its place: one reference is replaced. A search that holds the old version ends with it, even if its files
have been deleted meanwhile. A version of another model, or a damaged one, is not taken; `status` says why.
"""

import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from data_jobs.errors import InputError
from train_jobs import index_version
from train_jobs.filters import OneOf
from train_jobs.index import Index
from train_jobs.index_kinds import MODALITIES
from train_jobs.index_version import Manifest

PERIOD = 5.0
"""Seconds between looks at CURRENT."""
RETRY = 60.0
"""Seconds until a version that could not be opened is read again: it may have been copied only in part."""
_WARMING = 8

_log = logging.getLogger(__name__)


class LiveIndex:
    """Holds the current version for a server. `current` may be replaced at any time: take it once a request."""

    def __init__(self, folder: str | Path, model_hash: str, *, period: float = PERIOD) -> None:
        """Open the current version and watch for others every `period` seconds until `close`.

        Raises InputError: not_an_index, index_damaged, index_of_another_model.
        """
        self._folder = Path(folder)
        self._model_hash = model_hash
        self._failed: Manifest | None = None
        self._retry_at = 0.0
        self._error: str | None = None
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._take(*index_version.current(self._folder))
        self._thread = threading.Thread(target=self._watch, args=(period,), name="live-index", daemon=True)
        self._thread.start()

    @property
    def current(self) -> Index:
        """The version in use."""
        return self._current

    def status(self) -> dict[str, str | None]:
        """`version` in use, `loaded_at` in UTC, and as `last_error` why what CURRENT names is not in use."""
        return {
            "version": self._current.manifest.version,
            "loaded_at": self._loaded_at.isoformat(timespec="seconds"),
            "last_error": self._error,
        }

    def refresh(self) -> bool:
        """Look at CURRENT now; whether another version is in use afterwards. Raises nothing: see `status`."""
        with self._refreshing:
            manifest = None
            try:
                version, manifest = index_version.current(self._folder)
                if (
                    manifest == self._current.manifest
                ):  # a folder made anew has v001 again, with other checksums
                    self._error = None
                    return False
                if manifest == self._failed and time.monotonic() < self._retry_at:
                    return False
                before = self._current.manifest.version
                self._take(version, manifest)
                _log.info("index %s: %s -> %s", self._folder, before, manifest.version)
                return True
            except Exception as error:  # what is in use goes on, whatever the new version is like
                self._failed, self._retry_at = manifest, time.monotonic() + RETRY
                self._refused(error)
                return False

    def close(self) -> None:
        """Watch no longer. Searches may go on."""
        self._closed.set()
        self._thread.join()

    def _watch(self, period: float) -> None:
        while not self._closed.wait(period):
            self.refresh()

    def _take(self, version: Path, manifest: Manifest) -> None:
        opened = Index.load(version, manifest, self._model_hash)
        _warm_up(opened)
        self._current = opened
        self._loaded_at = datetime.now(UTC)
        self._failed = self._error = None

    def _refused(self, error: Exception) -> None:
        said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if said != self._error:
            _log.warning("index %s: %s stays in use. %s", self._folder, self._current.manifest.version, said)
        self._error = said


def _warm_up(index: Index) -> None:
    """Search a little in every way, so that the first to ask do not wait for pages, or for what Arrow imports."""
    random = np.random.default_rng(0).normal(size=(_WARMING, index.manifest.dimension))
    queries = (random / np.linalg.norm(random, axis=1, keepdims=True)).astype(np.float32)
    for modality in MODALITIES:
        for query in queries:
            index.search(query, modality=modality)
    index.search(queries[0], exact=True)
    index.search(queries[0], filter=OneOf("id", ("",)))
