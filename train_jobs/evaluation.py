"""Scores and embeddings -> every number of an evaluation: pure NumPy, in one process, after all workers are done.

    measure(scores, labels, threshold, spec)             # AUROC, F1, ECE ... with 95 % intervals, by kind and category
    retrieval(images, texts, image_groups, text_groups)  # recall@k both ways
    zero_shot(images, classes, right)                    # top-1 and top-5

Embeddings are float32, unit norm. Similarities are made block by block: memory does not grow with the product of
pictures and texts.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_jobs import metrics, scoring
from train_jobs.bootstrap import RESAMPLES, estimate, resamples
from train_jobs.encoder import Embeddings
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

    ECE and Brier are those of the calibrated probability, and absent without a calibration. A number that the pairs
    do not determine is NaN.
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
        if probabilities is not None:
            found["ece"] = metrics.expected_calibration_error(probabilities, labels, weights=weights)
            found["brier"] = metrics.brier(probabilities, labels, weights)
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
        "by_category": {
            category: _of_category(scores[rows], labels[rows], threshold)
            for category, rows in _rows_by_name(category_of).items()
        },
    }
    if probabilities is not None:
        result["reliability"] = _reliability(probabilities, labels)
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


def _interval(metric: str, value: float, drawn: Sequence[float]) -> list[float]:
    """[low, high]. Those of ECE are centred on the value, since resampling adds noise that ECE takes for error."""
    samples = np.array(drawn)
    if metric == "ece" and len(samples):
        samples = np.clip(samples + (value - samples.mean()), 0, 1)
    found = estimate(value, samples)
    return [found.low, found.high]


def _of_category(scores: Scores, labels: Labels, threshold: float) -> dict[str, float | int]:
    return {
        "n": len(labels),
        "n_match": int((labels == 1).sum()),
        "auroc": metrics.auroc(scores, labels),
        "accuracy": metrics.at_threshold(scores, labels, threshold)["accuracy"],
    }


def _rows_by_name(names: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Row numbers of each name but "", names in alphabetical order."""
    distinct, number = np.unique(names.astype(str), return_inverse=True)
    rows = np.split(
        np.argsort(number, kind="stable"), np.cumsum(np.bincount(number, minlength=len(distinct)))[:-1]
    )
    return {str(name): of_name for name, of_name in zip(distinct, rows, strict=True) if name}


def _reliability(probabilities: NDArray[np.float64], labels: Labels) -> list[dict[str, float | int]]:
    rows, said, true = metrics.reliability(probabilities, labels)
    return [
        {
            "from": bin / 10,
            "to": (bin + 1) / 10,
            "n": int(n),
            "probability": float(p),
            "matches": float(share),
        }
        for bin, (n, p, share) in enumerate(zip(rows, said, true, strict=True))
    ]


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
