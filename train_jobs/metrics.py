"""Metrics on scores and labels: pure NumPy on literal arrays, no thresholds hidden inside.

`scores` float [N], higher means a likelier match; `labels` int [N], 1 match and 0 mismatch.
"""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Labels = NDArray[np.integer]


def auroc(scores: Scores, labels: Labels) -> float:
    """P(a match scores above a mismatch), ties half (Mann-Whitney U). NaN without both labels.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    positives, negatives = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, "left").sum()
    not_above = np.searchsorted(negatives, positives, "right").sum()
    return float((below + not_above) / 2 / (len(positives) * len(negatives)))


def average_precision(scores: Scores, labels: Labels) -> float:
    """Area under precision-recall as the step sum over distinct scores. NaN without a match.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4)
    0.8333
    """
    if not (labels == 1).any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(labels[order] == 1)[last_of_tie]
    predicted = np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(true, prepend=0) * true / predicted) / true[-1])


def at_threshold(scores: Scores, labels: Labels, threshold: float) -> dict[str, float]:
    """accuracy, precision, recall and f1 of "match" where score >= threshold; 0 where a ratio has no cases."""
    predicted, match = scores >= threshold, labels == 1
    hits = int((predicted & match).sum())
    precision = hits / max(1, int(predicted.sum()))
    recall = hits / max(1, int(match.sum()))
    return {
        "accuracy": float((predicted == match).mean()) if len(labels) else float("nan"),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
    }


def brier(probabilities: Scores, labels: Labels) -> float:
    """Mean squared distance of the match probability to the label, 0 (perfect) to 1."""
    return float(np.mean((probabilities - labels) ** 2))


def expected_calibration_error(probabilities: Scores, labels: Labels, bins: int = 10) -> float:
    """ECE over equal-width bins (Guo et al. 2017): mean |accuracy - confidence| weighted by bin size."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        members = index == b
        if members.any():
            error += members.mean() * abs(labels[members].mean() - probabilities[members].mean())
    return float(error)


def recall_at_k(similarity: Scores, relevant: NDArray[np.bool_], k: int) -> float:
    """Share of queries with a relevant item among their k best: similarity and relevant are [Q, N].

    Queries without any relevant item are left out; NaN if that leaves none.
    """
    answerable = relevant.any(axis=1)
    if not answerable.any():
        return float("nan")
    best = np.argsort(-similarity[answerable], axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(relevant[answerable], best, axis=1).any(axis=1).mean())
