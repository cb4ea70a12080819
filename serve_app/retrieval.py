"""The Retriever deployment: an index in memory, apart from the model, so that each scales by itself."""

import asyncio

from ray import serve

from data_jobs.errors import InputError
from train_jobs.encoder import Embeddings
from train_jobs.index import Hit, Index
from train_jobs.index_kinds import Modality


@serve.deployment
class Retriever:
    """Searches one index, or says that there is none."""

    def __init__(self, index: str | None) -> None:
        self._index = Index.open(index) if index is not None else None

    def version(self) -> str | None:
        """The version being searched; None without an index."""
        return self._index.manifest.version if self._index is not None else None

    async def search(
        self, query: Embeddings, model_hash: str, top_k: int, modality: Modality
    ) -> tuple[list[Hit], str]:
        """The best documents for `query` (float32 [D], unit norm, of model `model_hash`), and the version.

        Raises InputError (no_index, index_of_another_model).
        """
        if self._index is None:
            raise InputError(
                "no_index",
                "This server has no index to search.",
                "Build one with train_jobs.build_index and set CLIP_INDEX_PATH.",
            )
        self._index.require(model_hash)
        hits = await asyncio.to_thread(self._index.search, query, top_k, modality=modality)
        return hits, self._index.manifest.version
