"""Metrics on scores and labels: pure NumPy on literal arrays, no thresholds hidden inside.

`scores` float [N], higher means a likelier match; `labels` int [N], 1 match and 0 mismatch. `weights` [N] says how
often each row counts (default: once), so that a bootstrap resample needs no copy of its rows.
"""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Labels = NDArray[np.integer]
Weights = NDArray[np.integer] | NDArray[np.floating]


def auroc(scores: Scores, labels: Labels, weights: Weights | None = None) -> float:
    """P(a match scores above a mismatch), ties half (Mann-Whitney U). NaN without both labels.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    order = np.argsort(scores, kind="stable")
    positives, negatives = _counts_by_score(order, scores, labels, weights)
    if not positives.sum() or not negatives.sum():
        return float("nan")
    wins = np.sum(positives * (np.cumsum(negatives) - negatives / 2))
    return float(wins / (positives.sum() * negatives.sum()))


def average_precision(scores: Scores, labels: Labels, weights: Weights | None = None) -> float:
    """Area under precision-recall as the step sum over distinct scores. NaN without a match.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4)
    0.8333
    """
    order = np.argsort(scores, kind="stable")[::-1]
    positives, negatives = _counts_by_score(order, scores, labels, weights)
    if not positives.sum():
        return float("nan")
    true, predicted = np.cumsum(positives), np.cumsum(positives + negatives)
    reached = predicted > 0  # the best scores may weigh nothing
    return float(np.sum(positives[reached] * true[reached] / predicted[reached]) / true[-1])


def at_threshold(
    scores: Scores, labels: Labels, threshold: float, weights: Weights | None = None
) -> dict[str, float]:
    """accuracy, precision, recall and f1 of "match" where score >= threshold; 0 where a ratio has no cases."""
    counts = confusion(scores, labels, threshold, weights)
    hits = counts["match_as_match"]
    predicted = hits + counts["mismatch_as_match"]
    matches = hits + counts["match_as_mismatch"]
    total = sum(counts.values())
    precision = hits / predicted if predicted else 0.0
    recall = hits / matches if matches else 0.0
    return {
        "accuracy": (hits + counts["mismatch_as_mismatch"]) / total if total else float("nan"),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
    }


def confusion(
    scores: Scores, labels: Labels, threshold: float, weights: Weights | None = None
) -> dict[str, int | float]:
    """How many pairs of each label are called what, where score >= threshold is called a match."""
    called, match = scores >= threshold, labels == 1
    weight = np.ones(len(scores), np.int64) if weights is None else weights
    return {
        "match_as_match": weight[called & match].sum().item(),
        "match_as_mismatch": weight[~called & match].sum().item(),
        "mismatch_as_match": weight[called & ~match].sum().item(),
        "mismatch_as_mismatch": weight[~called & ~match].sum().item(),
    }


def brier(probabilities: Scores, labels: Labels, weights: Weights | None = None) -> float:
    """Mean squared distance of the match probability to the label, 0 (perfect) to 1."""
    return float(np.average((probabilities - labels) ** 2, weights=weights))


def reliability(
    probabilities: Scores, labels: Labels, bins: int = 10, weights: Weights | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(rows, mean probability, share of matches) of equal-width bins, each float64 [bins]; NaN where no row is."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    rows = np.bincount(index, weight, bins).astype(np.float64)
    said = np.bincount(index, weight * probabilities, bins)
    true = np.bincount(index, weight * labels, bins)
    filled = np.where(rows > 0, rows, np.nan)
    return rows, said / filled, true / filled


def expected_calibration_error(
    probabilities: Scores, labels: Labels, bins: int = 10, weights: Weights | None = None
) -> float:
    """ECE over equal-width bins (Guo et al. 2017): mean |accuracy - confidence| weighted by bin size."""
    rows, said, true = reliability(probabilities, labels, bins, weights)
    return float(np.nansum(rows * np.abs(true - said)) / rows.sum())


def recall_at_k(similarity: Scores, relevant: NDArray[np.bool_], k: int) -> float:
    """Share of queries with a relevant item among their k best: similarity and relevant are [Q, N].

    Queries without any relevant item are left out; NaN if that leaves none.
    """
    answerable = relevant.any(axis=1)
    if not answerable.any():
        return float("nan")
    best = np.argsort(-similarity[answerable], axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(relevant[answerable], best, axis=1).any(axis=1).mean())


def _counts_by_score(
    order: NDArray[np.int64], scores: Scores, labels: Labels, weights: Weights | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(matches, mismatches) at each distinct score, in the order of `order`, which sorts the scores."""
    if not len(order):
        return np.zeros(0), np.zeros(0)
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    match = labels[order] == 1
    weight = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)

    def counts(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.diff(np.cumsum(weight * chosen)[last_of_tie], prepend=0.0)

    return counts(match), counts(~match)
