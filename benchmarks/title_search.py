"""Does a Persian title find its own passage? Text queries against an index of passages.

    python -m benchmarks.title_search --model M --index DIR

Every title of the index is asked once; recall@k counts the titles whose own passage is among the k best.
"""

import os
import platform
import time
from dataclasses import dataclass

import tyro

from train_jobs.encoder import Encoder
from train_jobs.index import Index


@dataclass(frozen=True)
class TitleSearch:
    model: str
    """Model directory that the index was built with."""
    index: str
    """Index directory."""


def main(config: TitleSearch) -> None:
    encoder = Encoder.load(config.model)
    index = Index.open(config.index, encoder.spec)
    documents = index.documents()
    titled = [document for document in documents if document["title"]]
    queries = encoder.texts([document["title"] for document in titled])
    started = time.perf_counter()
    ranks = []
    for document, query in zip(titled, queries, strict=True):
        found = [hit.document["id"] for hit in index.search(query, 10)]
        ranks.append(found.index(document["id"]) if document["id"] in found else None)
    milliseconds = 1000 * (time.perf_counter() - started) / len(titled)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {len(documents)} passages, {len(titled)} titles asked"
    )
    for k in (1, 10):
        print(f"recall@{k}: {sum(rank is not None and rank < k for rank in ranks) / len(ranks):.3f}")
    print(f"search alone: {milliseconds:.2f} ms a query (mean)")


if __name__ == "__main__":
    main(tyro.cli(TitleSearch, description=__doc__))
