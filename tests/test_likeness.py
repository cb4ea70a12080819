"""Likeness: the nearest of other things, by spelling and by vectors, exactly and through the index."""

import numpy as np
import pytest
from numpy.typing import NDArray

from data_jobs import likeness

TEXTS = [
    "a red mug", "a red mug with a handle", "a blue mug", "a wooden table", "a wooden tables set",
    "ماگ قرمز سرامیکی", "ماگ قرمز سفالی", "كيك شكلاتي", "کیک شکلاتی خانگی",
]  # fmt: skip
APART = np.arange(len(TEXTS))
"""Every text a thing of its own."""


def _unit(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_texts_spelt_alike_are_nearest() -> None:
    vectors = likeness.spelling(TEXTS)
    shuffled = vectors[APART]
    found = likeness.nearest(
        shuffled, APART + 100, shuffled, APART, 2
    )  # things unlike any: itself is nearest
    assert found[:, 0].tolist() == APART.tolist()
    assert [pair.tolist() for pair in (found[0], found[3], found[5], found[7])] == [
        [0, 1],
        [3, 4],
        [5, 6],
        [7, 8],
    ]


def test_both_letter_forms_of_persian_are_spelt_the_same() -> None:
    vectors = likeness.spelling(["كيك شكلاتي", "کیک شکلاتی", "ماگ"]).toarray()
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert vectors[0] @ vectors[2] == 0


def test_vectors_are_unit_float32() -> None:
    vectors = likeness.spelling(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.toarray(), axis=1), 1, atol=1e-6)


def test_texts_of_the_same_thing_are_passed_over() -> None:
    vectors = likeness.spelling(TEXTS)
    things = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])
    found = likeness.nearest(vectors, things, vectors, things, 9)
    for row, neighbours in enumerate(found.tolist()):
        kept = [text for text in neighbours if text >= 0]
        assert sorted(kept) == [text for text in range(9) if things[text] != things[row]]
        assert neighbours[len(kept) :] == [-1] * (9 - len(kept))
    assert found[3, 0] == 4


def test_the_nearest_of_vectors_by_hand() -> None:
    texts = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    queries = np.array([[1, 0], [0, 1]], np.float32)
    found = likeness.nearest(queries, np.array([0, 9]), texts, np.array([0, 1, 2, 3]), 2)
    assert found.tolist() == [[1, 2], [2, 1]]


@pytest.mark.parametrize("block", [1, 1000, 1 << 24])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    texts, things = _unit(300, 8), np.arange(300) // 3
    cosines = texts @ texts.T
    cosines[things[:, None] == things] = -2
    monkeypatch.setattr(likeness, "_BLOCK", block)
    found = likeness.nearest(texts, things, texts, things, 5)
    np.testing.assert_array_equal(found, np.argsort(-cosines, axis=1)[:, :5])


def test_the_index_finds_nearly_what_the_comparison_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, things = _unit(2000, 8), np.arange(2000) // 2
    exact = likeness.nearest(texts, things, texts, things, 10)
    monkeypatch.setattr(likeness, "EXACT", 100)
    found = likeness.nearest(texts, things, texts, things, 10)
    assert (things[found] != things[:, None]).all()
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) > 0.8
    np.testing.assert_array_equal(found, likeness.nearest(texts, things, texts, things, 10))


def test_the_index_looks_beyond_a_large_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 texts of one thing lie around the queries; only the far ones are another thing's."""
    monkeypatch.setattr(likeness, "EXACT", 100)
    crowd = np.array([1, 0, 0, 0], np.float32) + 0.05 * _unit(600, 4)
    texts = np.concatenate([crowd, _unit(6, 4, seed=1)]).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    things = np.array([0] * 600 + [1, 2, 3, 4, 5, 6])
    found = likeness.nearest(texts, things, texts, things, 4)
    assert (found[:600] >= 600).all()
    expected = np.argsort(-(texts[:600] @ texts[600:].T), axis=1)[:, :4] + 600
    np.testing.assert_array_equal(found[:600], expected)


def test_many_texts_become_dense_vectors_that_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "EXACT", 100)
    words = ["mug", "sofa", "lamp", "table", "carpet", "کیک", "ماگ"]
    colours = ["red", "blue", "green", "yellow", "black", "white", "قرمز", "سبز"]
    texts = [f"{c} {w} {m}" for c in colours for w in words for m in ("small", "large", "old")]
    vectors = likeness.spelling(texts)
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float32 and vectors.shape[0] == 168 and vectors.shape[1] <= 128
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    things = np.arange(168)
    found = likeness.nearest(vectors, things, vectors, things, 1)[:, 0]
    shared = [len(set(texts[a].split()) & set(texts[b].split())) for a, b in enumerate(found)]
    assert np.mean(shared) > 1.9  # two of three words; any two texts share 0.6
