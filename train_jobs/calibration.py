"""Held-out scores and labels -> a probability map and a threshold, with its interval.

Fit on pairs used neither for training nor for choosing the checkpoint, or the promise does not hold.
"""

import numpy as np

from data_jobs.errors import InputError
from train_jobs.metrics import Labels, Scores
from train_jobs.spec import Calibration, Threshold

MIN_PAIRS_PER_LABEL = 10
"""Fewer matches or mismatches than this do not fix two parameters."""


def fit_platt(scores: Scores, labels: Labels) -> Calibration:
    """Platt scaling with his smoothed targets (Platt 1999; Lin, Lin and Weng 2007), by Newton's method.

    Smoothing keeps the fit finite where the scores separate the labels perfectly. Raises InputError
    (too_few_pairs) below MIN_PAIRS_PER_LABEL of either label, (scores_do_not_rank) if matches do not score
    higher than mismatches.
    """
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    enough(labels)
    scores = scores.astype(np.float64)
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    design = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)  # [N, 2]
    weights = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    for _ in range(100):
        p = 0.5 * (1 + np.tanh(0.5 * (design @ weights)))
        gradient = design.T @ (p - target)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    slope = float(weights[0]) / spread
    if slope <= 0 or np.ptp(scores) == 0:  # a collapsed model's equal scores have a slope of mere rounding
        raise InputError(
            "scores_do_not_rank",
            f"On the {len(scores)} calibration pairs matches do not score above mismatches.",
            "Check the labels; train longer, or on more pairs.",
        )
    return Calibration(
        method="platt",
        slope=slope,
        intercept=float(weights[1]) - slope * centre,
        pairs=len(scores),
        prevalence=positives / len(scores),
    )


def choose_threshold(
    scores: Scores, labels: Labels, *, policy: str = "youden", resamples: int = 200, seed: int = 0
) -> Threshold:
    """The cosine that best parts matches from mismatches, with a 95 % percentile bootstrap interval.

    Policies: youden (maximise recall of matches + recall of mismatches), max-f1 (of "match"). The value lies
    halfway between two neighbouring scores. Raises InputError (too_few_pairs, bad_policy).
    """
    if policy not in ("youden", "max-f1"):
        raise InputError("bad_policy", f"The policy is {policy!r}.", "Use youden or max-f1.")
    enough(labels)
    rng = np.random.default_rng(seed)
    by_label = [np.flatnonzero(labels == value) for value in (0, 1)]
    draws = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in by_label])
        draws.append(_best_cut(scores[rows], labels[rows], policy))
    low, high = np.percentile(draws, [2.5, 97.5]) if draws else (np.nan, np.nan)
    return Threshold(_best_cut(scores, labels, policy), policy, float(low), float(high))


def _best_cut(scores: Scores, labels: Labels, policy: str) -> float:
    values = np.unique(scores)
    if len(values) == 1:
        return float(values[0])
    cuts = (values[:-1] + values[1:]) / 2
    match, mismatch = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    recall = 1 - np.searchsorted(match, cuts) / len(match)
    false_alarm = 1 - np.searchsorted(mismatch, cuts) / len(mismatch)
    if policy == "youden":
        gain = recall - false_alarm
    else:
        hits = recall * len(match)
        gain = 2 * hits / (hits + false_alarm * len(mismatch) + len(match))
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])  # the middle of a plateau, not its edge


def enough(labels: Labels) -> None:
    """Raise InputError (too_few_pairs) unless there are MIN_PAIRS_PER_LABEL matches and as many mismatches."""
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if min(positives, negatives) < MIN_PAIRS_PER_LABEL:
        raise InputError(
            "too_few_pairs",
            f"Calibration has {positives} matches and {negatives} mismatches; it needs "
            f"{MIN_PAIRS_PER_LABEL} of each.",
            "Hold out more pairs for calibration.",
        )
