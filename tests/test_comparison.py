"""Comparisons on literal arrays: verdicts, paired intervals that hold, and metrics of both."""

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import pytest

from data_jobs.errors import InputError
from train_jobs import metrics
from train_jobs.bootstrap import estimate, resamples
from train_jobs.comparison import IMAGE_TO_TEXT, Scored, compare, measured

LABELS = np.array([1, 0] * 40)
PICTURES = np.repeat(np.arange(40), 2)  # a match and a mismatch of each
NOISE = np.random.default_rng(0).normal(size=80)
WEAK, STRONG = 0.5 * LABELS + NOISE, 3.0 * LABELS + NOISE


def test_the_same_scores_show_no_difference() -> None:
    found = compare(WEAK, WEAK.copy(), LABELS, PICTURES)
    assert found.verdict == "undecided"
    assert (found.auroc.value, found.auroc.low, found.auroc.high) == (0, 0, 0)
    assert (found.share_better, found.p_value) == (0.5, 1.0)
    assert found.sentence == (
        "B: no difference that 80 pairs of 40 pictures can show: AUROC +0.000 (95 % +0.000 to +0.000)."
    )


def test_a_clear_difference_is_seen_from_both_sides() -> None:
    up, down = compare(WEAK, STRONG, LABELS, PICTURES), compare(STRONG, WEAK, LABELS, PICTURES)
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert up.auroc.value == up.after - up.before == -down.auroc.value
    assert (up.auroc.low, up.auroc.high) == pytest.approx((-down.auroc.high, -down.auroc.low))
    assert (up.share_better, down.share_better) == (1, 0)
    assert up.p_value == down.p_value == pytest.approx(2 / 1001)
    assert up.sentence.startswith("B is better: AUROC +0.")
    assert down.sentence.startswith("B is worse: AUROC -0.")


def test_what_it_compares_is_the_auroc() -> None:
    labels, pictures = np.array([1, 1, 0, 0] * 5), np.arange(20)
    found = compare(np.tile([4, 2, 3, 1.0], 5), np.tile([4, 3, 2, 1.0], 5), labels, pictures, name="Ours")
    assert (found.before, found.after, found.auroc.value) == (0.75, 1.0, 0.25)
    assert found.sentence.startswith("Ours is better: AUROC +0.250 (95 % +0.")
    assert found.sentence.endswith(" on 20 pairs of 20 pictures.")


def test_pairing_makes_the_interval_narrower() -> None:
    """The two share what makes a picture hard; drawn apart, that noise would count twice."""
    paired = compare(WEAK, 0.7 * LABELS + NOISE, LABELS, PICTURES).auroc
    draws = zip(resamples(PICTURES, seed=1), resamples(PICTURES, seed=2), strict=True)
    apart = estimate(
        paired.value,
        (
            metrics.auroc((0.7 * LABELS + NOISE)[b], LABELS[b]) - metrics.auroc(WEAK[a], LABELS[a])
            for a, b in draws
        ),
    )
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)
    assert apart.low < 0 < paired.low


def test_pairs_of_one_picture_are_no_further_evidence() -> None:
    once = compare(WEAK, STRONG, LABELS, PICTURES)
    copied = compare(np.tile(WEAK, 3), np.tile(STRONG, 3), np.tile(LABELS, 3), np.tile(PICTURES, 3))
    assert (copied.auroc.low, copied.auroc.high) == pytest.approx((once.auroc.low, once.auroc.high))
    assert (copied.pairs, copied.pictures) == (240, 40)


def test_intervals_hold_the_true_difference_as_often_as_promised() -> None:
    """About 38 of 40 trials (2000 trials of the same kind gave 94.9 %)."""
    rng = np.random.default_rng(1)
    normal = NormalDist()
    # Scores of spread 1 around 0 and `shift`: AUROC is P(N(shift, 2) > 0).
    true = normal.cdf(1.4 / math.sqrt(2)) - normal.cdf(1.0 / math.sqrt(2))
    held = 0
    for trial in range(40):
        shared, own = rng.normal(size=80), rng.normal(size=(2, 80))
        scores = 0.8 * shared + 0.6 * own
        found = compare(
            scores[0] + 1.0 * LABELS, scores[1] + 1.4 * LABELS, LABELS, np.arange(80), seed=trial
        ).auroc
        held += found.low <= true <= found.high
    assert 35 <= held <= 39


def test_a_handful_of_pictures_is_no_verdict() -> None:
    found = compare(
        np.tile([2.0, 1, 1.5], 3), np.tile([3.0, 1, 1.5], 3), np.tile([1, 0, 1], 3), [0, 1, 2] * 3
    )
    assert found.verdict == "undecided"
    assert "9 pairs of 3 pictures are too few to tell (at least 10 pictures)" in found.sentence
    clear = compare(-STRONG[:18], STRONG[:18], LABELS[:18], PICTURES[:18])
    assert clear.pictures == 9 and clear.auroc.low > 0 and clear.verdict == "undecided"


@pytest.mark.parametrize(
    ("code", "after", "labels", "said"),
    [
        ("one_label", STRONG, np.ones(80, int), "80 pairs do not have both labels"),
        ("not_finite", np.where(np.arange(80) < 3, np.nan, STRONG), LABELS, "3 of 80 scores of model 2"),
        ("bad_arguments", STRONG[:79], LABELS, "[79, 80]"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    code: str, after: "np.ndarray", labels: "np.ndarray", said: str
) -> None:
    with pytest.raises(InputError) as refused:
        compare(WEAK, after, labels, PICTURES)
    assert refused.value.code == code
    assert said in refused.value.message


def test_probabilities_are_judged_at_the_share_of_matches_they_are_stated_for() -> None:
    """Two maps of the same cosines, one stated for half and one for 90 % matches: each is right where it is."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(-4, 4, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-scores))).astype(np.int64)
    here, there = (1 / (1 + np.exp(-scores - move)) for move in (0, math.log(9)))
    found = measured(
        [Scored(scores, probabilities=here), Scored(scores, probabilities=there, prevalence=0.9)],
        labels,
        np.arange(4000),
    )
    first, second = found.models
    assert first["ece"].value == pytest.approx(metrics.expected_calibration_error(here, labels))
    assert first["ece"].value < 0.03 and second["ece"].value < 0.03
    assert metrics.expected_calibration_error(there, labels) > 0.2
    share = labels.mean()
    weights = np.where(labels == 1, 0.9 / share, 0.1 / (1 - share))
    assert second["brier"].value == pytest.approx(np.average((there - labels) ** 2, weights=weights))


def test_a_resample_without_one_label_has_no_calibration_error() -> None:
    labels, scores = np.array([1, 1, 1, 0]), np.array([0.9, 0.8, 0.4, 0.3])
    (found,) = measured([Scored(scores, probabilities=scores, prevalence=0.9)], labels, np.arange(4)).models
    assert not any(
        math.isnan(value) for name in ("ece", "brier") for value in dataclasses.astuple(found[name])
    )


def test_all_metrics_of_both_and_their_differences() -> None:
    hits = np.where(LABELS == 1, np.arange(80) < 20, np.nan)  # 10 of 40 pictures find their text
    all_found = np.where(LABELS == 1, 1.0, np.nan)
    probabilities = 1 / (1 + np.exp(-STRONG))
    found = measured(
        [
            Scored(WEAK, 0.25, found_text=hits),
            Scored(STRONG, 1.5, probabilities, found_text=all_found),
            Scored(STRONG, None),
        ],
        LABELS,
        PICTURES,
    )
    weak, strong, bare = found.models
    assert weak["auroc"].value == pytest.approx(metrics.auroc(WEAK, LABELS))
    at = metrics.at_threshold(STRONG, LABELS, 1.5)
    assert {name: strong[name].value for name in at} == pytest.approx(at)
    assert strong["brier"].value == pytest.approx(metrics.brier(probabilities, LABELS))
    assert (weak[IMAGE_TO_TEXT].value, strong[IMAGE_TO_TEXT].value) == (0.25, 1)
    assert bare.keys() == {"auroc", "average_precision"}
    first, second = found.differences
    assert first.keys() == weak.keys()
    assert second.keys() == bare.keys()
    assert first["auroc"] == compare(WEAK, STRONG, LABELS, PICTURES).auroc
    assert first[IMAGE_TO_TEXT].value == 0.75
    assert 0.55 < first[IMAGE_TO_TEXT].low < 0.7 and 0.8 < first[IMAGE_TO_TEXT].high < 0.95
    for metric in strong.values():
        assert metric.low <= metric.value <= metric.high
