"""Scores and embeddings -> every number of an evaluation: pure NumPy, in one process, after all workers are done.

    measure(scores, labels, threshold, spec)             # AUROC, F1, ECE ... with 95 % intervals, by kind and category
    retrieval(images, texts, image_groups, text_groups)  # recall@k both ways
    zero_shot(images, classes, right)                    # top-1 and top-5

Embeddings are float32, unit norm. Similarities are made block by block: memory does not grow with the product of
pictures and texts.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_jobs import metrics, prevalence, scoring
from train_jobs.arrays import Embeddings
from train_jobs.bootstrap import RESAMPLES, estimate, resamples
from train_jobs.calibration import log_odds, shifted
from train_jobs.metrics import Labels, Scores, Weights
from train_jobs.spec import ModelSpec

KS = (1, 5, 10)
_BLOCK = 2**22  # similarities in memory at once: 16 MiB of float32
_TAKEN = -2.0  # below any cosine

Places = NDArray[np.int64]
_Metrics = Callable[[Weights | None], dict[str, float]]


def measure(
    scores: Scores,
    labels: Labels,
    threshold: float,
    spec: ModelSpec,
    *,
    kinds: Sequence[str] | NDArray[Any] | None = None,
    categories: Sequence[str] | NDArray[Any] | None = None,
    clusters: Sequence[object] | NDArray[Any] | None = None,
    draws: int = RESAMPLES,
) -> dict[str, Any]:
    """All metrics of the pairs' cosines [N] and labels [N].

    `kinds` [N] ("" for none) sets each kind's mismatches against all matches; `categories` [N] ("" for none) sets each
    category's matches against its mismatches. "intervals" holds [low, high] of 95 % by bootstrap over `clusters` [N]
    (what belongs together, such as the pairs of one picture; default: every pair for itself).

    ECE, Brier and "reliability" are those of the calibrated probability, the pairs weighted to the share of matches
    that it is stated for; they are absent without a calibration. "precision_as_promised" is the precision where the
    share of matches is that of the spec's threshold; absent without one. A number that the pairs do not determine is
    NaN.
    """
    order = np.argsort(scores, kind="stable")  # sorted scores sort again in no time, in every resample
    scores, labels = scores[order], np.asarray(labels)[order]
    kind_of = _sorted_names(kinds, order)
    category_of = _sorted_names(categories, order)
    cluster_of = np.arange(len(order)) if clusters is None else np.asarray(clusters, object)[order]
    probabilities = None if spec.calibration is None else scoring.probability(scores, spec.calibration)
    kind_rows = {
        kind: np.flatnonzero((labels == 1) | (kind_of == kind))
        for kind in sorted(set(kind_of[labels == 0]) - {""})
    }

    def whole(weights: Weights | None) -> dict[str, float]:
        found = {
            "auroc": metrics.auroc(scores, labels, weights),
            "average_precision": metrics.average_precision(scores, labels, weights),
            **metrics.at_threshold(scores, labels, threshold, weights),
        }
        if spec.threshold is not None:
            there = prevalence.weighted(labels, spec.threshold.prevalence, weights)
            found["precision_as_promised"] = metrics.at_threshold(scores, labels, threshold, there)[
                "precision"
            ]
        if spec.calibration is not None and probabilities is not None:
            there = prevalence.weighted(labels, spec.calibration.prevalence, weights)
            found["ece"] = metrics.expected_calibration_error(probabilities, labels, weights=there)
            found["brier"] = metrics.brier(probabilities, labels, there)
        return found

    def of_kind(rows: NDArray[np.int64]) -> _Metrics:
        some, their = scores[rows], labels[rows]

        def found(weights: Weights | None) -> dict[str, float]:
            chosen = None if weights is None else weights[rows]
            counts = metrics.confusion(some, their, threshold, chosen)
            mismatches = counts["mismatch_as_match"] + counts["mismatch_as_mismatch"]
            return {
                "auroc": metrics.auroc(some, their, chosen),
                "accuracy": metrics.at_threshold(some, their, threshold, chosen)["accuracy"],
                "caught": counts["mismatch_as_mismatch"] / mismatches if mismatches else float("nan"),
            }

        return found

    parts = {"": whole} | {kind: of_kind(rows) for kind, rows in kind_rows.items()}
    with_intervals = _with_intervals(parts, cluster_of, draws)
    result: dict[str, Any] = {
        **with_intervals[""],
        "threshold": threshold,
        "n": len(labels),
        "n_match": int((labels == 1).sum()),
        "n_mismatch": int((labels == 0).sum()),
        "confusion": metrics.confusion(scores, labels, threshold),
        "by_mismatch_kind": {
            kind: with_intervals[kind] | {"n_mismatch": int((labels[rows] == 0).sum())}
            for kind, rows in kind_rows.items()
        },
        "by_category": _by_category(scores, labels, category_of, threshold, cluster_of, draws),
    }
    if spec.calibration is not None and probabilities is not None:
        result["reliability"] = _reliability(probabilities, labels, spec.calibration.prevalence)
    return result


def retrieval(
    images: Embeddings,
    texts: Embeddings,
    image_groups: Sequence[str | None],
    text_groups: Sequence[str],
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Recall@k from pictures [N, D] to texts [M, D] and back: {"image_to_text_recall@1": ..., ...}.

    A query is found at k if one of the k best candidates shares its group: of a dish's several texts any will do.
    Equal rows are one candidate and one query, of all their groups, so pictures and texts may repeat as they do in
    pairs. Pictures without a group are left out, since nobody knows which texts they match; queries whose group has
    nothing on the other side too (their rows remain candidates). NaN if no query is left.
    """
    to_text, to_image = _both_ways(images, texts, image_groups, text_groups)
    return {name: _share(places_of, k) for name, (places_of, k) in _recalls(to_text, to_image, ks).items()}


def retrieval_with_intervals(
    images: Embeddings,
    texts: Embeddings,
    image_groups: Sequence[str | None],
    text_groups: Sequence[str],
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """`retrieval` with "n_images" and "n_texts" that were asked about, and "intervals" of 95 % over these."""
    to_text, to_image = _both_ways(images, texts, image_groups, text_groups)
    recalls = _recalls(to_text, to_image, ks)
    return {
        **{name: _share(places_of, k) for name, (places_of, k) in recalls.items()},
        "n_images": len(to_text),
        "n_texts": len(to_image),
        "intervals": _intervals_of_shares(recalls),
    }


def _recalls(to_text: Places, to_image: Places, ks: Sequence[int]) -> dict[str, tuple[Places, int]]:
    ways = {"image_to_text": to_text, "text_to_image": to_image}
    return {f"{way}_recall@{k}": (places_of, k) for way, places_of in ways.items() for k in ks}


def _both_ways(
    images: Embeddings, texts: Embeddings, image_groups: Sequence[str | None], text_groups: Sequence[str]
) -> tuple[Places, Places]:
    """`places` of every distinct picture among the texts, and of every distinct text among the pictures."""
    known = [row for row, group in enumerate(image_groups) if group is not None]
    image_rows, groups_of_image = _distinct(images[known], [image_groups[row] for row in known])
    text_rows, groups_of_text = _distinct(texts, text_groups)
    return (
        places(image_rows, text_rows, _sharing(groups_of_image, groups_of_text)),
        places(text_rows, image_rows, _sharing(groups_of_text, groups_of_image)),
    )


def zero_shot(images: Embeddings, classes: Embeddings, right: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """Top-1 and top-5 of pictures [N, D] among classes [K, D], with what chance would give.

    `right` [N] holds the rows of each picture's right classes; a picture without any is left out and counted.
    """
    places_of = places(images, classes, right)
    counts = np.array([len(rows) for rows in right if len(rows)], np.int64)
    found: dict[str, Any] = {
        "n": len(places_of),
        "n_left_out": len(images) - len(places_of),
        "n_classes": len(classes),
    }
    for k in (1, 5):
        found[f"top{k}"] = _share(places_of, k)
        found[f"chance_top{k}"] = _chance(counts, len(classes), k)
    found["intervals"] = _intervals_of_shares({f"top{k}": (places_of, k) for k in (1, 5)})
    return found


def places(queries: Embeddings, candidates: Embeddings, right: Sequence[NDArray[np.int64]]) -> Places:
    """How many wrong candidates stand ahead of each query's best right one, int64: 0 is the first place.

    `right` [Q] holds the rows of each query's right candidates; queries without any are left out. What ties with the
    best right one stands ahead of it, so that a model that tells nothing apart finds nothing.
    """
    asked = np.flatnonzero([len(rows) > 0 for rows in right])
    found = np.empty(len(asked), np.int64)
    at_once = max(1, _BLOCK // max(1, len(candidates)))
    for start in range(0, len(asked), at_once):
        block = asked[start : start + at_once]
        for number, similarity in enumerate(queries[block] @ candidates.T, start):
            chosen = right[asked[number]]
            best = similarity[chosen].max()
            similarity[chosen] = _TAKEN
            found[number] = np.count_nonzero(similarity >= best)
    return found


def _intervals_of_shares(wanted: Mapping[str, tuple[Places, int]]) -> dict[str, list[float]]:
    """95 % intervals [low, high], by name, of the share of places below k, each (places, k); queries are drawn."""
    intervals = {}
    for name, (places_of, k) in wanted.items():
        hits = places_of < k
        drawn = (hits[rows].mean() for rows in resamples(np.arange(len(hits)))) if len(hits) else ()
        found = estimate(_share(places_of, k), drawn)
        intervals[name] = [found.low, found.high]
    return intervals


def without_nan(value: Any) -> Any:
    """`value` with null for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_intervals(
    parts: Mapping[str, _Metrics], clusters: NDArray[Any], draws: int
) -> dict[str, dict[str, Any]]:
    """Each part's metrics with "intervals" beside them, all parts on the same resamples."""
    values = {name: part(None) for name, part in parts.items()}
    drawn: dict[str, dict[str, list[float]]] = {
        name: {metric: [] for metric in found} for name, found in values.items()
    }
    for rows in resamples(clusters, draws):
        weights = np.bincount(rows, minlength=len(clusters))
        for name, part in parts.items():
            for metric, value in part(weights).items():
                drawn[name][metric].append(value)
    result: dict[str, dict[str, Any]] = {}
    for name, found in values.items():
        intervals = {metric: _interval(metric, found[metric], drawn[name][metric]) for metric in found}
        result[name] = {**found, "intervals": intervals}
    return result


def _interval(metric: str, value: float, drawn: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """[low, high]. Those of ECE are centred on the value, since resampling adds noise that ECE takes for error."""
    samples = np.array([draw for draw in drawn if not math.isnan(draw)])
    if metric == "ece" and len(samples):
        samples = np.clip(samples + (value - samples.mean()), 0, 1)
    found = estimate(value, samples)
    return [found.low, found.high]


def _by_category(
    scores: Scores,
    labels: Labels,
    names: NDArray[Any],
    threshold: float,
    clusters: NDArray[Any],
    draws: int,
) -> dict[str, dict[str, Any]]:
    """Of each category but "", in alphabetical order: counts, AUROC and accuracy, with their intervals.

    `scores` rise. All categories at once, since there may be thousands of them, and as many resamples.
    """
    named = np.flatnonzero(names != "")
    if not len(named):
        return {}
    categories, number = np.unique(names[named].astype(str), return_inverse=True)
    by_category = np.argsort(number, kind="stable")
    rows, number = named[by_category], number[by_category]
    score, match = scores[rows], labels[rows] == 1
    right = (score >= threshold) == match
    first = np.flatnonzero(np.diff(number, prepend=-1))  # row of each category
    ties = np.flatnonzero((np.diff(number, prepend=-1) != 0) | (np.diff(score, prepend=np.inf) != 0))
    first_tie = np.searchsorted(ties, first)

    def found(weights: Weights) -> dict[str, NDArray[np.float64]]:
        weight = weights[rows].astype(np.float64)
        positives, negatives = (np.add.reduceat(weight * side, ties) for side in (match, ~match))
        matches, mismatches = (np.add.reduceat(side, first_tie) for side in (positives, negatives))
        below = np.cumsum(negatives) - negatives / 2  # of the category's, and all those before it
        wins = np.add.reduceat(positives * below, first_tie) - matches * (np.cumsum(mismatches) - mismatches)
        correct, count = np.add.reduceat(weight * right, first), matches + mismatches
        with np.errstate(invalid="ignore"):  # NaN where a label, or the whole category, is missing
            return {"auroc": wins / (matches * mismatches), "accuracy": correct / count}

    values = found(np.ones(len(labels)))
    drawn = [found(np.bincount(chosen, minlength=len(labels))) for chosen in resamples(clusters, draws)]
    samples = {metric: np.array([draw[metric] for draw in drawn]).T for metric in values}
    n, n_match = np.bincount(number), np.bincount(number, match)
    return {
        str(category): {
            "n": int(n[i]),
            "n_match": int(n_match[i]),
            **{metric: float(of[i]) for metric, of in values.items()},
            "intervals": {m: _interval(m, float(of[i]), samples[m][i]) for m, of in values.items()},
        }
        for i, category in enumerate(categories)
    }


def _reliability(probabilities: Scores, labels: Labels, share: float) -> list[dict[str, Any]]:
    """By bin of the probability: the pairs in it, what is said of them, and what is true at a `share` of matches.

    "interval" of "matches" is Wilson's of the pairs as they are, moved to that share, which moves odds by one factor.
    """
    rows, _, seen = metrics.reliability(probabilities, labels)
    _, said, true = metrics.reliability(probabilities, labels, weights=prevalence.weighted(labels, share))
    here = float((labels == 1).mean())
    move = log_odds(share) - log_odds(here) if 0 < here < 1 else float("nan")
    return [
        {
            "from": bin / 10,
            "to": (bin + 1) / 10,
            "n": int(rows[bin]),
            "probability": float(said[bin]),
            "matches": float(true[bin]),
            "interval": shifted(np.array(_wilson(float(seen[bin]), rows[bin])), move).tolist(),
        }
        for bin in range(len(rows))
    ]


def _wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a `share` of `count` pairs; NaN of none."""
    if not count:
        return float("nan"), float("nan")
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def _sorted_names(names: Sequence[str] | NDArray[Any] | None, order: NDArray[np.int64]) -> NDArray[Any]:
    return np.full(len(order), "", object) if names is None else np.asarray(names, object)[order]


def _distinct(rows: Embeddings, groups: Sequence[str | None]) -> tuple[Embeddings, list[list[str]]]:
    """Distinct rows in the order of their first appearance, and the groups of each."""
    first: list[int] = []
    names: dict[bytes, dict[str, None]] = {}
    for number, (row, group) in enumerate(zip(rows, groups, strict=True)):
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if key not in names:
            names[key] = {}
            first.append(number)
        assert group is not None
        names[key][group] = None
    return rows[first], [list(found) for found in names.values()]


def _sharing(queries: Sequence[list[str]], candidates: Sequence[list[str]]) -> list[NDArray[np.int64]]:
    """Of each query's groups, the rows of the candidates that are of one of them."""
    members: dict[str, list[int]] = {}
    for row, groups in enumerate(candidates):
        for group in groups:
            members.setdefault(group, []).append(row)
    rows_of = {group: np.array(rows, np.int64) for group, rows in members.items()}
    none = np.empty(0, np.int64)
    return [
        rows_of.get(groups[0], none)
        if len(groups) == 1
        else np.unique(np.concatenate([rows_of.get(group, none) for group in groups]))
        for groups in queries
    ]


def _share(places_of: Places, k: int) -> float:
    return float((places_of < k).mean()) if len(places_of) else float("nan")


def _chance(right: NDArray[np.int64], classes: int, k: int) -> float:
    """P(a right one is among k classes drawn blindly), at the mean over pictures with `right` right classes each."""
    if not len(right):
        return float("nan")
    missed = np.ones(len(right))
    for drawn in range(min(k, classes)):
        missed *= np.maximum(0, classes - right - drawn) / (classes - drawn)
    return float(1 - missed.mean())
