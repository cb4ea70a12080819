"""Pictures on both sides of a split are told of, and what they spoil."""

from dataclasses import replace

import tiny

from train_jobs import leakage
from train_jobs.pairdata import PairData


def part(pictures: str) -> PairData:
    """A pair for each letter, whose picture it names."""
    return replace(tiny.pairs(len(pictures)), picture_ids=list(pictures))


def test_disjoint_parts_are_fine() -> None:
    assert leakage.warnings({"train": part("aab"), "validation": part("c"), "calibration": part("de")}) == []


def test_each_overlap_says_what_it_spoils() -> None:
    parts = {"train": part("aabc"), "validation": part("ccd"), "calibration": part("adde")}
    first, second, third = leakage.warnings(parts)
    assert first.startswith("1 of the 2 validation pictures are train pictures as well") and "epoch" in first
    assert second.startswith("1 of the 3 calibration pictures are train pictures") and "too good" in second
    assert third.startswith("1 of the 3 calibration pictures are validation pictures as well")
    assert all("data_jobs.split" in warning for warning in (first, second, third))
