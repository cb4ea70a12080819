"""Leakage: pictures that stand on both sides of a split. What is measured on them is better than it will be in use."""

from collections.abc import Mapping
from itertools import combinations

from train_jobs.pairdata import PairData

_HARM = {
    ("train", "validation"): "the best epoch is chosen by what was learned by heart",
    ("train", "calibration"): "the threshold, its promises and the held-out AUROC are too good",
    ("validation", "calibration"): "the threshold is fitted on what chose the epoch",
}


def warnings(parts: Mapping[str, PairData]) -> list[str]:
    """One for each two of train, validation and calibration, in this order, that share pictures (by content)."""
    pictures = {name: set(data.picture_ids) for name, data in parts.items()}
    found = []
    for one, other in combinations(pictures, 2):
        shared = len(pictures[one] & pictures[other])
        if shared:
            found.append(
                f"{shared} of the {len(pictures[other])} {other} pictures are {one} pictures as well: "
                f"{_HARM[one, other]}. Split them with data_jobs.split."
            )
    return found
