"""The Retriever deployment: indexes in memory, apart from the models, so that each scales by itself.

Each index is exchanged while searches go on when its folder's CURRENT names another version, if that is of the same
model. Replicas on one node share the memory of an index: it is mapped from its file.
"""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle

from data_jobs.errors import InputError
from serve_app import ray_metrics, telemetry
from serve_app.query import OTHER_MODEL, IndexStatus, Query
from train_jobs import filters, index_kinds, index_version
from train_jobs.index import Hit, mixed_query
from train_jobs.live_index import LiveIndex
from train_jobs.shadow_recall import ShadowRecall

TRIES = 6
"""While a model and its index are replaced there are replicas of both; each try meets the wrong one half the time."""
RECALL_EVERY_S = 10.0


@serve.deployment(max_surge_percent=100)  # a new version starts before the old one stops
class Retriever:
    """Searches indexes by name; the first is for requests that name none."""

    def __init__(self, indexes: Mapping[str, str], shadow_rate: float) -> None:
        self._indexes = {
            name: LiveIndex(folder, index_version.current(Path(folder))[1].model_hash)
            for name, folder in indexes.items()
        }
        for index in self._indexes.values():
            index_kinds.set_up_batches(index.current.manifest.dimension)
        telemetry.collect_by(ray_metrics.sink())
        self._shadow = ShadowRecall(shadow_rate)
        threading.Thread(target=self._tell_recall, name="recall", daemon=True).start()

    def status(self) -> dict[str, IndexStatus]:
        """What is being searched, by name."""
        return {
            name: IndexStatus(
                index.current.manifest.version, len(index.current), index.status()["last_error"]
            )
            for name, index in self._indexes.items()
        }

    async def search(self, name: str | None, query: Query) -> tuple[list[Hit], str] | InputError:
        """The best documents, and the version; or what is wrong with the query.

        That is returned, since Serve logs what is raised with its stack as a failure of the replica's. InputError:
        no_index, index_not_served, index_of_another_model, bad_filter, bad_mix, wrong_dimension.
        """
        try:
            return await self._search(name, query)
        except InputError as error:
            return error

    async def _search(self, name: str | None, query: Query) -> tuple[list[Hit], str]:
        index = self._named(name).current
        index.require(query.model_hash)
        condition = None if query.filter is None else filters.parse(query.filter)
        vector = query.parts[0][0] if query.modality is not None else mixed_query(query.parts)
        hits = await asyncio.to_thread(
            index.search,
            vector,
            query.top_k,
            modality=query.modality,
            exact=query.exact,
            filter=condition,
        )
        if not query.exact:
            self._shadow.offer(index, vector, hits, modality=query.modality, filter=condition)
        return hits, index.manifest.version

    def _named(self, name: str | None) -> LiveIndex:
        if not self._indexes:
            raise InputError(
                "no_index",
                "This server has no index to search.",
                "Build one with train_jobs.build_index and set CLIP_INDEX_PATH.",
            )
        if name is None:
            return next(iter(self._indexes.values()))
        if name not in self._indexes:
            raise InputError(
                "index_not_served",
                f"There is no index {name[:100]!r} here; served are {', '.join(self._indexes)}.",
                "Use one of these, or leave `index` out.",
            )
        return self._indexes[name]

    def _tell_recall(self) -> None:
        while True:
            threading.Event().wait(RECALL_EVERY_S)
            for (version, modality), found in self._shadow.numbers().shadowed.items():
                if found.recall is not None:
                    telemetry.shadow_recall(version, modality, found.recall)


class RetrieverReplicas:
    """The Retriever's replicas as `query.Searcher`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def status(self) -> dict[str, IndexStatus]:
        """As Retriever.status."""
        status: dict[str, IndexStatus] = await self._handle.status.remote()
        return status

    async def search(self, name: str | None, query: Query) -> tuple[list[Hit], str]:
        """As Retriever.search. Raises its InputError."""
        for left in reversed(range(TRIES)):
            found: tuple[list[Hit], str] | InputError = await self._handle.search.remote(name, query)
            if not isinstance(found, InputError):
                return found
            if found.code != OTHER_MODEL or not left:
                raise found
        raise AssertionError  # the last try returns or raises
