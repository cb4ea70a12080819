"""Mismatch pairs: the chosen text never describes the picture, and hard ones stay in the category."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.items import Record
from data_jobs.matches import Matches
from data_jobs.mismatches import Draw, draw, mismatched, same_category
from data_jobs.text import text_key

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


def record(image: str, text: str, group: str | None = None, label: int = 1) -> Record:
    """A record as data_jobs.pairs makes it."""
    key = text_key(text)
    return Record(
        "f.csv",
        1,
        f"/photos/{image}",
        text,
        label,
        (group or key) if label else group,
        (group or key) if label else key,
    )


def products(count: int) -> list[Record]:
    return [record(f"{n}.jpg", f"product {n}") for n in range(count)]


def by_parity(matches: Matches) -> list[np.ndarray]:
    """Pools: products with an even number are one category, the others another."""
    return same_category(matches, [str(row % 2) for row in matches.rows])


def pairs(records: Sequence[Record], drawn: Draw) -> list[tuple[str, str]]:
    """(picture, text) of every mismatch."""
    return [(records[m.row].image_path, records[m.text_row].text) for m in drawn.mismatches]


ROWS = st.tuples(
    st.sampled_from("pqrst"),
    st.sampled_from(["mug", "Mug.", "cup", "كيك", "کیک", "hat", "a hat", "sofa"]),
    st.sampled_from([None, None, "g", "h"]),
    st.sampled_from([1, 1, 1, 0]),
)


def same_thing(records: Sequence[Record]) -> list[set[tuple[str, str]]]:
    """What is one thing, by merging sets until none overlap: another way than the code's."""

    def facts(r: Record) -> set[tuple[str, str]]:
        found = {("image", r.image_path)}
        if r.image_group in ("g", "h"):
            found.add(("group", r.image_group))
        if r.label == 1:
            found.add(("text", r.text.lower().strip(".").replace("ك", "ک").replace("ي", "ی")))
        return found

    merged: list[set[tuple[str, str]]] = []
    for new in map(facts, records):
        touching = [old for old in merged if old & new]
        merged = [old for old in merged if not old & new] + [new.union(*touching)]
    return merged


@given(
    st.lists(ROWS, max_size=14),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 3),
    st.booleans(),
)
def test_no_mismatch_is_in_truth_a_match(
    rows: list[tuple[str, str, str | None, int]], seed: int, hard: float, per_match: int, alike: bool
) -> None:
    records = [record(*row) for row in rows]
    matches = Matches.of(records)
    everything = np.arange(len(matches.keys))
    pools = [everything] * len(matches.rows) if alike else same_category(matches, ["c"] * len(matches.rows))
    drawn = draw(matches, pools, hard_fraction=hard, per_match=per_match, seed=seed)
    things = same_thing(records)
    known = {(r.image_path, text_key(r.text)) for r in records if r.label == 0}
    for mismatch in drawn.mismatches:
        picture, text = records[mismatch.row], records[mismatch.text_row]
        assert picture.label == text.label == 1
        (thing,) = [thing for thing in things if ("image", picture.image_path) in thing]
        assert ("image", text.image_path) not in thing
        assert (picture.image_path, text_key(text.text)) not in known
    drawn_for = Counter(mismatch.row for mismatch in drawn.mismatches)
    assert max(drawn_for.values(), default=0) <= per_match
    assert len(set(drawn.mismatches)) == len(drawn.mismatches)


def test_a_known_mismatch_is_not_made_again() -> None:
    records = [record("a", "mug"), record("b", "hat"), record("c", "sofa"), record("a", "hat", None, 0)]
    for seed in range(20):
        drawn = draw(Matches.of(records), per_match=2, seed=seed)
        assert [text for picture, text in pairs(records, drawn) if picture == "/photos/a"] == ["sofa"]
        assert len(drawn.mismatches) == 5


def test_exactly_the_hard_share_is_hard_where_the_pools_allow() -> None:
    records = products(41)
    matches = Matches.of(records)
    drawn = draw(matches, by_parity(matches), hard_fraction=0.3)
    assert (drawn.asked, drawn.hard_asked, drawn.count("hard"), drawn.count("random")) == (41, 12, 12, 29)
    for mismatch in drawn.mismatches:
        assert mismatch.kind == "random" or mismatch.row % 2 == mismatch.text_row % 2
    assert [mismatch.row for mismatch in drawn.mismatches] == list(range(41))


def test_the_shortfall_of_hard_ones_is_told() -> None:
    records = products(6)
    matches = Matches.of(records)
    pools = same_category(matches, ["wear", "wear", "home", "", "", "toys"])
    drawn = draw(matches, pools, hard_fraction=1.0)
    assert (drawn.hard_asked, drawn.count("hard"), drawn.count("random"), drawn.without_hard) == (6, 2, 4, 4)
    assert {m.row: m.text_row for m in drawn.mismatches if m.kind == "hard"} == {0: 1, 1: 0}
    half = draw(matches, pools, hard_fraction=1 / 3)  # the able ones stand in for those that are not
    assert (half.hard_asked, half.count("hard")) == (2, 2)


def test_several_mismatches_of_a_match_have_distinct_texts() -> None:
    records = products(10)
    matches = Matches.of(records)
    drawn = draw(matches, by_parity(matches), hard_fraction=0.5, per_match=6)
    assert (drawn.count("hard"), drawn.count("random")) == (30, 30)
    assert len(set(pairs(records, drawn))) == 60
    most = draw(matches, by_parity(matches), hard_fraction=1.0, per_match=12)
    assert (most.asked, most.hard_asked, most.count("hard"), most.count("random")) == (120, 120, 40, 50)


def test_texts_are_chosen_evenly() -> None:
    """One text on many photos is as likely as one on a single photo; each of 20 about 1/19."""
    records = [record(f"{n}.jpg", f"product {n if n < 20 else 0}") for n in range(4000)]
    chosen = Counter(text for _, text in pairs(records, draw(Matches.of(records))))
    assert len(set(chosen) - {"product 0"}) == 19
    del chosen["product 0"]
    assert min(chosen.values()) > 150 and max(chosen.values()) < 275  # 210, +- 4.5 standard deviations


def test_many_texts_are_chosen_evenly_too() -> None:
    records = [record(f"{n}.jpg", f"product {n % 1000}") for n in range(20_000)]
    chosen = Counter(text for _, text in pairs(records, draw(Matches.of(records))))
    assert len(chosen) == 1000 and max(chosen.values()) < 50  # 20 on average


def test_neither_the_order_of_rows_nor_the_folder_matters() -> None:
    records = products(300)
    matches = Matches.of(records)
    drawn = draw(matches, by_parity(matches), seed=5)
    moved = [record(f"elsewhere/{n}.jpg", f"product {n}") for n in reversed(range(300))]
    others = Matches.of(moved)
    again = draw(others, same_category(others, [str(n % 2) for n in reversed(range(300))]), seed=5)
    assert [(records[m.row].text, records[m.text_row].text, m.kind) for m in drawn.mismatches] == [
        (moved[m.row].text, moved[m.text_row].text, m.kind) for m in reversed(again.mismatches)
    ]


def test_another_row_leaves_the_choices_of_the_others() -> None:
    records = products(400)
    before, after = Matches.of(records[:-1]), Matches.of(records)
    first = draw(before, by_parity(before)).mismatches
    second = draw(after, by_parity(after)).mismatches[:-1]
    changed = [b for a, b in zip(first, second, strict=True) if a != b]
    assert len(changed) <= 10
    assert sum(a.kind != b.kind for a, b in zip(first, second, strict=True)) <= 1


def test_the_seed_decides_the_draw() -> None:
    matches = Matches.of(products(50))
    assert draw(matches, seed=1) == draw(matches, seed=1)
    differ = zip(draw(matches, seed=1).mismatches, draw(matches, seed=2).mismatches, strict=True)
    assert sum(a != b for a, b in differ) > 40


def test_hard_and_random_do_not_follow_from_the_text_chosen() -> None:
    """Which draws are hard is independent of what they choose: both halves of the texts are hard alike."""
    records = products(2000)
    matches = Matches.of(records)
    pools = [np.arange(2000)] * 2000
    drawn = draw(matches, pools, hard_fraction=0.5)
    low = [m.text_row < 1000 for m in drawn.mismatches if m.kind == "hard"]
    assert np.mean(low) == pytest.approx(0.5, abs=0.07)
    assert len(low) == 1000


def test_a_pool_of_one_thing_alone_among_many_texts_is_searched_whole() -> None:
    """All near texts on the ring are the match's own; the two others are found nevertheless."""
    records = [record(f"{n}.jpg", f"caption {n}", "one") for n in range(3000)]
    records += [record("x.jpg", "mug"), record("y.jpg", "hat")]
    drawn = draw(Matches.of(records), per_match=2)
    assert drawn.count("random") == 3000 * 2 + 2 * 2
    assert {
        text for picture, text in pairs(records, drawn) if picture not in ("/photos/x.jpg", "/photos/y.jpg")
    } == {
        "mug",
        "hat",
    }


def test_no_matches_no_mismatches() -> None:
    assert draw(Matches.of([])).mismatches == []
    assert draw(Matches.of([record("a", "mug", None, 0)]), []).mismatches == []
    assert draw(Matches.of([record("a", "mug"), record("b", "MUG")])).mismatches == []
