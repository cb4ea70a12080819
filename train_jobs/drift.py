"""New labelled scores -> whether a stored calibration still holds on them.

`scores`, `labels` and `clusters` are those of `calibration`, from pairs that the calibration was not fitted to.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_jobs import metrics, prevalence, scoring
from train_jobs.bootstrap import Clusters, numbered
from train_jobs.calibration import MIN_PAIRS_PER_LABEL, Floats, isotonic_map, log_odds, platt_map, shifted
from train_jobs.metrics import Labels, Scores
from train_jobs.spec import QUANTILES, Calibration

ALPHA = 0.005
"""Chance of a false alarm of each of the three checks of `holds`."""

LEAST_ECE = 0.02
"""A calibration error below this is no alarm, however many pairs prove it: it changes no decision."""

LEAST_SHIFT = 0.05
"""The same for the distance between two score distributions."""

TRIALS = 500
MOST_PAIRS = 4000
"""With as many pairs noise explains no more than LEAST_ECE: no need to simulate more."""

_REMEDY = "Calibrate again on pairs like these."


@dataclass(frozen=True)
class Drift:
    """Whether a stored calibration still holds on new labelled pairs; `warnings` is empty where it does.

    What could not be judged, for want of MIN_PAIRS_PER_LABEL pairs of a label, is NaN and no warning.
    """

    ece: float  # of the stored probabilities on the new pairs, at the calibration's prevalence
    ece_limit: float  # what chance explains, or LEAST_ECE
    match_shift: float  # Kolmogorov-Smirnov distance of the matches' cosines to the calibration's, 0..1
    match_shift_limit: float
    mismatch_shift: float
    mismatch_shift_limit: float
    warnings: tuple[str, ...]


def holds(
    scores: Scores,
    labels: Labels,
    calibration: Calibration,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Drift:
    """Does `calibration` still hold on new labelled pairs?

    Each label's cosines are compared with the stored quantiles: two-sample Kolmogorov-Smirnov, critical at ALPHA. The
    error of the stored probabilities is measured with the pairs weighted to the calibration's prevalence, so that
    another mix of labels alone is no alarm; its limit is what ALPHA of TRIALS simulated calibrations exceed,
    each fitted to as many pairs as the stored one and asked for as many as these, all with labels drawn from the
    stored probabilities (as Broecker and Smith 2007 do for reliability diagrams, with the map's uncertainty added).
    """
    scores = scores.astype(np.float64)
    cluster = numbered(clusters, len(scores))
    stored = {1: calibration.match_quantiles, 0: calibration.mismatch_quantiles}
    matches = round(calibration.pairs * calibration.sample_prevalence)
    known = {1: matches, 0: calibration.pairs - matches}
    of = {label: np.flatnonzero(labels == label) for label in (1, 0)}
    # as if all pairs of a cluster were alike: the calibration does not say how alike they are
    fresh = {label: _worth(cluster[rows]) for label, rows in of.items() if len(rows) >= MIN_PAIRS_PER_LABEL}
    warnings, shift, shift_limit = [], {1: math.nan, 0: math.nan}, {1: math.nan, 0: math.nan}
    for label, count in fresh.items():
        found = scores[of[label]]
        shift[label] = _distance(found, stored[label])
        critical = math.sqrt(-math.log(ALPHA / 2) / 2 * (1 / count + 1 / known[label]))
        shift_limit[label] = max(LEAST_SHIFT, critical)
        if shift[label] > shift_limit[label]:
            warnings.append(
                f"The cosines of the {len(found)} {'matches' if label else 'mismatches'} are spread otherwise than "
                f"when the model was calibrated: Kolmogorov-Smirnov distance {shift[label]:.3f}, limit "
                f"{shift_limit[label]:.3f}; their median is {np.median(found):.3f} and was "
                f"{stored[label][QUANTILES // 2]:.3f}. {_REMEDY}"
            )
    ece, ece_limit = math.nan, math.nan
    if len(fresh) == 2:
        ece = _ece(scoring.probability(scores, calibration), labels, calibration.prevalence)
        share = len(of[1]) / len(scores)
        chance = _ece_by_chance(scores, share, sum(fresh.values()), calibration, known, seed)
        ece_limit = max(LEAST_ECE, chance)
        if ece > ece_limit:
            warnings.insert(
                0,
                f"The stored probabilities no longer hold: on these {len(scores)} pairs their calibration error is "
                f"{ece:.3f}, limit {ece_limit:.3f} (it was {calibration.ece:.3f}). {_REMEDY}",
            )
    return Drift(ece, ece_limit, shift[1], shift_limit[1], shift[0], shift_limit[0], tuple(warnings))


def _worth(cluster: NDArray[np.int64]) -> int:
    """How many independent pairs there are at least (Kish 1965)."""
    sizes = np.unique(cluster, return_counts=True)[1]
    return max(1, round(len(cluster) ** 2 / (sizes**2).sum()))


def _distance(scores: Floats, quantiles: tuple[float, ...]) -> float:
    """Largest distance of the scores' distribution to the stored one at its quantiles; a tie is no distance."""
    scores = np.sort(scores)
    level = np.linspace(0, 1, len(quantiles))
    below, upto = (np.searchsorted(scores, quantiles, side) / len(scores) for side in ("left", "right"))
    return float(max((below - level).max(), (level - upto).max(), 0.0))


def _ece(probabilities: Floats, labels: Labels, share: float) -> float:
    """The calibration error with the pairs weighted to a `share` of matches."""
    weights = prevalence.weighted(labels, share)
    return metrics.expected_calibration_error(probabilities, labels, weights=weights)


def _ece_by_chance(
    scores: Floats, share: float, pairs: int, calibration: Calibration, known: dict[int, int], seed: int
) -> float:
    """The calibration error on `pairs` such `scores`, a `share` of them matches, that ALPHA of honest maps exceed.

    Honest: labels come about as the stored map says, and the map was learnt from a finite sample of such labels. What
    the map was wrong by from the start is granted on top: how far the stored `ece` exceeds what chance explains there.
    """
    rng = np.random.default_rng(seed)
    fitted = isotonic_map if calibration.method == "isotonic" else platt_map
    stated, sampled, here = map(log_odds, (calibration.prevalence, calibration.sample_prevalence, share))
    calibrated = np.concatenate(
        [
            np.interp(rng.random(known[label]), np.linspace(0, 1, QUANTILES), quantiles)
            for label, quantiles in ((1, calibration.match_quantiles), (0, calibration.mismatch_quantiles))
        ]
    )

    def labelled(scores: Floats, odds: float) -> Labels:
        truth = shifted(scoring.probability(scores, calibration), odds - stated)
        return (rng.random(len(scores)) < truth).astype(np.int64)

    errors, first_errors = [], []
    for _ in range(TRIALS):
        learnt = rng.choice(calibrated, min(len(calibrated), MOST_PAIRS))
        asked = rng.choice(scores, min(pairs, MOST_PAIRS))
        labels, asked_labels = labelled(learnt, sampled), labelled(asked, here)
        if not (0 < labels.sum() < len(labels) and 0 < asked_labels.sum() < len(asked)):
            continue
        again = rng.choice(calibrated, len(learnt))
        found = fitted(learnt, labels, np.concatenate([asked, again]))
        corrected = shifted(found[: len(asked)], stated - sampled)
        errors.append(_ece(corrected, asked_labels, calibration.prevalence))
        first_errors.append(metrics.expected_calibration_error(found[len(asked) :], labelled(again, sampled)))
    if not errors:  # by the map all these pairs have one label: whatever the error is, it is not by chance
        return 0.0
    misfit = max(0.0, calibration.ece - float(np.mean(first_errors)))
    return misfit + float(np.quantile(errors, 1 - ALPHA))
