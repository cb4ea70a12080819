"""Calibration: scikit-learn and worked numbers as oracles, known truths recovered, no map without evidence."""

import dataclasses
import math

import numpy as np
import pytest
from cosines import Pairs, gaussians
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from data_jobs.errors import InputError
from train_jobs import metrics
from train_jobs.calibration import ISOTONIC_FROM, MIN_PAIRS_PER_LABEL, enough, fit
from train_jobs.scoring import probability
from train_jobs.spec import Calibration


def _bent(count: int, seed: int = 0) -> Pairs:
    """Pairs whose probability of a match is a stair in the cosine, which no sigmoid fits: .05, .5, .5 and .95."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 0.8, count)
    return scores, (rng.random(count) < np.array([0.05, 0.5, 0.5, 0.95])[(scores * 5).astype(int)]).astype(
        int
    )


def _platt(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    return fit(scores, labels, method="platt")


def test_platt_equals_unregularised_logistic_regression() -> None:
    scores, labels = gaussians(20_000, matches=0.24)  # on 20 000 overlapping pairs smoothing is negligible
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    oracle.fit((scores[:, None] - 0.2) * 30, labels)  # its solver needs inputs of order 1
    slope = oracle.coef_[0, 0] * 30
    platt = _platt(scores, labels)
    assert platt.slope == pytest.approx(slope, rel=2e-3)
    assert platt.intercept == pytest.approx(oracle.intercept_[0] - slope * 0.2, rel=2e-3)
    assert (platt.method, platt.pairs, platt.prevalence, platt.sample_prevalence) == (
        "platt",
        40_000,
        0.5,
        0.5,
    )


def test_platt_recovers_the_parameters_that_made_the_labels() -> None:
    rng = np.random.default_rng(1)
    scores = rng.uniform(0, 0.5, 100_000)
    labels = (rng.random(100_000) < expit(25 * scores - 6)).astype(int)
    platt = _platt(scores.astype(np.float32), labels)
    assert platt.slope == pytest.approx(25, rel=0.02)
    assert platt.intercept == pytest.approx(-6, rel=0.02)
    assert platt.prevalence == pytest.approx(labels.mean())


def test_platt_smooths_its_targets() -> None:
    """At two scores the fit meets the two smoothed targets (Platt 1999) exactly: worked by hand."""
    scores, labels = np.repeat([0.1, 0.4], [20, 10]), np.repeat([0, 1], [20, 10])
    platt = _platt(scores, labels)
    assert probability(0.4, platt) == pytest.approx(11 / 12, abs=1e-6)
    assert probability(0.1, platt) == pytest.approx(1 / 22, abs=1e-6)


@pytest.mark.parametrize("gap", [1e-4, 0.1, 1.0])
def test_perfectly_separable_scores_stay_finite(gap: float) -> None:
    scores = np.concatenate([np.linspace(0.2 + gap, 0.3 + gap, 50), np.linspace(0.1, 0.2, 50)])
    platt = _platt(scores, np.repeat([1, 0], 50))
    assert math.isfinite(platt.slope) and math.isfinite(platt.intercept)
    p = probability(scores, platt)
    assert p[:50].min() > 0.5 > p[50:].max()
    assert p.min() > 0 and p.max() < 1


def test_an_outlier_does_not_break_the_fit() -> None:
    scores, labels = gaussians(500)
    scores[0] = 40.0
    assert _platt(scores, labels).slope > 0


@pytest.mark.parametrize(("matches", "mismatches"), [(9, 100), (100, 9), (0, 0)])
def test_too_few_pairs_are_refused(matches: int, mismatches: int) -> None:
    labels = np.repeat([1, 0], [matches, mismatches])
    for refusing in (lambda: fit(labels * 0.5, labels), lambda: enough(labels)):
        with pytest.raises(InputError, match=f"{matches} matches and {mismatches} mismatches") as refusal:
            refusing()
        assert refusal.value.code == "too_few_pairs"


def test_just_enough_pairs_are_enough() -> None:
    labels = np.repeat([1, 0], MIN_PAIRS_PER_LABEL)
    enough(labels)
    assert fit(labels * 0.5, labels).slope > 0


def test_scores_that_rank_backwards_are_refused() -> None:
    scores, labels = gaussians(50)
    with pytest.raises(InputError, match="100 calibration pairs") as refusal:
        fit(scores, 1 - labels)
    assert refusal.value.code == "scores_do_not_rank"


@pytest.mark.parametrize("value", [0.1, 0.123, 0.3, 0.7])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_equal_scores_are_refused_whatever_their_rounding(value: float, kind: type[np.floating]) -> None:
    """A collapsed model gives every pair one score, whose mean rounds to something else."""
    with pytest.raises(InputError) as refusal:
        fit(np.full(101, value, kind), np.arange(101) % 2)
    assert refusal.value.code == "scores_do_not_rank"


def test_isotonic_equals_scikit_learn_on_the_training_points() -> None:
    """With a pair of each label added at both ends, as the docstring says; inside, they change nothing at all."""
    scores, labels = _bent(2000)
    found = probability(scores, fit(scores, labels, method="isotonic"))
    ends = [scores.min(), scores.min(), scores.max(), scores.max()]
    padded = IsotonicRegression().fit(np.append(scores, ends), np.append(labels, [0, 1, 0, 1]))
    np.testing.assert_allclose(found, padded.predict(scores), atol=1e-12)
    plain = IsotonicRegression().fit(scores, labels).predict(scores)
    inside = (scores > 0.25) & (scores < 0.55)
    np.testing.assert_allclose(found[inside], plain[inside], atol=1e-12)


def test_isotonic_ends_follow_the_rule_of_succession() -> None:
    """600 pure mismatches below 400 pure matches: 1/602 and 401/402."""
    labels = np.repeat([0, 1], [600, 400])
    scores = np.linspace(0.1, 0.5, 1000)
    found = fit(scores, labels, method="isotonic")
    assert [y for _, y in found.knots] == pytest.approx([1 / 602, 1 / 602, 401 / 402, 401 / 402])
    assert [x for x, _ in found.knots] == [scores[0], scores[599], scores[600], scores[999]]


@pytest.mark.parametrize("seed", range(3))
def test_knots_are_few_and_rise(seed: int) -> None:
    scores, labels = gaussians(1000, seed, matches=0.24)
    cosines, probabilities = np.array(fit(scores, labels, method="isotonic").knots).T
    assert (np.diff(cosines) > 0).all()
    assert (np.diff(probabilities) >= 0).all()
    assert probabilities.min() > 0 and probabilities.max() < 1
    assert len(cosines) < 100  # of 2000


def test_auto_takes_isotonic_where_it_is_better_and_there_are_enough_pairs() -> None:
    assert fit(*_bent(2000)).method == "isotonic"
    scores, labels = _bent(ISOTONIC_FROM - 1)
    assert fit(scores, labels).method == "platt"
    assert fit(*_bent(2000), method="platt").method == "platt"
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 0.5, 3000)
    assert fit(scores, (rng.random(3000) < expit(25 * scores - 6)).astype(int)).method == "platt"


def test_isotonic_is_refused_below_its_limit() -> None:
    with pytest.raises(InputError, match=r"999 pairs.*1000") as refusal:
        fit(*_bent(999), method="isotonic")
    assert refusal.value.code == "too_few_pairs"


def test_slope_and_intercept_are_always_those_of_platt() -> None:
    isotonic, platt = fit(*_bent(2000), method="isotonic"), _platt(*_bent(2000))
    assert (isotonic.slope, isotonic.intercept) == (platt.slope, platt.intercept)


def test_the_error_is_measured_out_of_fold() -> None:
    """Scores that say nothing but how to memorise them: each pair of products is twice there with one label."""
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.uniform(0, 1, 600), 2)
    labels = np.repeat((rng.random(600) < 0.45 + 0.1 * scores[::2]).astype(int), 2)
    products = np.repeat(np.arange(600), 2)
    together = fit(scores, labels, method="isotonic", clusters=products)
    fitted = metrics.expected_calibration_error(probability(scores, together), labels)
    assert (
        fitted < 0.01 < together.ece
    )  # in sample isotonic regression is perfectly calibrated by construction


def test_clusters_stay_in_one_fold() -> None:
    """120 products of 10 equal pairs each: folds that part them would learn the very pairs they are asked for."""
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.uniform(0, 1, 120), 10)
    labels = np.repeat((rng.random(120) < 0.3 + 0.4 * scores[::10]).astype(int), 10)
    products = np.repeat([f"product {number}" for number in range(120)], 10)
    parted = fit(scores, labels, method="isotonic")
    together = fit(scores, labels, method="isotonic", clusters=products)
    assert together.ece > 2 * parted.ece
    assert fit(scores, labels).method == "isotonic"  # fooled
    assert fit(scores, labels, clusters=products).method == "platt"


def test_one_cluster_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match="All 40 calibration pairs") as refusal:
        fit(*gaussians(20), clusters=["mug"] * 40)
    assert refusal.value.code == "too_few_clusters"


def test_quantiles_and_fingerprint_are_kept() -> None:
    scores, labels = gaussians(200)
    found = fit(scores, labels, data_fingerprint="00ff")
    assert found.data_fingerprint == "00ff"
    assert len(found.match_quantiles) == len(found.mismatch_quantiles) == 21
    assert found.match_quantiles[0] == scores[:200].min()
    assert found.match_quantiles[10] == pytest.approx(np.median(scores[:200]))
    assert found.mismatch_quantiles[-1] == scores[200:].max()


def test_the_seed_deals_the_folds_and_never_changes_the_map() -> None:
    pairs = gaussians(100, matches=0.24)
    first, again, other = (fit(*pairs, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.ece != other.ece
    assert dataclasses.replace(other, ece=first.ece) == first


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_correction_moves_the_log_odds(method: str) -> None:
    """From half to 9 of 10 matches: by log 9."""
    scores, labels = gaussians(1000, matches=0.24)
    plain, corrected = (fit(scores, labels, method=method, prevalence=share) for share in (None, 0.9))
    assert (corrected.sample_prevalence, corrected.prevalence) == (0.5, 0.9)
    asked = np.array(plain.knots)[:, 0] if method == "isotonic" else np.linspace(0.1, 0.4, 31)
    moved = logit(probability(asked, corrected)) - logit(probability(asked, plain))
    np.testing.assert_allclose(moved, math.log(9), atol=1e-9)
    assert corrected.intercept - plain.intercept == pytest.approx(math.log(9))
    assert corrected.ece == plain.ece


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_a_correction_holds_where_the_matches_are_that_many(method: str, share: float) -> None:
    """Calibrated on halves, used where `share` are matches: the probabilities are those of a fit made there."""
    corrected = fit(*gaussians(5000, 1, matches=0.25), method=method, prevalence=share)
    uncorrected = fit(*gaussians(5000, 1, matches=0.25), method=method)
    scores, labels = gaussians(20_000, 2, matches=0.25)
    keep = np.concatenate([np.arange(int(20_000 * share)), 20_000 + np.arange(int(20_000 * (1 - share)))])
    scores, labels = scores[keep], labels[keep]
    assert metrics.expected_calibration_error(probability(scores, corrected), labels) < 0.015
    assert metrics.expected_calibration_error(probability(scores, uncorrected), labels) > 0.1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 90, math.nan])
def test_an_impossible_prevalence_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=f"prevalence is {share}") as refusal:
        fit(*gaussians(20), prevalence=share)
    assert refusal.value.code == "bad_prevalence"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 0.02, 0.97]), st.sampled_from(["platt", "isotonic"]))
def test_every_map_is_monotone_and_within_0_and_1(seed: int, share: float | None, method: str) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(0.2, 0.1, 1000), int(rng.integers(1, 6)))  # with ties
    labels = (rng.random(1000) < expit(rng.uniform(3, 60) * (scores - 0.2))).astype(int)
    found = fit(scores, labels, method=method, prevalence=share)
    p = probability(np.linspace(-1, 1, 500), found)
    assert (np.diff(p) >= -1e-12).all()
    assert p.min() >= 0 and p.max() <= 1
