"""Outcome: what a training is told to have come to, on literal scores."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray

from train_jobs import calibration, metrics, scoring, thresholds
from train_jobs.outcome import Outcome, Policy, described, judge
from train_jobs.spec import Estimate, Threshold

COUNT = 200
LABELS = np.arange(COUNT) % 2
HELD_OUT = replace(tiny.pairs(COUNT, mismatches=tuple(range(0, COUNT, 2))), fingerprint="held out")
SPEC = tiny.encoder().spec
POLICY = Policy(method="auto", threshold="youden", prevalence=None, seed=0)


def _scores(apart: float, seed: int = 0) -> NDArray[np.float32]:
    """Cosines whose matches lie `apart` standard deviations above the mismatches."""
    noise = np.random.default_rng(seed).normal(size=COUNT)
    return (0.3 + 0.1 * (noise + apart * LABELS)).astype(np.float32)


def _judged(after: float, before: float = 1.0, **policy: object) -> Outcome:
    return judge(SPEC, _scores(after), _scores(before, seed=1), HELD_OUT, replace(POLICY, **policy))


def test_a_model_that_learned_is_calibrated_without_a_word() -> None:
    scores, before = _scores(3.0), _scores(0.5, seed=1)
    found = judge(SPEC, scores, before, HELD_OUT, POLICY)
    assert found.warnings == ()
    assert found.against_start.verdict == "better"
    assert found.against_start.sentence.startswith("the trained model is better: AUROC +0.")
    fitted = found.spec.calibration
    assert fitted == calibration.fit(
        scores, LABELS, clusters=HELD_OUT.picture_ids, data_fingerprint="held out", seed=0
    )
    assert found.spec.threshold == thresholds.choose_threshold(
        scores, LABELS, policy="youden", clusters=HELD_OUT.picture_ids, seed=0
    )
    assert fitted is not None
    assert found.metrics == found.spec.metrics == {
        "auroc": metrics.auroc(scores, LABELS),
        "auroc_before_training": metrics.auroc(before, LABELS),
        "average_precision": metrics.average_precision(scores, LABELS),
        "ece": fitted.ece,
        "brier": metrics.brier(scoring.probability(scores, fitted), LABELS),
    }  # fmt: skip


def test_a_model_that_got_worse_is_kept_with_a_loud_warning() -> None:
    found = _judged(after=0.5, before=3.0)
    assert found.against_start.verdict == "worse"
    (warning,) = found.warnings
    assert "WORSE" in warning and found.against_start.sentence in warning and "--learning-rate" in warning
    assert found.spec.calibration is not None and found.spec.threshold is not None


def test_no_difference_is_no_warning() -> None:
    found = _judged(after=1.0, before=1.0)
    assert found.against_start.verdict == "undecided"
    assert found.warnings == ()


def test_a_model_that_cannot_be_calibrated_is_kept_without_the_old_facts() -> None:
    """Matches score below mismatches; the spec still has what was fitted for the weights before."""
    calibrated = _judged(after=3.0).spec
    found = judge(calibrated, _scores(-2.0), _scores(1.0, seed=1), HELD_OUT, POLICY)
    worse, uncalibrated = found.warnings
    assert "WORSE" in worse
    assert "stays uncalibrated" in uncalibrated and "matches do not score above mismatches" in uncalibrated
    assert found.spec.calibration is None and found.spec.threshold is None
    assert found.spec.metrics == found.metrics
    assert set(found.metrics) == {"auroc", "auroc_before_training", "average_precision"}


def test_a_precision_out_of_reach_leaves_no_threshold_but_probabilities() -> None:
    found = _judged(after=0.3, before=0.3, threshold="precision=0.999")
    (warning,) = found.warnings
    assert "no threshold of its own" in warning and "0.999" in warning
    assert found.spec.threshold is None
    assert found.spec.calibration is not None
    assert {"ece", "brier"} < set(found.metrics)


def test_another_prevalence_is_corrected_for_and_what_is_measured_is_weighted_to_it() -> None:
    scores = _scores(3.0)
    found = _judged(after=3.0, prevalence=0.9)
    assert found.spec.calibration is not None and found.spec.threshold is not None
    assert found.spec.calibration.prevalence == found.spec.threshold.prevalence == 0.9
    assert found.spec.calibration.sample_prevalence == 0.5
    said = scoring.probability(scores, found.spec.calibration)
    errors = (said - LABELS) ** 2
    expected = 0.9 * errors[LABELS == 1].mean() + 0.1 * errors[LABELS == 0].mean()
    assert found.metrics["brier"] == pytest.approx(expected)


@pytest.mark.parametrize(("method", "policy"), [("platt", "max-f1"), ("platt", "recall=0.9")])
def test_method_and_policy_are_those_asked_for(method: str, policy: str) -> None:
    found = _judged(after=3.0, method=method, threshold=policy)
    assert found.spec.calibration is not None and found.spec.threshold is not None
    assert (found.spec.calibration.method, found.spec.threshold.policy) == (method, policy)


def test_the_pairs_of_a_picture_count_together() -> None:
    """With two pictures there is nothing to tell by, however many pairs show them."""
    few = replace(HELD_OUT, picture_ids=[f"p{row // 100}" for row in range(COUNT)])
    found = judge(SPEC, _scores(0.5), _scores(3.0, seed=1), few, POLICY)
    assert found.against_start.verdict == "undecided" and found.against_start.pictures == 2


@pytest.mark.parametrize(("policy", "promised", "comment"), [
    ("recall=0.9", (0.95, 0.85), "recall 0.9 was reached on the calibration pairs"),
    ("precision=0.9", (0.85, 0.95), "precision 0.9 was reached"),
    ("precision=0.9", (0.9, 0.5), None),
    ("youden", (0.5, 0.5), None),
])  # fmt: skip
def test_a_promise_below_what_was_asked_is_commented_on(
    policy: str, promised: tuple[float, float], comment: str | None
) -> None:
    precision, recall = (Estimate(value, value - 0.1, value + 0.05) for value in promised)
    words = described(SPEC.replace(threshold=Threshold(0.3, 0.2, 0.4, policy, 0.5, precision, recall)))
    assert f"promises precision {promised[0]:.3f}" in words
    assert comment in words if comment else "was reached" not in words
