"""Numbers -> warnings: each limit from both sides, and the numbers in the words."""

from typing import Any

import pytest

from data_jobs.cautions import warnings_of

CLEAN: dict[str, Any] = {
    "labels": {"match": 100, "mismatch": 100},
    "duplicates": {
        "pairs": 0,
        "same_picture_several_names": 0,
        "near_groups": 0,
        "near_pictures": 0,
        "largest_near_group": 0,
    },
    "contradictions": 0,
    "leaks": {},
}


def _codes(**numbers: Any) -> list[str]:
    return [warning["code"] for warning in warnings_of(CLEAN | numbers)]


@pytest.mark.parametrize(
    ("match", "mismatch", "codes"),
    [
        (50, 50, []),
        (50, 49, ["few_pairs"]),
        (100, 0, []),
        (0, 100, ["no_matches"]),
        (0, 0, ["few_pairs"]),
        (500, 100, []),
        (501, 100, ["imbalance"]),
        (100, 500, []),
        (100, 501, ["imbalance"]),
        (6, 1, ["imbalance", "few_pairs"]),
    ],
)
def test_size_and_balance(match: int, mismatch: int, codes: list[str]) -> None:
    assert _codes(labels={"match": match, "mismatch": mismatch}) == codes


def test_imbalance_names_the_ratio_and_what_is_missing() -> None:
    (many,) = warnings_of(CLEAN | {"labels": {"match": 3000, "mismatch": 200}})
    assert many["message"] == "3,000 matches to 200 mismatches is 15.0 to 1, beyond 5 to 1."
    assert "make_mismatches" in many["suggestion"]
    (few,) = warnings_of(CLEAN | {"labels": {"match": 200, "mismatch": 3000}})
    assert few["message"] == "200 matches to 3,000 mismatches is 1 to 15.0, beyond 5 to 1."
    assert few["suggestion"] == "Add matches, or leave mismatches out."


def test_the_gravest_come_first() -> None:
    everything = {
        "leaks": {"product": 2, "image": 1, "near-image": 1, "text": 0},
        "contradictions": 1,
        "labels": {"match": 60, "mismatch": 2},
        "duplicates": {
            "pairs": 1,
            "same_picture_several_names": 2,
            "near_groups": 3,
            "near_pictures": 1200,
            "largest_near_group": 1100,
        },
    }
    assert _codes(**everything) == [
        "leakage", "leakage", "leakage", "contradicting_labels", "imbalance", "few_pairs", "exact_duplicates",
        "same_picture_several_names", "near_duplicates",
    ]  # fmt: skip
    messages = [warning["message"] for warning in warnings_of(CLEAN | everything)]
    assert messages[0] == "2 products are in more than one split; a fair split has none."
    assert messages[1] == "1 picture is in more than one split; a fair split has none."
    assert messages[3] == "1 picture and text is labelled both match and mismatch."
    assert messages[6] == "1 row repeats the picture, text and label of another."
    assert messages[8].startswith("1,200 pictures in 3 groups look alike (at most 4 of 64 bits")
    assert all(warning["suggestion"] for warning in warnings_of(CLEAN | everything))


def test_nothing_to_warn_of() -> None:
    assert warnings_of(CLEAN | {"leaks": {"product": 0, "image": 0, "near-image": 0, "text": 0}}) == []
