"""Pairs of one share of matches, weighted as if they had another: what probabilities are stated for is judged there.

A model calibrated with --prevalence says what a cosine means where it will be used, not in the sample. So its
probabilities and what its threshold promises are held against the sample only after this.
"""

import numpy as np
from numpy.typing import NDArray

from train_jobs.metrics import Labels, Weights


def weighted(labels: Labels, prevalence: float, weights: Weights | None = None) -> NDArray[np.float64]:
    """How much each row counts, float64 [N], so that a share `prevalence` (0..1) of the whole are matches.

    `weights` [N] says how often each row is there (default: once); their sum stays as it is. All NaN where the rows
    do not have both labels, since no weight makes up for what is missing.
    """
    match = labels == 1
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    total, matches = weight.sum(), weight[match].sum()
    if not 0 < matches < total:
        return np.full(len(labels), np.nan)
    return weight * np.where(
        match, prevalence * total / matches, (1 - prevalence) * total / (total - matches)
    )
