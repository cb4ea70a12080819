"""Cosines of matches and mismatches whose truth is known, for tests of what is made of them."""

import numpy as np

Pairs = tuple[np.ndarray, np.ndarray]


def gaussians(
    count: int, seed: int = 0, matches: float = 0.30, mismatches: float = 0.20, spread: float = 0.03
) -> Pairs:
    """`count` cosines each of matches and mismatches."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(matches, spread, count), rng.normal(mismatches, spread, count)])
    return scores, np.repeat([1, 0], count)
