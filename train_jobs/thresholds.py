"""Held-out scores and labels -> the threshold that a policy chooses, and what it promises on pairs it never saw.

`scores`, `labels` and `clusters` are those of `calibration`, from the same pairs.
"""

import contextlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_jobs.errors import InputError
from train_jobs import bootstrap
from train_jobs.bootstrap import Clusters, numbered
from train_jobs.calibration import MIN_PAIRS_PER_LABEL, Floats, checked_prevalence, enough
from train_jobs.metrics import Labels, Scores
from train_jobs.spec import Threshold

DRAWS = 10_000
"""Of the fresh samples that a promise is made of."""


@dataclass(frozen=True)
class _Policy:
    kind: str  # youden, max-f1, precision, recall
    target: float  # 0..1; NaN for those without


def check_policy(policy: str) -> None:
    """Raise InputError (bad_policy) unless `policy` is youden, max-f1, precision=P or recall=R, shares within 0..1."""
    _parsed(policy)


def _parsed(policy: str) -> _Policy:
    kind, _, target = policy.partition("=")
    if policy in ("youden", "max-f1"):
        return _Policy(policy, math.nan)
    with contextlib.suppress(ValueError):
        if kind in ("precision", "recall") and 0 < float(target) < 1:
            return _Policy(kind, float(target))
    raise InputError(
        "bad_policy",
        f"The policy is {policy!r}.",
        "Use youden, max-f1, precision=0.95 or recall=0.95; a share lies between 0 and 1, both excluded.",
    )


def choose_threshold(
    scores: Scores,
    labels: Labels,
    *,
    policy: str = "youden",
    prevalence: float | None = None,
    clusters: Clusters | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Threshold:
    """The cosine from which on a pair is called a match, and what it promises on pairs it never saw.

    Policies: youden maximises recall of matches + recall of mismatches; max-f1 the F1 of "match"; precision=P takes
    the lowest threshold whose precision of "match" is at least P, so the best recall; recall=R the highest whose
    recall is at least R. `prevalence` is the share of matches where the model will be used: precision and F1 are those
    at that share (default: the sample's). The value lies halfway between two neighbouring scores, or is the lowest.

    A precision is judged on at least MIN_PAIRS_PER_LABEL pairs called a match, and on 1 / (1 - P): with fewer a single
    error would miss P, and only luck at the noisy top would reach it.

    `low`..`high` of the value is by a smoothed cluster bootstrap, shrunk to keep the spread (Silverman and Young
    1987): the plain one is not consistent for a maximiser such as Youden's (Abrevaya and Huang 2005).

    `precision` and `recall`: the rates here, less the optimism of measuring where one chose (Efron and Gong 1983: what
    the threshold of each resample gains there over all pairs). Their intervals promise what A FRESH SAMPLE OF AS MANY
    MATCHES AND MISMATCHES will show, in 95 of 100 cases, so that they can be checked; the rates of the whole
    population lie within more often. They are drawn from Jeffreys' beta-binomial, which stays honest where no
    error was seen, with pairs counted less as far as those of one cluster agree.

    Raises InputError (too_few_pairs, bad_policy, bad_prevalence, unreachable_target).
    """
    wanted = _parsed(policy)
    enough(labels)
    scores = scores.astype(np.float64)
    share = checked_prevalence(prevalence, float((labels == 1).mean()))
    curve = _Curve.of(scores, labels)
    value, seen = curve.best(wanted, share)
    if wanted.kind == "precision":
        _reached(curve, seen, wanted, share, value)

    cluster = numbered(clusters, len(scores))
    rng = np.random.default_rng([seed, 1])  # not the stream that draws the resamples
    sides = [scores[labels == label] for label in (0, 1)]
    centre, spread = (np.array([f(side) for side in sides])[labels] for f in (np.mean, np.std))
    width = np.array([_bandwidth(side) for side in sides])[labels]
    shrink = np.divide(spread, np.hypot(spread, width), out=np.ones(len(scores)), where=spread > 0)
    values, optimism = [], []
    for rows in bootstrap.resamples(cluster, resamples, seed):
        drawn = labels[rows]
        if drawn.min() == drawn.max():  # a resample without one of the labels
            continue
        chosen, gained = _Curve.of(scores[rows], drawn).best(wanted, share)
        optimism.append(gained - curve.rates_at(chosen))
        noise = width[rows] * rng.standard_normal(len(rows))
        smooth = centre[rows] + shrink[rows] * (scores[rows] - centre[rows] + noise)
        values.append(_Curve.of(smooth, drawn).best(wanted, share)[0])
    interval = bootstrap.estimate(value, values)
    recall, false_alarm = np.clip(seen - (np.mean(optimism, axis=0) if optimism else 0.0), 0, 1)
    called = scores >= value
    matches, mismatches = (
        _independent(called[labels == label], cluster[labels == label]) for label in (1, 0)
    )
    drawn_recall = _fresh(recall, matches, rng)
    drawn_precision = _precision(drawn_recall, _fresh(false_alarm, mismatches, rng), share)
    precision = float(_precision(recall, false_alarm, share))
    return Threshold(
        value=value,
        low=min(value, interval.low),
        high=max(value, interval.high),
        policy=policy,
        prevalence=share,
        precision=bootstrap.estimate(precision, drawn_precision),
        recall=bootstrap.estimate(float(recall), drawn_recall),
    )


@dataclass(frozen=True)
class _Curve:
    """What every threshold calls a match that parts the scores differently."""

    values: Floats  # [K] distinct scores, rising
    matches: NDArray[np.int64]  # [K + 1] how many score at least as high; 0 at the end
    mismatches: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Floats, labels: Labels) -> "_Curve":
        order = np.argsort(scores)
        ordered = scores[order]
        first = np.append(np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])), len(scores))
        below = np.append(0, np.cumsum(labels[order] == 1))[first]
        return cls(ordered[first[:-1]], below[-1] - below, (first[-1] - first) - (below[-1] - below))

    def cut(self, index: int) -> float:
        """The threshold that calls the scores from `values[index]` on a match: halfway to the one below, if any."""
        low, high = float(self.values[max(0, index - 1)]), float(self.values[index])
        middle = (low + high) / 2
        return middle if middle > low else high  # there is no middle between neighbouring floats

    def rates(self) -> Floats:
        """Recall and share of false alarms [2, K + 1]."""
        return np.array([self.matches / self.matches[0], self.mismatches / self.mismatches[0]])

    def rates_at(self, threshold: float) -> Floats:
        return self.rates()[:, np.searchsorted(self.values, threshold)]

    def judged(self, policy: _Policy) -> NDArray[np.bool_]:
        """Which thresholds [K] call enough pairs a match for their precision to mean something."""
        return (self.matches + self.mismatches)[:-1] >= _least_called(policy)

    def best(self, policy: _Policy, prevalence: float) -> tuple[float, Floats]:
        """The cut that `policy` chooses, with its two rates; where it is out of reach, that of the best precision."""
        recall, false_alarm = rates = self.rates()[:, :-1]
        if policy.kind == "recall":
            chosen = int(np.flatnonzero(recall >= policy.target - 1e-9)[-1])
        elif policy.kind == "precision":
            precision = np.where(self.judged(policy), _precision(recall, false_alarm, prevalence), -1.0)
            chosen = int(np.argmax(precision >= min(policy.target, precision.max()) - 1e-9))
        else:
            gain = recall - false_alarm if policy.kind == "youden" else _f1(recall, false_alarm, prevalence)
            if len(gain) > 1:
                gain[0] = -np.inf  # to call everything a match parts nothing
            plateau = np.flatnonzero(gain >= gain.max() - 1e-12)
            chosen = int(plateau[len(plateau) // 2])  # its middle, not its edge
        return self.cut(chosen), rates[:, chosen]


def _precision(recall: Floats, false_alarm: Floats, prevalence: float) -> Floats:
    """Of "match" at `prevalence`; NaN where nothing is called a match."""
    hits, alarms = prevalence * np.asarray(recall), (1 - prevalence) * np.asarray(false_alarm)
    called = hits + alarms
    return np.divide(hits, called, out=np.full(np.shape(called), np.nan), where=called > 0)


def _f1(recall: Floats, false_alarm: Floats, prevalence: float) -> Floats:
    hits = prevalence * recall
    return 2 * hits / (hits + (1 - prevalence) * false_alarm + prevalence)


def _least_called(policy: _Policy) -> int:
    return max(MIN_PAIRS_PER_LABEL, math.ceil(1 / (1 - policy.target) - 1e-9))


def _reached(curve: _Curve, rates: Floats, policy: _Policy, prevalence: float, value: float) -> None:
    """Raise InputError (unreachable_target) unless the threshold `value` has the precision asked for."""
    least, pairs = _least_called(policy), curve.matches[0] + curve.mismatches[0]
    if not curve.judged(policy).any():
        raise InputError(
            "unreachable_target",
            f"A precision of {policy.target:g} takes at least {least} pairs called a match to be seen; "
            f"there are {pairs} pairs.",
            "Hold out more pairs for calibration, or ask for less.",
        )
    best = float(_precision(rates[0], rates[1], prevalence))
    if best < policy.target - 1e-9:
        raise InputError(
            "unreachable_target",
            f"No threshold reaches a precision of {policy.target:g} on {pairs} pairs with at least {least} called a "
            f"match; the best is {best:.4f} at {value:.4f}.",
            f"Ask for precision={math.floor(best * 100) / 100:g}, hold out more pairs, or train longer.",
        )


def _bandwidth(scores: Floats) -> float:
    """Silverman's rule of thumb (1986, eq. 3.31) for a Gaussian kernel."""
    quarter, three_quarters = np.quantile(scores, [0.25, 0.75])
    spread = min(float(scores.std()), float(three_quarters - quarter) / 1.349)
    return 0.9 * spread * len(scores) ** -0.2


def _independent(called: NDArray[np.bool_], cluster: NDArray[np.int64]) -> int:
    """How many independent pairs the share of `called` [N] is worth: N over the design effect (Kish 1965)."""
    _, cluster, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    worst = float((sizes**2).sum() / len(called))  # were all pairs of a cluster alike
    rest = called - called.mean()
    alone = float((rest**2).sum())
    effect = float((np.bincount(cluster, rest) ** 2).sum()) / alone if alone > 0 else worst
    return max(1, round(len(called) / min(max(effect, 1.0), worst)))


def _fresh(rate: float, pairs: int, rng: np.random.Generator) -> Floats:
    """Shares that a fresh sample of `pairs` may show, where `rate` was seen on as many: [DRAWS]."""
    truth = rng.beta(pairs * rate + 0.5, pairs * (1 - rate) + 0.5, DRAWS)
    return rng.binomial(pairs, truth) / pairs
