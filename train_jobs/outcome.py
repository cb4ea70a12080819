"""What came of a training, on pairs that neither trained nor chose it: calibration, and whether it helped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_jobs.errors import InputError
from train_jobs import calibration, comparison, metrics, scoring, thresholds
from train_jobs.comparison import Comparison
from train_jobs.pairdata import PairData
from train_jobs.prevalence import weighted
from train_jobs.spec import Estimate, ModelSpec

NOTICEABLE = 0.01
"""A promise that is so much below what was asked for is commented on."""


@dataclass(frozen=True)
class Policy:
    """How to turn held-out scores into probabilities and a threshold."""

    method: calibration.Method
    threshold: str  # youden, max-f1, precision=P, recall=R
    prevalence: float | None  # share of matches where the model will be used; None: as held out
    seed: int


@dataclass(frozen=True)
class Outcome:
    """The facts to be saved with a model, and what to tell about it."""

    spec: ModelSpec
    metrics: dict[str, float]
    against_start: Comparison  # after - before training, on the same pairs
    warnings: tuple[str, ...]


def judge(
    spec: ModelSpec,
    scores: NDArray[np.float32],
    before: NDArray[np.float32],
    held_out: PairData,
    policy: Policy,
) -> Outcome:
    """Calibrate `spec` on the held-out pairs' `scores` [N], and compare these with those `before` training [N].

    What cannot be had, probabilities or a threshold, is left out with a warning: training is not thrown away.
    """
    labels, pictures = held_out.labels, held_out.picture_ids
    found = {
        "auroc": metrics.auroc(scores, labels),
        "auroc_before_training": metrics.auroc(before, labels),
        "average_precision": metrics.average_precision(scores, labels),
    }
    warnings = []
    compared = comparison.compare(
        before, scores, labels, pictures, seed=policy.seed, name="the trained model"
    )
    if compared.verdict == "worse":
        warnings.append(
            f"the trained model is WORSE than the one training started from: {compared.sentence} "
            "Use a lower --learning-rate, fewer epochs, or go on with the model you had."
        )
    spec = spec.replace(calibration=None, threshold=None)
    try:
        spec = _with_probabilities(spec, scores, held_out, policy)
        spec = _with_threshold(spec, scores, held_out, policy)
    except InputError as error:
        lacks = "stays uncalibrated" if spec.calibration is None else "has no threshold of its own"
        warnings.append(f"the model {lacks}. {error}")
    if spec.calibration is not None:
        weights = weighted(labels, spec.calibration.prevalence)
        found["ece"] = spec.calibration.ece
        found["brier"] = metrics.brier(scoring.probability(scores, spec.calibration), labels, weights)
    return Outcome(spec.replace(metrics=found), found, compared, tuple(warnings))


def calibrated(spec: ModelSpec, scores: NDArray[np.float32], held_out: PairData, policy: Policy) -> ModelSpec:
    """`spec` with probabilities and a threshold fitted on the held-out pairs' `scores` [N].

    Raises InputError: too_few_pairs, scores_do_not_rank, bad_policy, unreachable_target.
    """
    spec = _with_probabilities(spec, scores, held_out, policy)
    return _with_threshold(spec, scores, held_out, policy)


def _with_probabilities(
    spec: ModelSpec, scores: NDArray[np.float32], held_out: PairData, policy: Policy
) -> ModelSpec:
    return spec.replace(
        calibration=calibration.fit(
            scores,
            held_out.labels,
            method=policy.method,
            prevalence=policy.prevalence,
            clusters=held_out.picture_ids,
            data_fingerprint=held_out.fingerprint,
            seed=policy.seed,
        )
    )


def _with_threshold(
    spec: ModelSpec, scores: NDArray[np.float32], held_out: PairData, policy: Policy
) -> ModelSpec:
    return spec.replace(
        threshold=thresholds.choose_threshold(
            scores,
            held_out.labels,
            policy=policy.threshold,
            prevalence=policy.prevalence,
            clusters=held_out.picture_ids,
            seed=policy.seed,
        )
    )


def described(spec: ModelSpec) -> str:
    """The threshold of `spec` and what it promises, in words."""
    if spec.threshold is None:
        return "no threshold"
    threshold = spec.threshold
    value = Estimate(threshold.value, threshold.low, threshold.high)
    words = (
        f"threshold {_span(value)} by {threshold.policy}, which promises precision {_span(threshold.precision)} and "
        f"recall {_span(threshold.recall)}"
    )
    kind, _, target = threshold.policy.partition("=")
    promised = {"precision": threshold.precision, "recall": threshold.recall}.get(kind)
    if promised is not None and promised.value < float(target) - NOTICEABLE:
        words += (
            f". ({kind} {target} was reached on the calibration pairs themselves; part of that was luck in choosing. "
            "More calibration pairs bring the promise closer to it.)"
        )
    return words


def _span(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
