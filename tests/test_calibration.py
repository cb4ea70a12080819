"""Calibration: scikit-learn as oracle, known truths recovered, and no promise without evidence."""

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from data_jobs.errors import InputError
from train_jobs.calibration import MIN_PAIRS_PER_LABEL, choose_threshold, fit_platt
from train_jobs.scoring import probability

Pairs = tuple[np.ndarray, np.ndarray]


def _gaussians(
    count: int, seed: int = 0, matches: float = 0.30, mismatches: float = 0.20, spread: float = 0.03
) -> Pairs:
    """`count` cosines each of matches and mismatches."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(matches, spread, count), rng.normal(mismatches, spread, count)])
    return scores, np.repeat([1, 0], count)


def test_platt_equals_unregularised_logistic_regression() -> None:
    scores, labels = _gaussians(20_000, matches=0.24)  # on 20 000 overlapping pairs smoothing is negligible
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    oracle.fit((scores[:, None] - 0.2) * 30, labels)  # its solver needs inputs of order 1
    slope = oracle.coef_[0, 0] * 30
    platt = fit_platt(scores, labels)
    assert platt.slope == pytest.approx(slope, rel=2e-3)
    assert platt.intercept == pytest.approx(oracle.intercept_[0] - slope * 0.2, rel=2e-3)
    assert (platt.method, platt.pairs, platt.prevalence) == ("platt", 40_000, 0.5)


def test_platt_recovers_the_parameters_that_made_the_labels() -> None:
    rng = np.random.default_rng(1)
    scores = rng.uniform(0, 0.5, 100_000)
    labels = (rng.random(100_000) < expit(25 * scores - 6)).astype(int)
    platt = fit_platt(scores.astype(np.float32), labels)
    assert platt.slope == pytest.approx(25, rel=0.02)
    assert platt.intercept == pytest.approx(-6, rel=0.02)
    assert platt.prevalence == pytest.approx(labels.mean())


def test_platt_smooths_its_targets() -> None:
    """At two scores the fit meets the two smoothed targets (Platt 1999) exactly: worked by hand."""
    scores, labels = np.repeat([0.1, 0.4], [20, 10]), np.repeat([0, 1], [20, 10])
    platt = fit_platt(scores, labels)
    assert probability(0.4, platt) == pytest.approx(11 / 12, abs=1e-6)
    assert probability(0.1, platt) == pytest.approx(1 / 22, abs=1e-6)


@pytest.mark.parametrize("gap", [1e-4, 0.1, 1.0])
def test_perfectly_separable_scores_stay_finite(gap: float) -> None:
    scores = np.concatenate([np.linspace(0.2 + gap, 0.3 + gap, 50), np.linspace(0.1, 0.2, 50)])
    platt = fit_platt(scores, np.repeat([1, 0], 50))
    assert math.isfinite(platt.slope) and math.isfinite(platt.intercept)
    p = probability(scores, platt)
    assert p[:50].min() > 0.5 > p[50:].max()
    assert p.min() > 0 and p.max() < 1


def test_probability_rises_with_the_cosine() -> None:
    platt = fit_platt(*_gaussians(50))
    assert (np.diff(probability(np.linspace(-1, 1, 101), platt)) >= 0).all()
    assert (np.diff(probability(np.linspace(0.1, 0.4, 101), platt)) > 0).all()


def test_an_outlier_does_not_break_the_fit() -> None:
    scores, labels = _gaussians(500)
    scores[0] = 40.0
    assert fit_platt(scores, labels).slope > 0


@pytest.mark.parametrize(("matches", "mismatches"), [(9, 100), (100, 9), (0, 0)])
def test_too_few_pairs_are_refused(matches: int, mismatches: int) -> None:
    labels = np.repeat([1, 0], [matches, mismatches])
    for fit in (fit_platt, choose_threshold):
        with pytest.raises(InputError, match=f"{matches} matches and {mismatches} mismatches") as refusal:
            fit(labels * 0.5, labels)
        assert refusal.value.code == "too_few_pairs"


def test_just_enough_pairs_are_enough() -> None:
    labels = np.repeat([1, 0], MIN_PAIRS_PER_LABEL)
    assert fit_platt(labels * 0.5, labels).slope > 0


def test_scores_that_rank_backwards_are_refused() -> None:
    scores, labels = _gaussians(50)
    with pytest.raises(InputError, match="100 calibration pairs") as refusal:
        fit_platt(scores, 1 - labels)
    assert refusal.value.code == "scores_do_not_rank"


@pytest.mark.parametrize("value", [0.1, 0.123, 0.3, 0.7])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_equal_scores_are_refused_whatever_their_rounding(value: float, kind: type[np.floating]) -> None:
    """A collapsed model gives every pair one score, whose mean rounds to something else."""
    with pytest.raises(InputError) as refusal:
        fit_platt(np.full(101, value, kind), np.arange(101) % 2)
    assert refusal.value.code == "scores_do_not_rank"


# Ten of each label: between .40 and .50 Youden gains most, .8 of the matches less .1 of the mismatches.
MATCHES = [0.1, 0.3, 0.5, 0.5, 0.5, 0.6, 0.6, 0.7, 0.8, 0.9]
MISMATCHES = [0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.6]
LITERAL = (np.array(MATCHES + MISMATCHES), np.repeat([1, 0], 10))


def test_youden_on_literal_scores() -> None:
    threshold = choose_threshold(*LITERAL, policy="youden")
    assert threshold.policy == "youden"
    assert threshold.value == pytest.approx(0.45)


def test_max_f1_on_literal_scores() -> None:
    """F1 counts hits, so with few mismatches it is more lenient: .25 hits 9 of 10 with 3 false alarms of 10."""
    scores, labels = LITERAL
    rare = np.concatenate([np.tile(scores[:10], 4), scores[10:]])  # 40 matches, 10 mismatches
    labels = np.repeat([1, 0], [40, 10])
    threshold = choose_threshold(rare, labels, policy="max-f1")
    # .25: 36 hits, 3 alarms, F1 = 72/79; .45: 32 hits, 1 alarm, 64/73; .05: 40 hits, 8 alarms, 80/88
    assert threshold.value == pytest.approx(0.25)
    assert choose_threshold(rare, labels, policy="youden").value == pytest.approx(0.45)


@pytest.mark.parametrize("policy", ["youden", "max-f1"])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_cut_is_better(policy: str, seed: int) -> None:
    scores, labels = _gaussians(60, seed, matches=0.24)

    def gain(cut: float) -> float:
        match = scores >= cut
        hits, alarms = (match & (labels == 1)).sum(), (match & (labels == 0)).sum()
        return hits / 60 - alarms / 60 if policy == "youden" else 2 * hits / (hits + alarms + 60)

    chosen = choose_threshold(scores, labels, policy=policy, resamples=1).value
    inner = np.sort(scores)[1:]  # "all match" and "none match" part nothing and are no candidates
    assert gain(chosen) == pytest.approx(max(gain(cut) for cut in inner))


def test_the_threshold_is_the_middle_of_the_gap() -> None:
    labels = np.repeat([1, 0], 10)
    scores = np.where(labels == 1, 0.75, 0.25)
    threshold = choose_threshold(scores, labels)
    assert (threshold.value, threshold.low, threshold.high) == (0.5, 0.5, 0.5)


def test_of_a_plateau_the_middle_is_chosen() -> None:
    scores = np.array([0.0] * 8 + [0.2, 0.3] + [0.1, 0.25] + [0.4] * 8)
    labels = np.repeat([0, 1], 10)
    # the cuts .05, .15, .225, .275 and .35 gain .8, .7, .8, .7 and .8
    assert choose_threshold(scores, labels).value == pytest.approx(0.225)


def test_equal_scores_have_one_cut() -> None:
    assert choose_threshold(np.full(20, 0.25), np.repeat([1, 0], 10)).value == 0.25


def test_the_interval_covers_the_truth() -> None:
    """Two gaussians of equal width are best parted halfway; 95 % intervals may miss now and then."""
    covered, widths = 0, []
    for seed in range(20):
        threshold = choose_threshold(*_gaussians(150, seed), seed=seed)
        covered += threshold.low <= 0.25 <= threshold.high
        widths.append(threshold.high - threshold.low)
        assert threshold.low <= threshold.value <= threshold.high
        assert threshold.value == pytest.approx(0.25, abs=0.03)
    assert covered >= 17
    assert max(widths) < 0.06


def test_more_pairs_narrow_the_interval() -> None:
    few, many = (choose_threshold(*_gaussians(count)) for count in (300, 10_000))
    assert 0 < many.high - many.low < (few.high - few.low) / 2


def test_the_seed_decides_the_interval_and_never_the_value() -> None:
    pairs = _gaussians(50)
    first, again, other = (choose_threshold(*pairs, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.value == other.value


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="'best'") as refusal:
        choose_threshold(*LITERAL, policy="best")
    assert refusal.value.code == "bad_policy"
    assert "max-f1" in refusal.value.suggestion
