"""Kinds of index: the rule's table, recall that other queries get too, and searches that do not disturb each other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import faiss
import numpy as np
import pytest

from data_jobs.errors import InputError
from train_jobs import index_kinds
from train_jobs.index_kinds import Kind, Selection, Vectors, choose, factory, machine_memory, search, tune

ROWS, WIDTH = 20_000, 32
GB = 1e9


def _clustered(rows: int, seed: int, shift: float = 0.0) -> Vectors:
    """Unit vectors around 300 centres; with `shift` away from them, as texts are from pictures."""
    centres = np.random.default_rng(0).normal(size=(300, WIDTH))
    random = np.random.default_rng(seed)
    found = centres[random.integers(0, 300, rows)] + 0.7 * random.normal(size=(rows, WIDTH))
    found += shift * np.random.default_rng(1).normal(size=WIDTH)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


VECTORS = _clustered(ROWS, seed=2)
IMAGES, TEXTS = _clustered(200, seed=3), _clustered(200, seed=4, shift=0.7)
OTHERS = _clustered(400, seed=5, shift=0.7)


@pytest.fixture(scope="module")
def built() -> dict[str, faiss.Index]:
    return {kind: index_kinds.build(kind, VECTORS) for kind in get_args(Kind)}


def _best(queries: Vectors, k: int, vectors: Vectors = VECTORS) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1)[:, :k]


def _recall(found: np.ndarray, queries: Vectors) -> float:
    k = found.shape[1]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found, _best(queries, k), strict=True)]))


@pytest.mark.parametrize(
    ("rows", "dimension", "memory", "kind"),
    [
        (1, 512, 8 * GB, "flat"),
        (1389, 512, 8 * GB, "flat"),
        (154_000, 512, 8 * GB, "flat"),  # docs/RETRIEVAL.md: about 155k
        (156_000, 512, 8 * GB, "hnsw"),
        (200_000, 128, 8 * GB, "flat"),
        (1_000_000, 512, 8 * GB, "hnsw"),  # 2.3 GB
        (1_000_000, 512, 4 * GB, "ivf-pq"),
        (2_000_000, 512, 64 * GB, "hnsw"),
        (2_000_001, 512, 64 * GB, "ivf-pq"),
        (20_000_000, 768, 512 * GB, "ivf-pq"),
    ],
)
def test_the_rule(rows: int, dimension: int, memory: float, kind: str) -> None:
    chosen, reason = choose(rows, dimension, memory=memory)
    assert chosen == kind
    assert f"{rows} x {dimension} float32" in reason


def test_the_reason_names_what_decided() -> None:
    assert choose(1_000_000, 512, memory=8 * GB)[1] == (
        "an exact scan of 1000000 x 512 float32 takes about 64.6 ms; a graph takes 2.3 GB of 8.0 GB"
    )
    assert choose(1_000_000, 512, memory=4 * GB)[1].endswith("a graph takes 2.3 GB, more than half of 4.0 GB")
    assert choose(3_000_000, 512, memory=64 * GB)[1].endswith(
        "3000000 rows are more than the 2000000 of a graph"
    )


def test_the_machines_memory_is_a_number_of_bytes() -> None:
    assert 0.1 * GB < machine_memory() < 1e5 * GB


@pytest.mark.parametrize(
    ("kind", "rows", "dimension", "name"),
    [
        ("flat", 7, 512, "Flat"),
        ("hnsw", 7, 512, "HNSW32"),
        ("ivf-pq", 1_000_000, 512, "IVF4096,PQ256x4fs,Refine(SQfp16)"),
        ("ivf-pq", 4_000_000, 768, "IVF8192,PQ384x4fs,Refine(SQfp16)"),
        ("ivf-pq", 10_000_001, 512, "IVF65536_HNSW32,PQ256x4fs,Refine(SQfp16)"),
        ("ivf-pq", 1000, 64, "IVF25,PQ32x4fs,Refine(SQfp16)"),  # 39 to train each cell
        ("ivf-pq", 1000, 3, "IVF25,PQ3x4fs,Refine(SQfp16)"),
    ],
)
def test_the_structure(kind: Kind, rows: int, dimension: int, name: str) -> None:
    assert factory(kind, rows, dimension) == name


def test_too_few_rows_to_train_cells_are_refused() -> None:
    with pytest.raises(InputError, match="623 vectors") as refusal:
        factory("ivf-pq", 623, 32)
    assert refusal.value.code == "too_few_rows"
    assert "624" in refusal.value.message and "--kind flat" in refusal.value.suggestion
    index_kinds.build("ivf-pq", VECTORS[:624])


@pytest.mark.parametrize("kind", get_args(Kind))
def test_exact_is_what_numpy_finds(built: dict[str, faiss.Index], kind: str) -> None:
    scores, rows = search(built[kind], TEXTS, 10, None)
    cosines = np.take_along_axis(TEXTS @ VECTORS.T, rows, axis=1)
    np.testing.assert_allclose(scores, cosines, atol=1e-3 if kind == "ivf-pq" else 1e-6)  # ivf-pq keeps fp16
    if kind == "ivf-pq":
        assert _recall(rows, TEXTS) > 0.99
    else:
        np.testing.assert_array_equal(rows, _best(TEXTS, 10))


@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_other_queries_find_as_much_as_was_promised(
    built: dict[str, faiss.Index], kind: Kind, target: float
) -> None:
    settings, recall = tune(built[kind], kind, VECTORS, TEXTS, modality="text", target=target)
    assert settings is not None and recall >= target
    assert recall == pytest.approx(_recall(search(built[kind], TEXTS, 10, settings)[1], TEXTS), abs=1e-3)
    assert _recall(search(built[kind], OTHERS, 10, settings)[1], OTHERS) >= target


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_the_settings_are_no_more_thorough_than_needed(built: dict[str, faiss.Index], kind: Kind) -> None:
    chosen = [
        tune(built[kind], kind, VECTORS, TEXTS, modality="text", target=target)[0]
        for target in (0.5, 0.95, 0.99)
    ]
    first, effort = chosen[0], "efSearch" if kind == "hnsw" else "nprobe"
    assert first == ({"efSearch": 16} if kind == "hnsw" else {"nprobe": 4, "k_factor": 10})
    values = [settings[effort] for settings in chosen if settings is not None]
    assert values == sorted(values) and values[0] < values[-1]


def test_each_modality_has_its_own_settings(built: dict[str, faiss.Index]) -> None:
    """Texts lie apart from pictures, and need a wider search."""
    far = _clustered(200, seed=6, shift=2.0)
    near, wide = (
        tune(built["hnsw"], "hnsw", VECTORS, queries, modality="text", target=0.95)[0]
        for queries in (IMAGES, far)
    )
    assert near is not None and wide is not None
    assert near["efSearch"] < wide["efSearch"]


def test_flat_has_nothing_to_set(built: dict[str, faiss.Index]) -> None:
    assert tune(built["flat"], "flat", VECTORS, TEXTS, modality="text", target=1.0) == (None, 1.0)


def test_recall_below_the_target_is_refused(built: dict[str, faiss.Index]) -> None:
    """Vectors rounded to fp16 cannot give all 10 of all queries in truth."""
    with pytest.raises(InputError, match="for image queries") as refusal:
        tune(built["ivf-pq"], "ivf-pq", VECTORS, OTHERS, modality="image", target=1.0)
    assert refusal.value.code == "recall_below_target"
    assert "finds 0.99" in refusal.value.message and "target is 1.0" in refusal.value.message
    assert "'nprobe': 512" in refusal.value.message  # every cell
    assert "--kind flat" in refusal.value.suggestion


def test_equal_documents_count_as_each_other() -> None:
    """Of 15 equal vectors any 10 are right."""
    vectors = np.repeat(VECTORS[:100], 15, axis=0)
    index = index_kinds.build("flat", vectors)
    queries = VECTORS[:60]
    assert tune(index, "flat", vectors, queries, modality="text", target=1.0)[1] == 1.0
    found = np.tile(np.arange(5, 15), (1, 1))
    truth = index_kinds.exact(vectors, queries[:1], 10)[0]
    assert index_kinds._recalls(vectors, queries[:1], truth, found).tolist() == [1.0]
    found[0, :3] = 20, 21, 22
    assert index_kinds._recalls(vectors, queries[:1], truth, found).tolist() == [0.7]


@pytest.mark.parametrize(
    ("kind", "settings"), [("hnsw", {"efSearch": 16}), ("ivf-pq", {"nprobe": 1, "k_factor": 10})]
)
def test_more_hits_than_a_narrow_search_has_are_all_found(
    built: dict[str, faiss.Index], kind: str, settings: dict[str, int]
) -> None:
    """One cell of 512 holds some 40 of the vectors."""
    scores, rows = search(built[kind], TEXTS[:5], 3000, settings)
    assert (rows >= 0).all() and all(len(set(found)) == 3000 for found in rows.tolist())
    assert (np.diff(scores) <= 0).all()
    assert _recall(rows, TEXTS[:5]) > 0.8


def test_one_starved_query_changes_no_other() -> None:
    """What finds too little is searched exactly, alone: else a narrow search would pass for a perfect one."""
    centres = np.eye(8, WIDTH, dtype=np.float32)
    sizes = [996, *[4] * 7]
    vectors = np.concatenate([np.repeat(centres[[c]], size, axis=0) for c, size in enumerate(sizes)])
    vectors += 0.05 * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = index_kinds.build("ivf-pq", vectors)
    settings = {"nprobe": 1, "k_factor": 10}
    together = search(index, centres, 10, settings)[1]
    narrow = index.search(centres, 10, params=index_kinds._parameters(index, settings, 10))[1]
    starved = (narrow < 0).any(axis=1)
    assert starved.any() and not starved.all()
    np.testing.assert_array_equal(together[~starved], narrow[~starved])
    np.testing.assert_array_equal(together[starved], search(index, centres[starved], 10, None)[1])


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_threads_with_different_settings_do_not_disturb_each_other(
    built: dict[str, faiss.Index], kind: str
) -> None:
    wide: list[dict[str, int] | None]
    if kind == "hnsw":
        wide = [{"efSearch": 10}, {"efSearch": 200}, None]
    else:
        wide = [{"nprobe": 1, "k_factor": 1}, {"nprobe": 100, "k_factor": 30}, None]

    def one(task: int) -> list[Any]:
        faiss.omp_set_num_threads(1)
        query = TEXTS[task % 100 : task % 100 + 1]
        return search(built[kind], query, 10, wide[task % 3])[1][0].tolist()

    alone = [one(task) for task in range(300)]
    assert any(one(task) != search(built[kind], TEXTS[task : task + 1], 10, wide[1])[1][0].tolist()
               for task in range(0, 99, 3)), "the settings make no difference"  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(300))) == alone


def _mask(share: float) -> np.ndarray:
    return np.random.default_rng(9).random(ROWS) < share


def _best_of(mask: np.ndarray, queries: Vectors, k: int) -> np.ndarray:
    return np.argsort(np.where(mask, -(queries @ VECTORS.T), np.inf), axis=1)[:, :k]


@pytest.mark.parametrize("share", [0.001, 0.04, 0.06, 0.5, 0.99])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_exact_search_of_a_selection_is_what_numpy_finds(
    built: dict[str, faiss.Index], kind: str, share: float
) -> None:
    mask = _mask(share)
    scores, rows = search(built[kind], TEXTS[:50], 10, None, Selection.of(mask))
    assert mask[rows].all()
    np.testing.assert_allclose(
        scores,
        np.take_along_axis(TEXTS[:50] @ VECTORS.T, rows, axis=1),
        atol=1e-3 if kind == "ivf-pq" else 1e-6,
    )
    right = _best_of(mask, TEXTS[:50], 10)
    if kind == "ivf-pq":
        assert (np.sort(rows) == np.sort(right)).mean() > 0.97
    else:
        np.testing.assert_array_equal(rows, right)


@pytest.mark.parametrize("share", [0.02, 0.06, 0.1, 0.3, 0.7])
@pytest.mark.parametrize(
    ("kind", "settings"), [("hnsw", {"efSearch": 16}), ("ivf-pq", {"nprobe": 4, "k_factor": 10})]
)
def test_a_selection_is_found_no_worse_than_all(
    built: dict[str, faiss.Index], kind: str, settings: dict[str, int], share: float
) -> None:
    mask = _mask(share)
    found = search(built[kind], OTHERS, 10, settings, Selection.of(mask))[1]
    assert mask[found].all()
    right = _best_of(mask, OTHERS, 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found, right, strict=True)])
    assert recall >= _recall(search(built[kind], OTHERS, 10, settings)[1], OTHERS)


def test_of_few_rows_every_one_is_compared(built: dict[str, faiss.Index]) -> None:
    assert Selection.of(_mask(0.06)).few is None
    selection = Selection.of(_mask(0.04))
    assert selection.few is not None and len(selection.few) == selection.rows
    found = search(built["hnsw"], TEXTS, 10, {"efSearch": 1}, selection)[1]
    np.testing.assert_array_equal(found, _best_of(_mask(0.04), TEXTS, 10))


@pytest.mark.parametrize(
    ("kind", "settings"), [("hnsw", {"efSearch": 16}), ("ivf-pq", {"nprobe": 1, "k_factor": 10})]
)
def test_a_selection_far_from_the_query_is_found_nevertheless(
    built: dict[str, faiss.Index], kind: str, settings: dict[str, int]
) -> None:
    """The 6 % of rows that are least like the query: where an index looks there are none."""
    query = TEXTS[:1]
    mask = np.zeros(ROWS, bool)
    mask[np.argsort(query @ VECTORS.T)[0, : int(0.06 * ROWS)]] = True
    found = search(built[kind], query, 10, settings, Selection.of(mask))[1][0]
    assert mask[found].all() and len(set(found.tolist())) == 10


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_mapped_index_answers_as_the_one_in_memory_and_cannot_be_changed(
    built: dict[str, faiss.Index], kind: Kind, tmp_path: Path
) -> None:
    faiss.write_index(built[kind], str(tmp_path / "x"))
    mapped = index_kinds.open_mapped(tmp_path / "x")
    settings = {"flat": None, "hnsw": {"efSearch": 32}, "ivf-pq": {"nprobe": 8, "k_factor": 10}}[kind]
    selection = Selection.of(_mask(0.3))
    for how in ((settings, None), (None, None), (settings, selection), (None, selection)):
        for here, there in zip(
            search(mapped, TEXTS, 7, *how), search(built[kind], TEXTS, 7, *how), strict=True
        ):
            np.testing.assert_array_equal(here, there)
    for change in (
        lambda: mapped.add(VECTORS),
        lambda: mapped.train(VECTORS),
        mapped.reset,
    ):  # add would abort
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert mapped.ntotal == ROWS


@pytest.fixture
def blas_threshold() -> Iterator[None]:
    before = faiss.cvar.distance_compute_blas_threshold
    yield
    faiss.cvar.distance_compute_blas_threshold = before


def test_batches_go_through_blas_once_that_is_set_up(
    built: dict[str, faiss.Index], blas_threshold: None
) -> None:
    """BLAS adds up in another order, so that some of the last bits differ."""

    def as_alone(queries: int) -> bool:
        alone = np.concatenate([search(built["flat"], TEXTS[i : i + 1], 50, None)[0] for i in range(queries)])
        return bool((search(built["flat"], TEXTS[:queries], 50, None)[0] == alone).all())

    assert as_alone(16)
    index_kinds.set_up_batches(WIDTH)
    assert as_alone(1) and as_alone(index_kinds.BLAS_QUERIES - 1)
    assert not as_alone(index_kinds.BLAS_QUERIES) and not as_alone(16)
    np.testing.assert_array_equal(search(built["flat"], TEXTS, 10, None)[1], _best(TEXTS, 10))
