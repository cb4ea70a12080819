"""Scores of two or more models on the same pairs -> differences with intervals, and a verdict. Pure NumPy.

    compare(before_scores, after_scores, labels, picture_ids).sentence
    # "B is better: AUROC +0.021 (95 % +0.011 to +0.032) on 762 pairs of 381 pictures."

Every resample scores all models on the same drawn pictures, so what makes some pictures hard for all of them cancels in
the difference. That is why a paired interval shows differences that two separate intervals hide.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_jobs.errors import InputError
from train_jobs import metrics, prevalence
from train_jobs.bootstrap import estimate, resamples
from train_jobs.metrics import Labels, Scores, Weights
from train_jobs.spec import Estimate

Verdict = Literal["better", "worse", "undecided"]
Clusters = Sequence[object] | NDArray[np.generic]

MIN_PICTURES = 10
"""Below this a percentile interval is much too narrow, and one lucky picture would be a verdict."""

LESS_IS_BETTER = ("ece", "brier")
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text_recall@1", "text_to_image_recall@1"


@dataclass(frozen=True)
class Comparison:
    """How a second model ranks matches above mismatches beside a first one, on the same pairs."""

    name: str  # of the second model, for the sentence
    verdict: Verdict
    auroc: Estimate  # the difference, second minus first
    before: float  # AUROC of the first
    after: float  # AUROC of the second
    share_better: float  # of the resamples: the second ranks better, ties half
    p_value: float  # two-sided, of no difference, from the resamples
    pairs: int
    pictures: int  # clusters that were drawn

    @property
    def sentence(self) -> str:
        """The verdict in words, with the number it rests on."""
        sample = f"{self.pairs} pairs of {self.pictures} pictures"
        difference = f"AUROC {signed(self.auroc)}"
        if self.verdict != "undecided":
            return f"{self.name} is {self.verdict}: {difference} on {sample}."
        if self.pictures < MIN_PICTURES:
            return (
                f"{self.name}: {sample} are too few to tell (at least {MIN_PICTURES} pictures): {difference}."
            )
        return f"{self.name}: no difference that {sample} can show: {difference}."


@dataclass(frozen=True)
class Scored:
    """What one model says about N pairs. Arrays are [N], row by row as the labels."""

    scores: Scores  # cosines
    threshold: float | None = None  # at or above it is a match; None: no metrics at a threshold
    probabilities: Scores | None = None  # calibrated, of a match; None: no Brier score and no ECE
    prevalence: float | None = None  # share of matches that the probabilities are stated for; None: as here
    found_text: NDArray[np.float64] | None = (
        None  # row's picture finds a text of its own first: 1, 0, NaN: not asked
    )
    found_image: NDArray[np.float64] | None = None  # row's text finds a picture of its own first


@dataclass(frozen=True)
class Measured:
    """Metrics by name, with 95 % intervals."""

    models: list[dict[str, Estimate]]
    differences: list[dict[str, Estimate]]  # each later model minus the first, of the metrics that both have


def compare(
    before_scores: Scores,
    after_scores: Scores,
    labels: Labels,
    clusters: Clusters,
    seed: int = 0,
    name: str = "B",
) -> Comparison:
    """Judge the second scores against the first: float [N] each; labels int [N]; `clusters` [N] names rows' pictures.

    "better" or "worse" only if the paired 95 % interval of the AUROC's difference lies on one side of 0. Raises
    InputError: one_label, not_finite, or bad_arguments where the lengths differ.
    """
    _check([before_scores, after_scores], labels, clusters)
    first, second = _auroc_of(before_scores, labels), _auroc_of(after_scores, labels)
    before, after = first(None), second(None)
    draws = np.array([second(weights) - first(weights) for weights in _weights(clusters, seed)])
    difference = estimate(after - before, draws)
    draws = draws[~np.isnan(draws)]
    pictures = len(set(clusters))
    not_above, not_below = int((draws <= 0).sum()), int((draws >= 0).sum())
    verdict: Verdict = "undecided"
    if pictures >= MIN_PICTURES and difference.low > 0:
        verdict = "better"
    elif pictures >= MIN_PICTURES and difference.high < 0:
        verdict = "worse"
    return Comparison(
        name=name,
        verdict=verdict,
        auroc=difference,
        before=before,
        after=after,
        share_better=float((np.sign(draws).mean() + 1) / 2) if len(draws) else float("nan"),
        # One is added to both (Davison and Hinkley 1997, 4.2): no finite number of resamples shows a p of 0.
        p_value=min(1.0, 2 * (1 + min(not_above, not_below)) / (1 + len(draws))),
        pairs=len(labels),
        pictures=pictures,
    )


def measured(models: Sequence[Scored], labels: Labels, clusters: Clusters, seed: int = 0) -> Measured:
    """All metrics of all models and their differences from the first, on the resamples of `compare`.

    Brier score and ECE have the pairs weighted to the share of matches that a model's probabilities are stated for.
    Raises as `compare` does.
    """
    _check([model.scores for model in models], labels, clusters)
    metrics_of = [_metrics_of(model, labels) for model in models]
    whole = [of(None) for of in metrics_of]
    drawn = [[of(weights) for of in metrics_of] for weights in _weights(clusters, seed)]
    return Measured(
        models=[
            {
                name: _estimate(name, value, [draw[i][name] for draw in drawn])
                for name, value in values.items()
            }
            for i, values in enumerate(whole)
        ],
        differences=[
            {
                name: _estimate(
                    name, whole[i][name] - value, [draw[i][name] - draw[0][name] for draw in drawn]
                )
                for name, value in whole[0].items()
                if name in whole[i]
            }
            for i in range(1, len(models))
        ],
    )


def signed(difference: Estimate) -> str:
    """+0.021 (95 % +0.011 to +0.032)"""
    return f"{difference.value:+.3f} (95 % {difference.low:+.3f} to {difference.high:+.3f})"


def _weights(clusters: Clusters, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each row counts, int64 [N], resample by resample."""
    for rows in resamples(clusters, seed=seed):
        yield np.bincount(rows, minlength=len(clusters))


def _auroc_of(scores: Scores, labels: Labels) -> Callable[[Weights | None], float]:
    """The AUROC of weighted rows. Scores sorted once sort again in no time, in every resample."""
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], labels[order]
    return lambda weights: metrics.auroc(ranked, truth, None if weights is None else weights[order])


def _metrics_of(model: Scored, labels: Labels) -> Callable[[Weights | None], dict[str, float]]:
    """All metrics that can be had of `model`, of weighted rows."""
    stated = float((labels == 1).mean()) if model.prevalence is None else model.prevalence
    order = np.argsort(model.scores, kind="stable")
    scores, truth = model.scores[order], labels[order]
    probabilities = None if model.probabilities is None else model.probabilities[order]
    hits = {
        name: found[order]
        for name, found in ((IMAGE_TO_TEXT, model.found_text), (TEXT_TO_IMAGE, model.found_image))
        if found is not None
    }

    def measure(weights: Weights | None) -> dict[str, float]:
        weights = np.ones(len(order)) if weights is None else weights[order]
        found = {
            "auroc": metrics.auroc(scores, truth, weights),
            "average_precision": metrics.average_precision(scores, truth, weights),
        }
        if model.threshold is not None:
            found |= metrics.at_threshold(scores, truth, model.threshold, weights)
        if probabilities is not None:
            there = prevalence.weighted(truth, stated, weights)
            found["brier"] = metrics.brier(probabilities, truth, there)
            found["ece"] = metrics.expected_calibration_error(probabilities, truth, weights=there)
        for name, hit in hits.items():
            asked = weights * ~np.isnan(hit)
            found[name] = (
                float((asked * np.nan_to_num(hit)).sum() / asked.sum()) if asked.any() else float("nan")
            )
        return found

    return measure


def _estimate(name: str, value: float, draws: Sequence[float]) -> Estimate:
    """ECE's draws are centred on the value, since resampling adds noise that ECE takes for error."""
    shift = value - float(np.nanmean(draws)) if name == "ece" else 0.0
    return estimate(value, (draw + shift for draw in draws))


def _check(scores: Sequence[Scores], labels: Labels, clusters: Clusters) -> None:
    """Raise InputError unless there are both labels, and a finite score of every model for each."""
    lengths = {len(labels), len(clusters), *(len(one) for one in scores)}
    if len(lengths) > 1:
        raise InputError(
            "bad_arguments",
            f"Scores, labels and clusters have different lengths: {sorted(lengths)}.",
            "Score both models on the same pairs.",
        )
    for number, one in enumerate(scores, 1):
        if broken := int((~np.isfinite(one)).sum()):
            raise InputError(
                "not_finite",
                f"{broken} of {len(one)} scores of model {number} are not finite.",
                "Its weights are broken; train with a lower learning rate.",
            )
    if not {0, 1} <= set(labels.tolist()):
        raise InputError(
            "one_label",
            f"The {len(labels)} pairs do not have both labels.",
            "A comparison needs matches and mismatches; python -m data_jobs.make_mismatches makes them.",
        )
