"""Cosines -> verdicts, probabilities and class scores. Pure NumPy; the rules are the HTTP contract's."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train_jobs.spec import Calibration, ModelSpec

Confidence = Literal["high", "medium", "low"]
Quality = Literal["excellent", "good", "fair", "poor", "mismatch"]

DEFAULT_THRESHOLD = 0.25
"""For a checkpoint that was never calibrated (HTTP contract, "Verdicts")."""

_QUALITIES: tuple[tuple[float, Quality], ...] = (
    (0.4, "excellent"), (0.3, "good"), (0.25, "fair"), (0.15, "poor"),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What one picture-text cosine means."""

    is_mismatch: bool
    similarity_score: float  # cosine, -1..1
    threshold_used: float
    confidence: Confidence
    match_quality: Quality
    match_probability: float | None  # calibrated, 0..1; None for a model that was never calibrated


def verdict(cosine: float, threshold: float, calibration: Calibration | None = None) -> Verdict:
    """Mismatch when the cosine is below the threshold; a lower threshold is more lenient."""
    cosine, threshold = float(cosine), float(threshold)  # judge the very numbers that the answer reports
    distance = abs(cosine - threshold)
    return Verdict(
        is_mismatch=cosine < threshold,
        similarity_score=cosine,
        threshold_used=threshold,
        confidence="high" if distance > 0.15 else "medium" if distance > 0.05 else "low",
        match_quality=next((name for edge, name in _QUALITIES if cosine >= edge), "mismatch"),
        match_probability=None if calibration is None else float(probability(cosine, calibration)),
    )


def threshold_for(spec: ModelSpec, requested: float | None = None, configured: float | None = None) -> float:
    """The request's, else the deployment's, else the checkpoint's calibrated one, else DEFAULT_THRESHOLD."""
    calibrated = spec.threshold.value if spec.threshold else None
    return next(
        (value for value in (requested, configured, calibrated) if value is not None), DEFAULT_THRESHOLD
    )


def probability(cosine: NDArray[np.floating] | float, calibration: Calibration) -> NDArray[np.float64]:
    """The calibrated probability of a match, 0..1, in float64 and of the shape of `cosine`; never falls as it rises.

    platt: sigmoid(slope * cosine + intercept); isotonic: linear between the knots, constant beyond them.
    """
    cosine = np.asarray(cosine, np.float64)
    if calibration.method == "isotonic":
        cosines, probabilities = np.array(calibration.knots, np.float64).T
        return np.asarray(np.interp(cosine, cosines, probabilities))
    return sigmoid(calibration.slope * cosine + calibration.intercept)


def sigmoid(logit: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 / (1 + exp(-logit)), without its overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logit)))


def class_scores(
    image: NDArray[np.float32], classes: NDArray[np.float32], logit_scale: float
) -> NDArray[np.float64]:
    """Softmax over classes: image [D] and classes [K, D], unit norm -> float64 [K] that adds up to 1."""
    logits = logit_scale * (classes.astype(np.float64) @ image.astype(np.float64))
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
