"""Scoring: the rules of the HTTP contract at every edge, and numbers that cannot overflow."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import expit, softmax

from data_jobs import text
from train_jobs.scoring import DEFAULT_THRESHOLD, class_scores, probability, threshold_for, verdict
from train_jobs.spec import Calibration, Estimate, ModelSpec, Threshold

PLATT = Calibration(
    method="platt", slope=40.0, intercept=-10.0, knots=(), pairs=100, sample_prevalence=0.5, prevalence=0.5,
    ece=0.02, match_quantiles=(0.3,) * 21, mismatch_quantiles=(0.2,) * 21, data_fingerprint=None,
)  # fmt: skip
ISOTONIC = dataclasses.replace(
    PLATT, method="isotonic", knots=((0.1, 0.05), (0.2, 0.05), (0.3, 0.65), (0.35, 0.95))
)


def _spec(threshold: Threshold | None) -> ModelSpec:
    return ModelSpec(
        base_model="test", base_revision=None, family="clip", embedding_dim=4, image_size=32,
        image_resize="crop", image_shortest=32, image_resample="bicubic",
        image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), context_length=77, pad_to_context=False,
        text_normalizer=text.VERSION, logit_scale=10.0, logit_bias=0.0,
        threshold=threshold,
    )  # fmt: skip


def _threshold(value: float) -> Threshold:
    rate = Estimate(0.9, 0.8, 0.95)
    return Threshold(value, value - 0.01, value + 0.01, "youden", 0.5, precision=rate, recall=rate)


def _below(value: float) -> float:
    return math.nextafter(value, -math.inf)


def _above(value: float) -> float:
    return math.nextafter(value, math.inf)


@pytest.mark.parametrize(
    ("cosine", "mismatch"), [(_below(0.25), True), (0.25, False), (_above(0.25), False), (-1.0, True)]
)
def test_mismatch_is_strictly_below_the_threshold(cosine: float, mismatch: bool) -> None:
    assert verdict(cosine, 0.25).is_mismatch is mismatch


def test_a_lower_threshold_is_more_lenient() -> None:
    assert verdict(0.2, 0.25).is_mismatch
    assert not verdict(0.2, 0.15).is_mismatch


@pytest.mark.parametrize(
    ("distance", "confidence"),
    [
        (0.0, "low"), (0.05, "low"), (_above(0.05), "medium"),
        (0.15, "medium"), (_above(0.15), "high"), (1.0, "high"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sign", [-1, 1])
def test_confidence_at_its_edges(distance: float, confidence: str, sign: int) -> None:
    assert verdict(sign * distance, 0.0).confidence == confidence


@pytest.mark.parametrize(
    ("cosine", "quality"),
    [
        (1.0, "excellent"), (0.4, "excellent"), (_below(0.4), "good"), (0.3, "good"), (_below(0.3), "fair"),
        (0.25, "fair"), (_below(0.25), "poor"), (0.15, "poor"), (_below(0.15), "mismatch"), (-1.0, "mismatch"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("threshold", [0.1, 0.6])
def test_quality_at_its_edges_whatever_the_threshold(cosine: float, quality: str, threshold: float) -> None:
    assert verdict(cosine, threshold).match_quality == quality


def test_the_verdict_follows_from_the_numbers_it_reports() -> None:
    """An encoder's float32 cosine and a client's float64 threshold are compared as the answer shows them."""
    for threshold in np.round(np.arange(0.01, 1, 0.01), 2).tolist():
        found = verdict(np.float32(threshold), threshold)
        assert found.is_mismatch == (found.similarity_score < found.threshold_used)
        assert found == verdict(found.similarity_score, found.threshold_used)


def test_a_verdict_is_plain_python() -> None:
    found = verdict(np.float32(0.5), np.float64(0.25), PLATT)
    assert [type(value) for value in vars(found).values()] == [bool, float, float, str, str, float]


def test_match_probability_needs_a_calibration() -> None:
    assert verdict(0.3, 0.25).match_probability is None
    assert verdict(0.3, 0.25, PLATT).match_probability == pytest.approx(expit(2.0))


def test_threshold_order_is_request_deployment_checkpoint_default() -> None:
    calibrated = _spec(_threshold(0.31))
    assert threshold_for(calibrated, requested=0.1, configured=0.2) == 0.1
    assert threshold_for(calibrated, requested=0.0, configured=0.2) == 0.0  # zero is a threshold, not "none"
    assert threshold_for(calibrated, configured=0.2) == 0.2
    assert threshold_for(calibrated, configured=0.0) == 0.0
    assert threshold_for(calibrated) == 0.31
    assert threshold_for(_spec(_threshold(0.0))) == 0.0
    assert threshold_for(_spec(None)) == DEFAULT_THRESHOLD == 0.25


def test_probability_equals_scipy() -> None:
    cosines = np.linspace(-1, 1, 201, dtype=np.float32)
    found = probability(cosines, PLATT)
    assert found.dtype == np.float64 and found.shape == cosines.shape
    np.testing.assert_allclose(found, expit(40.0 * cosines.astype(np.float64) - 10.0), atol=1e-15)


def test_isotonic_probability_on_literal_knots() -> None:
    """Constant beyond the knots, level on a step, halfway between 0.2 and 0.3."""
    found = probability(np.array([-1, 0.1, 0.15, 0.2, 0.25, 0.3, 0.325, 0.35, 1], np.float64), ISOTONIC)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [0.05, 0.05, 0.05, 0.05, 0.35, 0.65, 0.8, 0.95, 0.95])


@pytest.mark.parametrize("calibration", [PLATT, ISOTONIC], ids=["platt", "isotonic"])
def test_probability_keeps_the_shape_and_rises(calibration: Calibration) -> None:
    cosines = np.linspace(-1, 1, 2000, dtype=np.float32).reshape(40, 50)
    found = probability(cosines, calibration)
    assert found.shape == (40, 50)
    assert (np.diff(found.ravel()) >= -1e-15).all()
    assert found.min() >= 0 and found.max() <= 1
    assert probability(0.3, calibration).shape == ()
    assert verdict(0.3, 0.25, calibration).match_probability == probability(0.3, calibration)


def test_probability_does_not_overflow() -> None:
    steep = dataclasses.replace(PLATT, slope=1e6, intercept=0.0)
    with np.errstate(all="raise"):
        assert probability(np.array([-1.0, 0.0, 1.0]), steep).tolist() == [0.0, 0.5, 1.0]


def test_class_scores_equal_scipy_softmax() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = class_scores(vectors[0], vectors[1:], 14.3)
    assert found.dtype == np.float64 and found.shape == (5,)
    np.testing.assert_allclose(found, softmax(14.3 * (vectors[1:].astype(float) @ vectors[0].astype(float))))
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_class_scores_worked_by_hand() -> None:
    image = np.array([1, 0], np.float32)
    classes = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    np.testing.assert_allclose(class_scores(image, classes, math.log(8)), [0.8, 0.1, 0.1])


def test_class_scores_do_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = class_scores(np.array([1.0], np.float32), np.array([[1.0], [-1.0]], np.float32), 1e4)
    assert found.tolist() == [1.0, 0.0]


def test_one_class_takes_all() -> None:
    assert class_scores(np.array([0.6, 0.8], np.float32), np.array([[1, 0]], np.float32), 100).tolist() == [
        1.0
    ]
