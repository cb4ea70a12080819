"""Held-out scores and labels -> the probability of a match at every cosine.

Fit on pairs used neither for training nor for choosing the checkpoint, or the promise does not hold. `scores` are
cosines, float [N]; `labels` int [N], 1 match and 0 mismatch; `clusters` [N] name what pairs share (a picture, a
product): such pairs are not independent and are drawn, or left out, together. Without it every pair stands alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from data_jobs.errors import InputError
from train_jobs import metrics, scoring
from train_jobs.bootstrap import Clusters, numbered
from train_jobs.metrics import Labels, Scores
from train_jobs.spec import QUANTILES, Calibration

Method = Literal["auto", "platt", "isotonic"]
Floats = NDArray[np.floating]
Map = Callable[[Scores, Labels, Scores], Floats]
"""(scores, labels to learn from, other scores) -> probabilities of the latter."""

MIN_PAIRS_PER_LABEL = 10
"""Fewer matches or mismatches than this do not fix two parameters."""

ISOTONIC_FROM = 1000
"""Pairs. Below this isotonic regression overfits (Niculescu-Mizil and Caruana 2005, figure 8)."""

FOLDS = 5


def fit(
    scores: Scores,
    labels: Labels,
    *,
    method: Method = "auto",
    prevalence: float | None = None,
    clusters: Clusters | None = None,
    data_fingerprint: str | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit the probability of a match to held-out pairs.

    auto: Platt; from ISOTONIC_FROM pairs isotonic where its cross-validated Brier score is lower. `prevalence` is the
    share of matches where the model will be used: the log-odds of every probability are moved by its difference to
    the sample's (Saerens, Latinne and Decaestecker 2002), which is right where matches and mismatches each look as
    they do here. `ece` is out of fold, and that of the sample's own prevalence. `seed` deals the folds.

    Raises InputError (too_few_pairs) below MIN_PAIRS_PER_LABEL of either label, and for isotonic below ISOTONIC_FROM
    pairs; (too_few_clusters) below two clusters; (bad_prevalence) outside 0..1; (scores_do_not_rank) if matches do
    not score higher than mismatches.
    """
    enough(labels, method)
    scores = scores.astype(np.float64)
    share = float((labels == 1).mean())
    aimed = checked_prevalence(prevalence, share)
    slope, intercept = _platt(scores, labels)
    if not slope > 0 or np.ptp(scores) == 0:  # a collapsed model's equal scores have a slope of mere rounding
        raise InputError(
            "scores_do_not_rank",
            f"On the {len(scores)} calibration pairs matches do not score above mismatches.",
            "Check the labels; train longer, on more pairs, or with another --learning-rate (from scratch about 1e-3).",
        )
    folds = _folds(labels, numbered(clusters, len(scores)), seed)
    unseen = _out_of_fold(platt_map, scores, labels, folds)
    isotonic = method == "isotonic"
    if method != "platt" and len(scores) >= ISOTONIC_FROM:
        rival = _out_of_fold(isotonic_map, scores, labels, folds)
        isotonic = isotonic or metrics.brier(rival, labels) < metrics.brier(unseen, labels)
        unseen = rival if isotonic else unseen
    return _corrected(
        Calibration(
            method="isotonic" if isotonic else "platt",
            slope=slope,
            intercept=intercept,
            knots=_knots(scores, labels) if isotonic else (),
            pairs=len(scores),
            sample_prevalence=share,
            prevalence=share,
            ece=metrics.expected_calibration_error(unseen, labels),
            match_quantiles=_quantiles(scores[labels == 1]),
            mismatch_quantiles=_quantiles(scores[labels == 0]),
            data_fingerprint=data_fingerprint,
        ),
        aimed,
    )


def enough(labels: Labels, method: Method = "auto") -> None:
    """Raise InputError (too_few_pairs) below MIN_PAIRS_PER_LABEL of a label, and for isotonic below ISOTONIC_FROM."""
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if min(positives, negatives) < MIN_PAIRS_PER_LABEL:
        raise InputError(
            "too_few_pairs",
            f"Calibration has {positives} matches and {negatives} mismatches; it needs "
            f"{MIN_PAIRS_PER_LABEL} of each.",
            "Hold out more pairs for calibration.",
        )
    if method == "isotonic" and len(labels) < ISOTONIC_FROM:
        raise InputError(
            "too_few_pairs",
            f"There are {len(labels)} pairs; isotonic calibration needs {ISOTONIC_FROM}.",
            "Use platt or auto, or hold out more pairs for calibration.",
        )


def checked_prevalence(prevalence: float | None, sample: float) -> float:
    """`prevalence`, or the sample's where none is asked for. Raises InputError (bad_prevalence)."""
    if prevalence is None:
        return sample
    if not 0 < prevalence < 1:
        raise InputError(
            "bad_prevalence",
            f"The prevalence is {prevalence}; it is a share of matches between 0 and 1, both excluded.",
            "Give the share of matches expected where the model will be used, such as 0.9.",
        )
    return prevalence


def _platt(scores: Scores, labels: Labels) -> tuple[float, float]:
    """Slope and intercept by Platt scaling with his smoothed targets (Platt 1999; Lin, Lin and Weng 2007).

    By Newton's method. Smoothing keeps the fit finite where the scores separate the labels perfectly.
    """
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    design = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)  # [N, 2]
    weights = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    for _ in range(100):
        p = scoring.sigmoid(design @ weights)
        gradient = design.T @ (p - target)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    slope = float(weights[0]) / spread
    return slope, float(weights[1]) - slope * centre


def _knots(scores: Scores, labels: Labels) -> tuple[tuple[float, float], ...]:
    """Isotonic regression (Zadrozny and Elkan 2002) as the ends of its steps: (cosine, probability), both rising.

    One pair of each label is added at the lowest and at the highest score. So an end step of n pure matches says
    (n + 1) / (n + 2) and not 1: Laplace's rule of succession, which is what Venn-Abers predictors (Vovk and Petej
    2014) come to there. A certainty that n pairs cannot show would also be beyond every correction of prevalence.
    """
    low, high = scores.min(), scores.max()
    regression = IsotonicRegression()
    regression.fit(
        np.append(scores, [low, low, high, high]), np.append(labels, [0, 1, 0, 1]).astype(np.float64)
    )
    return tuple(
        (float(x), float(y)) for x, y in zip(regression.X_thresholds_, regression.y_thresholds_, strict=True)
    )


def _quantiles(scores: Scores) -> tuple[float, ...]:
    return tuple(np.quantile(scores, np.linspace(0, 1, QUANTILES)).tolist())


def platt_map(scores: Scores, labels: Labels, asked: Scores) -> Floats:
    """Probabilities of `asked` by Platt scaling."""
    slope, intercept = _platt(scores, labels)
    return scoring.sigmoid(slope * asked + intercept)


def isotonic_map(scores: Scores, labels: Labels, asked: Scores) -> Floats:
    """Probabilities of `asked` by isotonic regression."""
    cosines, probabilities = np.array(_knots(scores, labels)).T
    return np.interp(asked, cosines, probabilities)


def _folds(labels: Labels, cluster: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Each pair's fold, a cluster's all in one; dealt by their share of matches, so that all folds have both labels."""
    share = np.bincount(cluster, labels) / np.bincount(cluster)
    if len(share) < 2:
        raise InputError(
            "too_few_clusters",
            f"All {len(labels)} calibration pairs share one picture or product; it takes 2 to hold one out.",
            "Calibrate on pairs of several products.",
        )
    order = np.random.default_rng(seed).permutation(len(share))
    order = order[np.argsort(share[order], kind="stable")]
    fold = np.empty(len(share), np.int64)
    fold[order] = np.arange(len(share)) % FOLDS
    return fold[cluster]


def _out_of_fold(fitted: Map, scores: Scores, labels: Labels, folds: NDArray[np.int64]) -> Floats:
    """Each pair's probability by a map that did not see its fold."""
    found = np.empty(len(scores))
    for fold in np.unique(folds):
        seen, unseen = folds != fold, folds == fold
        found[unseen] = fitted(scores[seen], labels[seen], scores[unseen])
    return found


def _corrected(calibration: Calibration, prevalence: float) -> Calibration:
    """`calibration` stated for another prevalence."""
    shift = log_odds(prevalence) - log_odds(calibration.prevalence)
    knots = np.array(calibration.knots).reshape(-1, 2)
    knots[:, 1] = shifted(knots[:, 1], shift)
    return dataclasses.replace(
        calibration,
        intercept=calibration.intercept + shift,
        knots=tuple((float(x), float(y)) for x, y in knots),
        prevalence=prevalence,
    )


def shifted(probabilities: Floats, shift: float) -> Floats:
    """Probabilities whose log-odds are moved by `shift`."""
    odds = probabilities * math.exp(shift)
    return odds / (odds + 1 - probabilities)


def log_odds(share: float) -> float:
    return math.log(share / (1 - share))
