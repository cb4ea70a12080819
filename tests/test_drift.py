"""Drift: no alarm on more of the same, one on what moved, and SciPy as oracle of the distance."""

import math

import numpy as np
import pytest
from cosines import gaussians
from scipy.stats import ks_2samp

from train_jobs import metrics
from train_jobs.calibration import MIN_PAIRS_PER_LABEL, fit
from train_jobs.drift import LEAST_ECE, holds
from train_jobs.scoring import probability


@pytest.mark.parametrize(("known", "fresh"), [(30, 30), (30, 500), (300, 50)])
def test_a_calibration_holds_on_more_of_the_same(known: int, fresh: int) -> None:
    alarms = 0
    for seed in range(4):
        calibration = fit(*gaussians(known, seed, matches=0.26))
        drift = holds(*gaussians(fresh, 1000 + seed, matches=0.26), calibration)
        alarms += bool(drift.warnings)
        assert drift.ece_limit >= LEAST_ECE
    assert alarms <= 1


def test_another_share_of_matches_alone_is_no_drift() -> None:
    calibration = fit(*gaussians(500, matches=0.26), prevalence=0.7)
    scores, labels = gaussians(2000, 1, matches=0.26)
    drift = holds(scores[1800:], labels[1800:], calibration)  # 200 matches, 2000 mismatches
    assert drift.warnings == ()
    bare = metrics.expected_calibration_error(probability(scores[1800:], calibration), labels[1800:])
    assert drift.ece < 0.06 < bare


def test_all_cosines_lower_is_drift() -> None:
    calibration = fit(*gaussians(200, matches=0.26))
    scores, labels = gaussians(200, 1, matches=0.26)
    drift = holds(scores - 0.03, labels, calibration)
    assert drift.ece > drift.ece_limit
    assert drift.match_shift > drift.match_shift_limit
    assert drift.mismatch_shift > drift.mismatch_shift_limit
    error, of_matches, of_mismatches = drift.warnings
    assert f"{drift.ece:.3f}, limit {drift.ece_limit:.3f}" in error
    assert "400 pairs" in error
    assert f"distance {drift.match_shift:.3f}, limit {drift.match_shift_limit:.3f}" in of_matches
    assert "200 matches" in of_matches and "200 mismatches" in of_mismatches
    assert f"{np.median(scores[:200] - 0.03):.3f} and was {calibration.match_quantiles[10]:.3f}" in of_matches
    assert all("Calibrate again" in warning for warning in drift.warnings)


def test_matches_that_look_like_mismatches_are_drift() -> None:
    calibration = fit(*gaussians(100, matches=0.26))
    drift = holds(*gaussians(100, 1, matches=0.23), calibration)
    assert drift.match_shift > drift.match_shift_limit
    assert drift.mismatch_shift <= drift.mismatch_shift_limit


def test_drift_of_an_isotonic_map() -> None:
    calibration = fit(*gaussians(600, matches=0.26), method="isotonic")
    assert holds(*gaussians(300, 1, matches=0.26), calibration).warnings == ()
    drift = holds(*gaussians(300, 1, matches=0.24), calibration)
    assert drift.ece > drift.ece_limit


def test_scores_that_a_map_thinks_impossible_are_drift() -> None:
    """So far off that every simulated label is a mismatch: no chance explains the matches."""
    calibration = fit(*gaussians(200))
    scores, labels = gaussians(50, 1)
    drift = holds(scores - 0.5, labels, calibration)
    assert drift.ece == pytest.approx(0.5, abs=0.01)
    assert drift.ece > drift.ece_limit
    assert len(drift.warnings) == 3


def test_one_label_alone_is_judged_by_its_cosines() -> None:
    calibration = fit(*gaussians(200, matches=0.26))
    scores, labels = gaussians(200, 1, matches=0.26)
    few = np.arange(200 + MIN_PAIRS_PER_LABEL - 1)  # too few mismatches to say anything of them
    drift = holds(scores[few], labels[few], calibration)
    assert drift.warnings == ()
    assert math.isnan(drift.ece) and math.isnan(drift.mismatch_shift_limit)
    (warning,) = holds(scores[:200] - 0.02, labels[:200], calibration).warnings
    assert "200 matches" in warning


def test_copies_are_no_evidence_of_drift() -> None:
    """20 pairs a label 20 times over: as clusters they are 20, which may well look unlike the rest."""
    calibration = fit(*gaussians(500, matches=0.26))
    scores, labels = gaussians(20, 9, matches=0.26)
    scores, labels = np.tile(scores, 20), np.tile(labels, 20)
    assert holds(scores, labels, calibration).warnings
    assert holds(scores, labels, calibration, clusters=np.tile(np.arange(40), 20).tolist()).warnings == ()


def test_the_shift_equals_scipy_at_the_quantiles() -> None:
    """Of 20 001 pairs each, 21 quantiles miss hardly anything of the largest distance."""
    known, fresh = gaussians(20_001, matches=0.26), gaussians(20_001, 1, matches=0.27)
    drift = holds(*fresh, fit(*known))
    oracle = ks_2samp(known[0][:20_001], fresh[0][:20_001]).statistic
    assert drift.match_shift == pytest.approx(oracle, abs=0.01)
    assert drift.match_shift <= oracle + 1e-3


def test_ties_are_no_distance() -> None:
    """Two cosines in all, half the pairs on each: the same again is no shift."""
    scores, labels = np.tile([0.2, 0.3], 100), np.repeat([1, 0], 100)
    scores[100:] -= 0.05
    drift = holds(scores, labels, fit(scores, labels))
    assert drift.match_shift == pytest.approx(0, abs=1e-12)
