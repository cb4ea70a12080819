"""Bootstrap intervals over clusters: rows that share a picture or a product are drawn together or not at all.

Pairs of one picture are not independent; drawing them one by one makes intervals too narrow (Field and Welsh 2007).
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from train_jobs.spec import Estimate

Clusters = Sequence[object] | NDArray[np.generic]
"""[N]: what each row shares with others."""

RESAMPLES = 1000
"""Enough for the 2.5 % and 97.5 % percentiles to be steady in their second digit (Efron and Tibshirani 1993, 13.3)."""


def numbered(clusters: Clusters | None, count: int) -> NDArray[np.int64]:
    """The cluster of each of `count` rows as a number from 0; where none are given, one of its own for each."""
    if clusters is None:
        return np.arange(count)
    number: dict[object, int] = {}
    return np.array([number.setdefault(cluster, len(number)) for cluster in clusters], np.int64)


def resamples(clusters: Clusters, count: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """`count` resamples: row numbers, int64, whole clusters drawn with replacement. `clusters` [N] names each row's."""
    of_row = numbered(clusters, len(clusters))
    rows = np.argsort(of_row, kind="stable")
    sizes = np.bincount(of_row)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = rng.integers(0, len(sizes), len(sizes))
        length = sizes[drawn]
        offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        yield rows[np.repeat(starts[drawn], length) + offset]


def estimate(value: float, draws: Iterable[float]) -> Estimate:
    """`value` with the 95 % percentile interval of `draws`; NaN draws (a resample without a label) are left out."""
    kept = np.array([draw for draw in draws if not np.isnan(draw)], np.float64)
    if not len(kept):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(kept, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
