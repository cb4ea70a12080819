"""Thresholds: worked numbers and brute force as oracles, and no promise without evidence."""

import math
import time

import numpy as np
import pytest
from cosines import Pairs, gaussians
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from data_jobs.errors import InputError
from train_jobs import metrics
from train_jobs.thresholds import check_policy, choose_threshold

# Ten of each label: between .40 and .50 Youden gains most, .8 of the matches less .1 of the mismatches.
MATCHES = [0.1, 0.3, 0.5, 0.5, 0.5, 0.6, 0.6, 0.7, 0.8, 0.9]
MISMATCHES = [0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.6]
LITERAL = (np.array(MATCHES + MISMATCHES), np.repeat([1, 0], 10))
RARE = (np.concatenate([np.tile(MATCHES, 4), MISMATCHES]), np.repeat([1, 0], [40, 10]))


def _value(pairs: Pairs, policy: str, prevalence: float | None = None) -> float:
    return choose_threshold(*pairs, policy=policy, prevalence=prevalence, resamples=10).value


@pytest.mark.parametrize(("matches", "mismatches"), [(9, 100), (100, 9), (0, 0)])
def test_too_few_pairs_are_refused(matches: int, mismatches: int) -> None:
    labels = np.repeat([1, 0], [matches, mismatches])
    with pytest.raises(InputError, match=f"{matches} matches and {mismatches} mismatches") as refusal:
        choose_threshold(labels * 0.5, labels)
    assert refusal.value.code == "too_few_pairs"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 90, math.nan])
def test_an_impossible_prevalence_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=f"prevalence is {share}") as refusal:
        choose_threshold(*gaussians(20), prevalence=share)
    assert refusal.value.code == "bad_prevalence"


def test_youden_on_literal_scores() -> None:
    threshold = choose_threshold(*LITERAL, policy="youden")
    assert (threshold.policy, threshold.prevalence) == ("youden", 0.5)
    assert threshold.value == pytest.approx(0.45)


def test_max_f1_on_literal_scores() -> None:
    """F1 counts hits, so with few mismatches it is more lenient: .25 hits 9 of 10 with 3 false alarms of 10."""
    # .25: 36 hits, 3 alarms, F1 = 72/79; .45: 32 hits, 1 alarm, 64/73; .05: 40 hits, 8 alarms, 80/88
    assert _value(RARE, "max-f1") == pytest.approx(0.25)
    assert _value(RARE, "youden") == pytest.approx(0.45)


def test_max_f1_counts_at_the_prevalence() -> None:
    """4 matches to a mismatch by weights is the same as by pairs."""
    assert _value(LITERAL, "max-f1", 0.8) == pytest.approx(0.25)
    assert _value(RARE, "max-f1", 0.5) == _value(LITERAL, "max-f1") == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("target", "value"),
    # from .05: 40 of 48 are matches; from .15: 36 of 41; from .25: 36 of 39; from .35: 32 of 35; from .45: 32 of 33
    [(0.83, 0.05), (0.84, 0.15), (0.87, 0.15), (0.9, 0.25), (0.93, 0.45)],
)
def test_precision_on_literal_scores(target: float, value: float) -> None:
    assert _value(RARE, f"precision={target}") == pytest.approx(value)


def test_precision_counts_at_the_prevalence() -> None:
    """Ten to ten by pairs; from .25 are 9 and 3: 9 / 12 at half, 36 / 39 at four to one."""
    assert _value(LITERAL, "precision=0.75") == pytest.approx(0.25)
    assert _value(LITERAL, "precision=0.9", 0.8) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("target", "value"), [(0.95, 0.05), (0.9, 0.25), (0.85, 0.25), (0.8, 0.45), (0.5, 0.55)]
)
def test_recall_on_literal_scores(target: float, value: float) -> None:
    assert _value(LITERAL, f"recall={target}") == pytest.approx(value)


def test_where_the_lowest_score_is_a_match_full_recall_calls_everything_a_match() -> None:
    assert _value((np.linspace(0, 1, 20), np.repeat([1, 0, 1], [5, 10, 5])), "recall=0.95") == 0.0


def test_a_precision_that_no_threshold_reaches_is_refused_with_the_best() -> None:
    """From .45 on 8 of 9 are matches, but 9 are too few to judge by: of the rest 9 of 12, from .25 on, is the best."""
    with pytest.raises(
        InputError, match=r"0\.85 on 20 pairs.* 10 called.* best is 0\.7500 at 0\.2500"
    ) as refusal:
        choose_threshold(*LITERAL, policy="precision=0.85")
    assert refusal.value.code == "unreachable_target"
    assert "precision=0.75" in refusal.value.suggestion


def test_a_lucky_top_is_no_precision() -> None:
    """The best 12 of 200 are matches, all others are mixed: too few to promise 19 of 20, enough for 11 of 12."""
    scores = np.arange(200) / 200
    labels = np.append(np.arange(188) % 2, np.ones(12, int))
    with pytest.raises(InputError, match="at least 20 called") as refusal:
        choose_threshold(scores, labels, policy="precision=0.95")
    assert refusal.value.code == "unreachable_target"
    # from 187/200 on 13 of 13 are matches, from 185/200 14 of 15: the cut below the latter is the lowest
    assert _value((scores, labels), "precision=0.9") == pytest.approx(184.5 / 200)


def test_a_precision_that_needs_more_pairs_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 1000 pairs.* there are 40") as refusal:
        choose_threshold(*gaussians(20), policy="precision=0.999")
    assert refusal.value.code == "unreachable_target"


@pytest.mark.parametrize(
    "policy",
    ["best", "", "precision", "precision=", "precision=95", "precision=1", "precision=0", "recall=-0.5",
     "recall=nan", "youden=0.5", "f1", "Recall=0.5"],
)  # fmt: skip
def test_nonsense_is_no_policy(policy: str) -> None:
    for refusing in (lambda: check_policy(policy), lambda: choose_threshold(*LITERAL, policy=policy)):
        with pytest.raises(InputError, match=repr(policy)) as refusal:
            refusing()
        assert refusal.value.code == "bad_policy"
        assert "max-f1" in refusal.value.suggestion


@pytest.mark.parametrize("policy", ["youden", "max-f1", "precision=0.95", "recall=.9"])
def test_the_policies_are_known_before_any_score_is(policy: str) -> None:
    check_policy(policy)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["youden", "max-f1", "precision=0.6", "precision=0.8", "recall=0.5", "recall=0.9"]),
    st.sampled_from([None, 0.2, 0.9]),
)
def test_no_other_threshold_is_better(seed: int, policy: str, prevalence: float | None) -> None:
    """Brute force over every threshold that parts the scores differently, by plain counting."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], rng.integers(10, 20, 2))
    scores = np.round(rng.normal(0.2 + 0.1 * labels, 0.1), int(rng.integers(1, 4)))
    share = labels.mean() if prevalence is None else prevalence

    def rates(cut: float) -> tuple[float, float, int]:
        called = scores >= cut
        return called[labels == 1].mean(), called[labels == 0].mean(), called.sum()

    def precision(cut: float) -> float:
        recall, alarms, _ = rates(cut)
        return share * recall / (share * recall + (1 - share) * alarms)

    def gain(cut: float) -> float:
        recall, alarms, _ = rates(cut)
        if policy == "youden":
            return recall - alarms
        return 2 / (1 / recall + 1 / precision(cut)) if recall else 0.0

    cuts = np.unique(scores)  # each calls other pairs a match than the one before
    kind, _, target = policy.partition("=")
    if kind == "precision":
        good = [cut for cut in cuts if rates(cut)[2] >= 10 and precision(cut) >= float(target) - 1e-9]
        if not good:
            with pytest.raises(InputError) as refusal:
                _value((scores, labels), policy, prevalence)
            assert refusal.value.code == "unreachable_target"
            best = max(precision(cut) for cut in cuts if rates(cut)[2] >= 10)
            assert f"best is {best:.4f}" in refusal.value.message
            return
        expected = rates(min(good))
    elif kind == "recall":
        expected = rates(max(cut for cut in cuts if rates(cut)[0] >= float(target) - 1e-9))
    else:  # to call everything a match parts nothing
        chosen = _value((scores, labels), policy, prevalence)
        assert gain(chosen) == pytest.approx(max(gain(cut) for cut in cuts[1:]))
        return
    assert rates(_value((scores, labels), policy, prevalence)) == expected


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


def test_between_neighbouring_floats_the_upper_is_the_threshold() -> None:
    low = 0.3
    scores = np.repeat([math.nextafter(low, 1), low], 10)
    assert choose_threshold(scores, np.repeat([1, 0], 10)).value == scores[0]


@pytest.mark.parametrize("policy", ["youden", "max-f1", "recall=0.9", "precision=0.5"])
def test_equal_scores_have_one_cut(policy: str) -> None:
    threshold = choose_threshold(np.full(20, 0.25), np.repeat([1, 0], 10), policy=policy)
    assert (threshold.value, threshold.low, threshold.high) == (0.25, 0.25, 0.25)
    assert (threshold.precision.value, threshold.recall.value) == (0.5, 1.0)


def test_the_interval_covers_the_truth() -> None:
    """Two gaussians of equal width are best parted halfway; 95 % intervals may miss now and then."""
    covered = 0
    for seed in range(40):
        threshold = choose_threshold(*gaussians(25, seed, matches=0.26), resamples=100, seed=seed)
        covered += threshold.low <= 0.23 <= threshold.high
        assert threshold.low <= threshold.value <= threshold.high
    assert covered >= 36


@pytest.mark.parametrize("policy", ["youden", "max-f1", "precision=0.9", "recall=0.9"])
def test_promises_are_kept_on_fresh_samples(policy: str) -> None:
    """Of 40 fresh samples at least 35 lie within: a 95 % interval falls short of that in 1 of 70 such tests."""
    kept = np.zeros(2)
    for seed in range(40):
        found = choose_threshold(*gaussians(50, seed, matches=0.26), policy=policy, resamples=50, seed=seed)
        fresh = metrics.at_threshold(*gaussians(50, 1000 + seed, matches=0.26), found.value)
        kept += [promise.low - 1e-9 <= fresh[name] <= promise.high + 1e-9
                 for name, promise in (("precision", found.precision), ("recall", found.recall))]  # fmt: skip
    assert kept.min() >= 35


def test_promises_are_less_optimistic_than_what_was_seen() -> None:
    seen, promised = [], []
    for seed in range(60):
        pairs = gaussians(50, seed, matches=0.26)
        found = choose_threshold(*pairs, resamples=50, seed=seed)
        recall, alarms = norm.sf(found.value, (0.26, 0.20), 0.03)
        seen.append(metrics.at_threshold(*pairs, found.value)["precision"] - recall / (recall + alarms))
        promised.append(found.precision.value - recall / (recall + alarms))
    assert 0.02 < np.mean(seen) < 0.06
    assert abs(np.mean(promised)) < 0.75 * np.mean(seen)


def test_promises_know_of_pairs_that_are_not_independent() -> None:
    """Four copies of every pair are no more evidence than one."""
    scores, labels = gaussians(60, matches=0.24)
    one = choose_threshold(scores, labels)
    copied = np.tile(scores, 4), np.tile(labels, 4)
    together = choose_threshold(*copied, clusters=np.tile(np.arange(120), 4).tolist())
    alone = choose_threshold(*copied)
    for name in ("precision", "recall"):
        width = {key: getattr(found, name).high - getattr(found, name).low
                 for key, found in (("one", one), ("together", together), ("alone", alone))}  # fmt: skip
        assert width["together"] == pytest.approx(width["one"], rel=0.15)
        assert width["alone"] < 0.65 * width["one"]


def test_no_error_seen_is_no_promise_of_none() -> None:
    """30 of 30 right: another 30 may well show a few errors; 3000 of 3000 leave room for hardly any."""
    few, many = (choose_threshold(*gaussians(count, spread=0.005), resamples=50) for count in (30, 3000))
    assert few.precision.value == many.precision.value == 1.0
    assert few.precision.low < 0.95
    assert many.precision.low > 0.998


def test_the_promise_is_made_at_the_prevalence() -> None:
    """By hand, at 1 match in 10: the true precision of the threshold on these gaussians."""
    found = choose_threshold(*gaussians(2000, matches=0.26), prevalence=0.1, resamples=50)
    recall, alarms = norm.sf(found.value, (0.26, 0.20), 0.03)
    assert found.prevalence == 0.1
    assert found.precision.value == pytest.approx(0.1 * recall / (0.1 * recall + 0.9 * alarms), abs=0.03)
    assert found.recall.value == pytest.approx(recall, abs=0.03)


def test_more_pairs_narrow_the_intervals() -> None:
    few, many = (choose_threshold(*gaussians(count, matches=0.26), resamples=200) for count in (100, 2000))
    assert 0 < many.high - many.low < (few.high - few.low) / 2
    assert many.precision.high - many.precision.low < (few.precision.high - few.precision.low) / 2


def test_the_seed_decides_the_interval_and_never_the_value() -> None:
    pairs = gaussians(50)
    first, again, other = (choose_threshold(*pairs, resamples=100, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.value == other.value


def test_a_thousand_pairs_take_seconds() -> None:
    start = time.perf_counter()
    choose_threshold(*gaussians(500, matches=0.25))
    assert time.perf_counter() - start < 15  # about 1 on an idle core
