"""ShadowRecall: counts what was found of the truth, and never holds up a search."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_index import UNASKED, make_documents, make_queries, spec, units, write

from train_jobs import filters, index
from train_jobs.index import Hit, Index
from train_jobs.index_kinds import Modality
from train_jobs.shadow_recall import Shadowed, ShadowRecall

ROWS = 5000


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("graph")
    asked = {modality: make_queries(units(60, seed=1)) for modality in UNASKED}
    index.write(
        folder, units(ROWS), make_documents(ROWS), spec(), embedded="x", queries=asked, kind="hnsw", target_recall=0.7
    )  # fmt: skip
    return Index.open(folder)


def test_the_recall_is_that_of_the_searches(graph: Index) -> None:
    vectors, shadow = units(ROWS), ShadowRecall(1.0, waiting=1000)
    right: dict[Modality, int] = {"text": 0, "image": 0}
    for number, query in enumerate(units(100, seed=2)):
        modality: Modality = "text" if number % 4 else "image"
        hits = graph.search(query, 10, modality=modality)
        shadow.offer(graph, query, hits, modality=modality)
        best = np.argsort(-(vectors @ query))[:10]
        right[modality] += len({hit.document["id"] for hit in hits} & {f"d{row}" for row in best})
    shadow.close()
    numbers = shadow.numbers()
    assert (numbers.dropped, numbers.failed) == (0, 0)
    assert numbers.shadowed == {
        ("v001", "text"): Shadowed(75, 750, right["text"]),
        ("v001", "image"): Shadowed(25, 250, right["image"]),
    }
    assert 0.7 < numbers.shadowed["v001", "text"].recall < 1  # type: ignore[operator]


def test_what_was_not_found_is_counted(graph: Index) -> None:
    """Three hits of which the last is not among the three nearest; and the eleventh counts for nothing."""
    query, shadow = units(1, seed=5)[0], ShadowRecall(1.0)
    truth = graph.search(query, 12, exact=True)
    shadow.offer(graph, query, [truth[0], truth[2], truth[3]], modality="text")
    shadow.offer(graph, query, [*truth[:10], truth[11]], modality="image")
    shadow.close()
    assert shadow.numbers().shadowed == {
        ("v001", "text"): Shadowed(1, 3, 2),
        ("v001", "image"): Shadowed(1, 10, 10),
    }


def test_a_filtered_search_is_compared_with_the_truth_of_its_filter(graph: Index) -> None:
    query, shadow = units(1, seed=5)[0], ShadowRecall(1.0)
    asked = filters.parse({"row": {"gte": 1000}})
    hits = graph.search(query, 10, exact=True, filter=asked)
    shadow.offer(graph, query, hits, modality="text", filter=asked)
    shadow.close()
    assert shadow.numbers().shadowed == {("v001", "text"): Shadowed(1, 10, 10)}


def test_exact_and_empty_searches_are_not_sampled(graph: Index, tmp_path: Path) -> None:
    query, shadow = units(1, seed=5)[0], ShadowRecall(1.0)
    hits = graph.search(query)
    shadow.offer(graph, query, hits, modality=None)
    shadow.offer(graph, query, hits, modality="text", filter=filters.parse({"row": {"lt": 50}}))
    shadow.offer(graph, query, [], modality="text")
    write(tmp_path, 50)
    shadow.offer(Index.open(tmp_path), query, hits, modality="text")  # flat
    shadow.close()
    assert shadow.numbers().shadowed == {}


@pytest.mark.parametrize(("rate", "least", "most"), [(0.0, 0, 0), (0.2, 30, 90)])  # five deviations
def test_so_large_a_share_is_sampled(graph: Index, rate: float, least: int, most: int) -> None:
    query, shadow = units(1, seed=5)[0], ShadowRecall(rate, waiting=300)
    hits = graph.search(query)
    for _ in range(300):
        shadow.offer(graph, query, hits, modality="text")
    shadow.close()
    sampled = shadow.numbers().shadowed.get(("v001", "text"), Shadowed())
    assert least <= sampled.searches <= most
    assert Shadowed().recall is None


class Gate(Index):
    """An index whose exact search waits, and then fails or finds."""

    def __init__(self, inner: Index, error: Exception | None = None) -> None:
        vars(self).update(vars(inner))
        self.error = error
        self.entered, self.opened = threading.Event(), threading.Event()

    def search(self, *given: Any, **named: Any) -> list[Hit]:
        self.entered.set()
        assert self.opened.wait(30)
        if self.error is not None:
            raise self.error
        return super().search(*given, **named)


def test_what_there_is_no_time_for_is_dropped_and_counted(graph: Index) -> None:
    query, shadow, slow = units(1, seed=5)[0], ShadowRecall(1.0, waiting=3), Gate(graph)
    hits = graph.search(query)
    offer = lambda: shadow.offer(slow, query, hits, modality="text")  # noqa: E731
    offer()
    assert slow.entered.wait(30)  # one at work, then three waiting
    for _ in range(10):
        offer()
    assert shadow.numbers().dropped == 7
    slow.opened.set()
    shadow.close()
    assert shadow.numbers().shadowed["v001", "text"].searches == 4


def test_a_search_that_fails_ends_nothing(graph: Index, caplog: pytest.LogCaptureFixture) -> None:
    query, shadow, broken = units(1, seed=5)[0], ShadowRecall(1.0), Gate(graph, RuntimeError("bad page"))
    broken.opened.set()
    hits = graph.search(query)
    shadow.offer(broken, query, hits, modality="text")
    shadow.offer(graph, query, hits, modality="text")
    shadow.close()
    assert shadow.numbers().failed == 1
    assert shadow.numbers().shadowed["v001", "text"].searches == 1
    assert "bad page" in caplog.text


def test_many_threads_may_offer(graph: Index) -> None:
    shadow = ShadowRecall(1.0, waiting=10_000)
    queries = units(8, seed=6)
    hits = [graph.search(query) for query in queries]

    def work(number: int) -> None:
        for _ in range(50):
            shadow.offer(graph, queries[number], hits[number], modality="text")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shadow.close()
    counted = shadow.numbers().shadowed["v001", "text"]
    assert (counted.searches, counted.wanted) == (400, 4000)
