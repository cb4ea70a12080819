"""What the numbers of a dataset warn of, each with its remedy. Pure: numbers in, warnings out."""

from collections.abc import Mapping
from typing import Any

from data_jobs.duplicates import NEAR_DISTANCE

FEW_PAIRS = 100
"""Below this a threshold or a metric measured on the pairs says little: at 100 pairs an accuracy of 90 % has a 95 %
interval of 83 to 94 % (Wilson)."""
WORST_BALANCE = 5
"""Matches to mismatches, or the other way round; beyond it a model gains by guessing the frequent label."""

_LEAKING = {
    "product": ("product is", "products are"),
    "image": ("picture is", "pictures are"),
    "near-image": ("group of equal or near-equal pictures is", "groups of equal or near-equal pictures are"),
    "text": ("text is", "texts are"),
}


def warnings_of(numbers: Mapping[str, Any]) -> list[dict[str, str]]:
    """The warnings for the numbers of `survey.survey`, as {"code", "message", "suggestion"}, gravest first.

    Codes: leakage (one a kind of link), contradicting_labels, no_matches, imbalance, few_pairs, exact_duplicates,
    same_picture_several_names, near_duplicates. Matches without any mismatch are no cause for a warning: contrastive
    training takes its mismatches from the other rows of a batch.
    """
    return [
        {"code": code, "message": message, "suggestion": suggestion}
        for code, message, suggestion in [
            *_leaks(numbers["leaks"]),
            *_contradictions(numbers["contradictions"]),
            *_balance(**numbers["labels"]),
            *_duplicates(**numbers["duplicates"]),
        ]
    ]


def guesses(codes: Mapping[str, int]) -> list[dict[str, str]]:
    """The warnings for the remarks of a source that say how its encoding was guessed (csvfile.Table.remarks)."""
    guessed = sorted(code.removeprefix("read_as_") for code in codes if code.startswith("read_as_"))
    return [
        {
            "code": "guessed_encoding",
            "message": f"The text was read as {encoding}, which was told from its bytes.",
            "suggestion": "Look at a few texts of the report; if their letters are wrong, save the file as UTF-8.",
        }
        for encoding in guessed
    ]


_Warnings = list[tuple[str, str, str]]


def _leaks(leaks: Mapping[str, int]) -> _Warnings:
    return [
        (
            "leakage",
            f"{_counted(count, *_LEAKING[link])} in more than one split; a fair split has none.",
            "Split again with python -m data_jobs.split, which keeps what belongs together on one side.",
        )
        for link, count in leaks.items()
        if count
    ]


def _contradictions(count: int) -> _Warnings:
    if not count:
        return []
    return [
        (
            "contradicting_labels",
            f"{_counted(count, 'picture and text is', 'pictures and texts are')} labelled both match and mismatch.",
            "Decide for one label and delete the other row; the report's examples say where.",
        )
    ]


def _balance(match: int, mismatch: int) -> _Warnings:
    pairs, found = match + mismatch, []
    if pairs and not match:
        found.append(
            (
                "no_matches",
                f"All of the {_counted(pairs, 'pair', 'pairs')} are mismatches; training needs matches.",
                "Add pairs with label 1, or check the label column.",
            )
        )
    elif mismatch and max(match, mismatch) > WORST_BALANCE * min(match, mismatch):
        rarer = "mismatches" if match > mismatch else "matches"
        found.append(
            (
                "imbalance",
                f"{_counted(match, 'match', 'matches')} to {_counted(mismatch, 'mismatch', 'mismatches')} is"
                f" {_ratio(match, mismatch)}, beyond {WORST_BALANCE} to 1.",
                f"Add {rarer}"
                + (
                    ": python -m data_jobs.make_mismatches makes them."
                    if match > mismatch
                    else ", or leave mismatches out."
                ),
            )
        )
    if pairs < FEW_PAIRS:
        found.append(
            (
                "few_pairs",
                f"The dataset has {_counted(pairs, 'pair', 'pairs')}; fewer than {FEW_PAIRS} are too few to train on"
                " or to measure with.",
                "Add pairs. A search index alone needs passages only.",
            )
        )
    return found


def _duplicates(
    pairs: int,
    same_picture_several_names: int,
    near_groups: int,
    near_pictures: int,
    largest_near_group: int,
) -> _Warnings:
    found = []
    if pairs:
        found.append(
            (
                "exact_duplicates",
                f"{_counted(pairs, 'row repeats', 'rows repeat')} the picture, text and label of another.",
                "Delete the repeats: a repeated row counts double in training and in metrics.",
            )
        )
    if same_picture_several_names:
        found.append(
            (
                "same_picture_several_names",
                f"{_counted(same_picture_several_names, 'picture is', 'pictures are')} stored under several names.",
                "Keep one name a picture; where the names are different products, one of them has the wrong photo.",
            )
        )
    if near_groups:
        found.append(
            (
                "near_duplicates",
                f"{_counted(near_pictures, 'picture', 'pictures')} in {_counted(near_groups, 'group', 'groups')} look"
                f" alike (at most {NEAR_DISTANCE} of 64 bits of their hashes differ); the largest group has"
                f" {largest_near_group:,}.",
                "Keep one of each group where they are copies; python -m data_jobs.split keeps a group on one side.",
            )
        )
    return found


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _ratio(match: int, mismatch: int) -> str:
    """`300, 20` -> `15.0 to 1`; `20, 300` -> `1 to 15.0`."""
    if match > mismatch:
        return f"{match / mismatch:,.1f} to 1"
    return f"1 to {mismatch / match:,.1f}"
