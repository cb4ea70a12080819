"""Matching pairs -> pairs whose text is known not to fit, for training, calibration and tests."""

import random
from collections import defaultdict
from collections.abc import Sequence


def mismatched(
    groups: Sequence[str],
    *,
    categories: Sequence[str | None] | None = None,
    hard_fraction: float = 0.5,
    seed: int = 0,
) -> list[tuple[int, int, str]]:
    """For each row i of matching pairs choose a row j whose text does not describe picture i.

    `groups[i]` names what pair i is about: a text of the same group is in truth a match and never chosen.
    A `hard_fraction` of the rows gets a text of the same category, where there is another group in it
    ("hard"); the others get one of any other group ("random"). Texts are drawn uniformly over groups, so that
    a group with many photos is not over-represented.

    Returns (i, j, kind) for each row in order; rows are left out only if there is a single group.
    """
    rng = random.Random(seed)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    names = sorted(rows_of)
    of_category: dict[str, set[str]] = defaultdict(set)
    if categories is not None:
        for group, category in zip(groups, categories, strict=True):
            if category:
                of_category[category].add(group)
    neighbours = {category: sorted(members) for category, members in of_category.items()}

    chosen = []
    for row, group in enumerate(groups):
        category = categories[row] if categories is not None else None
        near = neighbours.get(category, []) if category else []
        hard = len(near) > 1 and rng.random() < hard_fraction
        pool = near if hard else names
        if len(pool) < 2:
            continue
        other = rng.choice(pool)
        while other == group:
            other = rng.choice(pool)
        chosen.append((row, rng.choice(rows_of[other]), "hard" if hard else "random"))
    return chosen
