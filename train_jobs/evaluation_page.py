"""The numbers of an evaluation as one HTML file: no script, no network, charts and pictures inside.

Charts are SVG written by the template, so that they follow the page's colours in light and dark; what is computed
here are their coordinates.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_jobs import page
from train_jobs.evaluation import KS
from train_jobs.metrics import Labels, Scores
from train_jobs.spec import ModelSpec

CATEGORIES_SHOWN = 12
"""Worst first; the others fold away."""
MOST_CATEGORIES = 300
"""On the page; metrics.json has all."""
BINS = 40
"""Of the histogram of cosines."""
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 52, 368, 10, 236
_STEP = 0.5
"""Pixels between the corners of a curve: finer is not seen, and a curve of a million pairs stays small."""


@dataclass(frozen=True)
class Case:
    """One verdict to look at."""

    picture: str | None  # data: address of a thumbnail
    image_path: str
    text: str
    score: float  # cosine
    probability: float | None
    kind: str  # of mismatch, "" for none
    category: str


@dataclass(frozen=True)
class Axis:
    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Frame:
    """Where values are on a chart of `width` x `height` pixels: `x` and `y` turn them into pixels."""

    across: Axis
    up: Axis
    width: int = _WIDTH
    height: int = _BOTTOM + 46
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM

    def x(self, value: float) -> float:
        share = (value - self.across.low) / (self.across.high - self.across.low)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        share = (value - self.up.low) / (self.up.high - self.up.low)
        return round(self.bottom - share * (self.bottom - self.top), 1)

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        """An SVG path through the points, without corners that nobody sees."""
        return "M" + "L".join(
            f"{x:g} {y:g}" for x, y in _thinned([(self.x(a), self.y(b)) for a, b in points])
        )


def render(
    found: Mapping[str, Any],
    *,
    spec: ModelSpec,
    scores: Scores,
    labels: Labels,
    cases: Mapping[str, Sequence[Case]],
) -> str:
    """The page of what `train_jobs.evaluate` found (metrics.json), of cosines [N] and labels [N] with both labels.

    `cases` has the worst "false_matches" and "missed_matches", worst first. Equal evaluations give equal pages.
    """
    environment = page.environment("train_jobs")
    environment.filters |= {"ratio": ratio, "between": between, "share": share}
    categories = sorted(
        found["by_category"].items(), key=lambda item: (item[1]["accuracy"], -item[1]["n"], item[0])
    )
    return environment.get_template("evaluation.html.j2").render(
        found=found,
        spec=spec,
        cases=cases,
        histogram=_histogram(scores, labels, found["threshold"]),
        roc=_roc(scores, labels, found["confusion"]),
        precision_recall=_precision_recall(scores, labels, found),
        reliability=_reliability(found["reliability"]) if "reliability" in found else None,
        categories=categories[:MOST_CATEGORIES],
        categories_shown=CATEGORIES_SHOWN,
        ks=KS,
    )


def ratio(value: float | None, digits: int = 3) -> str:
    """`0.9234` -> `0.923`; a dash for a number that the pairs do not determine."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def between(interval: Sequence[float | None], digits: int = 3) -> str:
    """`[0.9, 0.95]` -> `0.900 to 0.950`; nothing for an interval that is not determined."""
    low, high = interval
    return "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def share(value: float | None) -> str:
    """`0.846` -> `84.6 %`."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _histogram(scores: Scores, labels: Labels, threshold: float) -> dict[str, Any]:
    """Each label's cosines: which share of them is in each bin."""
    low, high = float(min(scores.min(), threshold)), float(max(scores.max(), threshold))
    margin = 0.02 * (high - low) or 0.01
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    shares = {
        name: np.histogram(scores[labels == label], edges)[0] / (labels == label).sum()
        for name, label in (("match", 1), ("mismatch", 0))
    }
    top = 100 * max(float(found.max()) for found in shares.values())
    frame = Frame(
        _axis("Cosine of picture and text", float(edges[0]), float(edges[-1])),
        _axis("Share of the label's pairs", 0, top * 1.06, suffix=" %"),
    )
    return {
        "frame": frame,
        "match": frame.line(list(_stairs(edges, 100 * shares["match"]))),
        "mismatch": frame.line(list(_stairs(edges, 100 * shares["mismatch"]))),
        "threshold": frame.x(threshold),
        "at_left": frame.x(threshold) > (frame.left + frame.right) / 2,
    }


def _roc(scores: Scores, labels: Labels, confusion: Mapping[str, int]) -> dict[str, Any]:
    frame = Frame(_unit("Mismatches taken for matches"), _unit("Matches found"))
    matches, mismatches = _above(scores, labels)
    points = [(0.0, 0.0), *zip(mismatches / mismatches[-1], matches / matches[-1], strict=True)]
    false = confusion["mismatch_as_match"] / int(mismatches[-1])
    found = confusion["match_as_match"] / int(matches[-1])
    return {"frame": frame, "curve": frame.line(points), "here": (frame.x(false), frame.y(found))}


def _precision_recall(scores: Scores, labels: Labels, found: Mapping[str, Any]) -> dict[str, Any]:
    """As the steps whose area is the average precision."""
    frame = Frame(_unit("Recall: matches found"), _unit("Precision: right of those called match"))
    matches, mismatches = _above(scores, labels)
    recall, precision = matches / matches[-1], matches / (matches + mismatches)
    points, before = [], 0.0
    for reached, right in zip(recall.tolist(), precision.tolist(), strict=True):
        if reached > before:
            points += [(before, right), (reached, right)]
            before = reached
    return {
        "frame": frame,
        "curve": frame.line(points),
        "chance": frame.y(found["n_match"] / found["n"]),
        "here": (frame.x(found["recall"]), frame.y(found["precision"])),
    }


def _reliability(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points of the filled bins with 95 % intervals, and bars of how many pairs each bin has."""
    frame = Frame(_unit("Calibrated probability of a match"), _unit("Share of matches"))
    most = max(row["n"] for row in bins)
    points, bars = [], []
    for row in bins:
        height = round(34 * row["n"] / most, 1)
        left, right = frame.x(row["from"]) + 1.5, frame.x(row["to"]) - 1.5
        bars.append({"x": left, "width": round(right - left, 1), "height": height, "count": _short(row["n"])})
        if row["n"]:
            low, high = row["interval"]
            points.append(
                {
                    "x": frame.x(row["probability"]),
                    "y": frame.y(row["matches"]),
                    "low": frame.y(low),
                    "high": frame.y(high),
                    "said": row["probability"],
                    "true": row["matches"],
                    "n": row["n"],
                }
            )
    return {"frame": frame, "points": points, "bars": bars}


def _above(scores: Scores, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Matches and mismatches at and above each distinct score, from the highest score down."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(labels[order] == 1)[last_of_tie], np.cumsum(labels[order] == 0)[last_of_tie]


def _stairs(edges: NDArray[np.float64], heights: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """The outline of bars, from the ground to the ground."""
    yield float(edges[0]), 0.0
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        yield float(left), float(height)
        yield float(right), float(height)
    yield float(edges[-1]), 0.0


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points but for those on a straight line with, or within _STEP pixels of, the one before."""
    kept: list[tuple[float, float]] = []
    for number, (x, y) in enumerate(points):
        if kept and number + 1 < len(points) and math.hypot(x - kept[-1][0], y - kept[-1][1]) < _STEP:
            continue
        if len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            straight = (x0 == x1 == x and (y1 - y0) * (y - y1) >= 0) or (
                y0 == y1 == y and (x1 - x0) * (x - x1) >= 0
            )
            if straight:
                kept.pop()
        kept.append((x, y))
    return kept


def _unit(label: str) -> Axis:
    return Axis(label, 0, 1, tuple((tick / 5, f"{tick / 5:g}") for tick in range(6)))


def _axis(label: str, low: float, high: float, suffix: str = "") -> Axis:
    """An axis with about five round ticks."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(
        label, low, high, tuple((n * step, f"{n * step:.10g}{suffix}") for n in range(first, last + 1))
    )


def _short(count: int) -> str:
    """`12345` -> `12k`."""
    if count < 10_000:
        return str(count)
    return f"{count // 1000}k" if count < 10_000_000 else f"{count // 1_000_000}M"
