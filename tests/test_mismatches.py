"""Mismatch pairs: the chosen text never describes the picture, and hard ones stay in the category."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.mismatches import mismatched

GROUPS = ["mug", "mug", "hat", "sock", "sofa", "sofa", "lamp"]
CATEGORIES = ["kitchen", "kitchen", "wear", "wear", "home", "home", "home"]


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.integers(0, 5), st.floats(0, 1))
def test_a_text_of_the_same_group_is_never_chosen(groups: list[str], seed: int, hard: float) -> None:
    categories = ["x" if group in "ab" else None for group in groups]
    chosen = mismatched(groups, categories=categories, hard_fraction=hard, seed=seed)
    assert [i for i, _, _ in chosen] == (list(range(len(groups))) if len(set(groups)) > 1 else [])
    assert all(groups[i] != groups[j] for i, j, _ in chosen)


def test_hard_ones_are_of_the_same_category_where_it_has_another_group() -> None:
    chosen = mismatched(GROUPS, categories=CATEGORIES, hard_fraction=1.0, seed=3)
    assert [kind for _, _, kind in chosen] == ["random", "random", "hard", "hard", "hard", "hard", "hard"]
    assert all(CATEGORIES[i] == CATEGORIES[j] for i, j, kind in chosen if kind == "hard")


def test_without_categories_all_are_random() -> None:
    assert {kind for _, _, kind in mismatched(GROUPS, hard_fraction=1.0)} == {"random"}
    nameless = mismatched(GROUPS, categories=[""] * len(GROUPS), hard_fraction=1.0)
    assert {kind for _, _, kind in nameless} == {"random"}


def test_the_hard_share_comes_out() -> None:
    groups = [f"group-{i % 50}" for i in range(2000)]
    categories = [f"category-{i % 5}" for i in range(2000)]
    kinds = Counter(k for _, _, k in mismatched(groups, categories=categories, hard_fraction=0.3))
    assert kinds["hard"] / 2000 == pytest.approx(0.3, abs=0.04)


def test_texts_are_drawn_over_groups_not_over_rows() -> None:
    groups = ["picture"] * 1000 + ["common"] * 999 + ["rare"]
    chosen = Counter(groups[j] for i, j, _ in mismatched(groups, seed=1) if groups[i] == "picture")
    assert chosen["rare"] / 1000 == pytest.approx(0.5, abs=0.06)


def test_the_seed_decides() -> None:
    assert mismatched(GROUPS, seed=1) == mismatched(GROUPS, seed=1)
    assert mismatched(GROUPS, seed=1) != mismatched(GROUPS, seed=2)


def test_one_group_has_no_mismatch() -> None:
    assert mismatched(["mug"] * 5) == []
    assert mismatched([]) == []


def test_categories_must_be_one_a_row() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mismatched(["mug", "hat"], categories=["kitchen"])
