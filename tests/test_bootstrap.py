"""Bootstrap: whole clusters, all rows, and intervals that hold what they promise."""

import numpy as np
import pytest

from train_jobs.bootstrap import estimate, resamples


def test_clusters_are_drawn_whole() -> None:
    clusters = ["a", "b", "a", "c", "b", "a"]
    members = {"a": [0, 2, 5], "b": [1, 4], "c": [3]}
    for rows in resamples(clusters, 50, seed=1):
        counts = np.bincount(rows, minlength=6)
        for rows_of in members.values():
            assert len(set(counts[rows_of])) == 1
        assert sum(counts[rows_of[0]] for rows_of in members.values()) == 3


def test_a_seed_fixes_the_draws() -> None:
    clusters = np.arange(20)
    first, again = (list(resamples(clusters, 3, seed=7)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, resamples(clusters, 3, seed=8), strict=True))


def test_intervals_of_a_mean_cover_as_promised() -> None:
    """Of 200 samples of 60 clusters of 3 equal rows each, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        values = np.repeat(rng.normal(size=60), 3)
        found = estimate(
            values.mean(),
            (values[rows].mean() for rows in resamples(np.repeat(np.arange(60), 3), 200, trial)),
        )
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_nan_draws_are_left_out() -> None:
    found = estimate(0.5, [0.4, float("nan"), 0.6])
    assert (found.low, found.high) == pytest.approx((0.405, 0.595))
    assert np.isnan(estimate(0.5, [float("nan")]).low)
