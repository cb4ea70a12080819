"""Evaluation: every number against a literal, an independent oracle, or the definition written out in full."""

import dataclasses
import math
import time
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from data_jobs import text
from train_jobs import evaluation, metrics, scoring
from train_jobs.evaluation import measure, places, retrieval, retrieval_with_intervals, zero_shot
from train_jobs.spec import Calibration, Estimate, ModelSpec, Threshold

SPEC = ModelSpec(
    base_model="by hand",
    base_revision=None,
    family="clip",
    embedding_dim=2,
    image_size=32,
    image_resize="squash",
    image_shortest=32,
    image_resample="bicubic",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    context_length=77,
    pad_to_context=False,
    text_normalizer=text.VERSION,
    logit_scale=10.0,
    logit_bias=0.0,
)
CALIBRATED = SPEC.replace(
    calibration=Calibration(
        method="platt",
        slope=8.0,
        intercept=-4.0,
        knots=(),
        pairs=100,
        sample_prevalence=0.5,
        prevalence=0.5,
        ece=0.02,
        match_quantiles=tuple(np.linspace(0.2, 1, 21)),
        mismatch_quantiles=tuple(np.linspace(0, 0.8, 21)),
        data_fingerprint=None,
    )
)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)
LABELS = np.array([1, 0, 1, 1, 0, 0])


def unit(*rows: list[float]) -> NDArray[np.float32]:
    found = np.array(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _drawn(seed: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return (0.4 + 0.15 * labels + 0.15 * rng.normal(size=count)).astype(np.float32), labels


def test_the_numbers_are_those_of_metrics() -> None:
    found = measure(SCORES, LABELS, 0.65, SPEC, draws=10)
    assert found["auroc"] == pytest.approx(7 / 9)
    assert found["average_precision"] == metrics.average_precision(SCORES, LABELS)
    assert (found["accuracy"], found["precision"]) == pytest.approx((4 / 6, 2 / 3))
    assert found["confusion"] == {
        "match_as_match": 2,
        "match_as_mismatch": 1,
        "mismatch_as_match": 1,
        "mismatch_as_mismatch": 2,
    }
    assert (found["n"], found["n_match"], found["n_mismatch"], found["threshold"]) == (6, 3, 3, 0.65)
    assert "ece" not in found and "brier" not in found and "reliability" not in found


def test_probabilities_are_judged_where_there_is_a_calibration() -> None:
    found = measure(SCORES, LABELS, 0.65, CALIBRATED, draws=10)
    probabilities = 1 / (1 + np.exp(4 - 8 * SCORES.astype(float)))
    assert found["brier"] == pytest.approx(np.mean((probabilities - LABELS) ** 2))
    assert found["ece"] == pytest.approx(metrics.expected_calibration_error(probabilities, LABELS))
    bins = found["reliability"]
    assert [row["n"] for row in bins] == [0, 0, 0, 1, 0, 1, 1, 0, 1, 2]
    assert bins[9]["matches"] == 0.5 and bins[9]["probability"] == pytest.approx(probabilities[:2].mean())
    assert math.isnan(bins[0]["matches"])


def _stated_for(share: float) -> ModelSpec:
    """CALIBRATED, as --prevalence would restate it: its log-odds moved, and a promise made there."""
    assert CALIBRATED.calibration is not None
    move = math.log(share / (1 - share))
    calibration = dataclasses.replace(
        CALIBRATED.calibration, prevalence=share, intercept=CALIBRATED.calibration.intercept + move
    )
    promise = Threshold(0.5, 0.4, 0.6, "youden", share, Estimate(0.9, 0.8, 1), Estimate(0.9, 0.8, 1))
    return CALIBRATED.replace(calibration=calibration, threshold=promise)


def test_probabilities_are_judged_at_the_share_of_matches_they_are_stated_for() -> None:
    """Pairs half and half whose labels the calibration foretells; restated for 90 % it is as right as before."""
    rng = np.random.default_rng(10)
    scores = rng.uniform(0, 1, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(4 - 8 * scores))).astype(np.int64)
    spec = _stated_for(0.9)
    assert spec.calibration is not None
    found = measure(scores, labels, 0.5, spec, draws=20)
    assert (
        found["ece"]
        < 0.02
        < 0.2
        < metrics.expected_calibration_error(scoring.probability(scores, spec.calibration), labels)
    )
    # The oracle: pairs drawn so that 90 % of them do match.
    drawn = np.concatenate(
        [rng.choice(np.flatnonzero(labels == label), count) for label, count in ((1, 180_000), (0, 20_000))]
    )
    there = measure(scores[drawn], labels[drawn], 0.5, _stated_for(0.9), draws=1)
    assert found["brier"] == pytest.approx(there["brier"], abs=0.005)
    assert found["precision_as_promised"] == pytest.approx(there["precision"], abs=0.005)
    assert found["precision"] < found["precision_as_promised"] - 0.05
    for one, other in zip(found["reliability"], there["reliability"], strict=True):
        if one["n"] > 200:
            assert one["matches"] == pytest.approx(other["matches"], abs=0.06)
            low, high = one["interval"]
            assert low < one["matches"] < high
    assert sum(one["n"] for one in found["reliability"]) == 20_000  # pairs, whatever they weigh
    for name in ("ece", "brier", "precision_as_promised"):
        low, high = found["intervals"][name]
        assert low <= found[name] <= high


def test_resamples_without_one_label_do_not_spoil_what_is_weighted() -> None:
    found = measure(SCORES[:3], LABELS[:3], 0.65, _stated_for(0.7), draws=40)  # a third have no mismatch
    for name in ("ece", "brier", "precision_as_promised"):
        assert not any(math.isnan(value) for value in [found[name], *found["intervals"][name]])


def test_intervals_of_bins_are_wilsons() -> None:
    # 8 of 10: scipy.stats.binomtest(8, 10).proportion_ci(method="wilson") is 0.4902 to 0.9433
    assert evaluation._wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert evaluation._wilson(1.0, 5)[1] == 1.0


def test_json_has_null_for_nan() -> None:
    assert evaluation.without_nan({"a": [float("nan"), 1.5], "b": {"c": np.float64("nan"), "d": "nan"}}) == {
        "a": [None, 1.5],
        "b": {"c": None, "d": "nan"},
    }


def test_kinds_and_categories_come_apart() -> None:
    kinds = ["", "near", "", "", "far", "near"]
    categories = ["mug", "mug", "mug", "", "hat", "hat"]
    found = measure(SCORES, LABELS, 0.65, SPEC, kinds=kinds, categories=categories, draws=20)
    near = found["by_mismatch_kind"]["near"]
    assert near["auroc"] == pytest.approx(4 / 6)  # 0.9 beats 0.8 and 0.4; 0.7 and 0.6 beat 0.4 only
    assert (near["accuracy"], near["caught"], near["n_mismatch"]) == (3 / 5, 1 / 2, 2)
    assert found["by_mismatch_kind"]["far"]["auroc"] == 1.0
    assert set(near["intervals"]) == {"auroc", "accuracy", "caught"}
    assert list(found["by_category"]) == ["hat", "mug"]
    mug = found["by_category"]["mug"]
    assert (mug["n"], mug["n_match"], mug["auroc"]) == (3, 2, 0.5)
    assert mug["accuracy"] == pytest.approx(2 / 3)
    assert set(mug["intervals"]) == {"auroc", "accuracy"}
    assert math.isnan(found["by_category"]["hat"]["auroc"])


def test_categories_have_the_intervals_of_their_own_rows() -> None:
    """All at once equals one by one, with ties within a category and between two, and a resample without any of it."""
    scores, labels = _drawn(7, 90)
    scores = np.round(scores, 1)
    order = np.argsort(scores, kind="stable")
    scores, labels = scores[order], labels[order]
    rng = np.random.default_rng(8)
    categories = np.array(["", "mug", "hat", "sofa"])[rng.integers(0, 4, 90)]
    categories[:3], labels[:3] = "rare", [0, 1, 0]
    clusters = rng.integers(0, 30, 90)
    found = measure(scores, labels, 0.45, SPEC, categories=categories, clusters=clusters, draws=50)[
        "by_category"
    ]
    assert list(found) == ["hat", "mug", "rare", "sofa"]
    drawn = list(evaluation.resamples(clusters.astype(object), 50))
    for name, metric in {
        "auroc": metrics.auroc,
        "accuracy": lambda s, y: metrics.at_threshold(s, y, 0.45)["accuracy"],
    }.items():
        for category, part in found.items():
            own = categories == category
            assert part[name] == pytest.approx(metric(scores[own], labels[own]))
            values = [metric(scores[rows][own[rows]], labels[rows][own[rows]]) for rows in drawn]
            low, high = np.nanpercentile(values, [2.5, 97.5])
            assert part["intervals"][name] == pytest.approx([low, high], abs=1e-12)


def test_thousands_of_categories_take_seconds() -> None:
    scores, labels = _drawn(9, 6000)
    started = time.monotonic()
    found = measure(scores, labels, 0.5, SPEC, categories=[f"c{n % 2000}" for n in range(6000)])
    assert len(found["by_category"]) == 2000
    assert time.monotonic() - started < 60


def test_the_order_of_the_rows_does_not_matter() -> None:
    scores, labels = _drawn(0, 300)
    kinds = np.where(labels == 0, np.where(np.arange(300) % 3 == 0, "near", "far"), "")
    clusters = np.arange(300) // 2
    shuffled = np.random.default_rng(1).permutation(300)
    one = measure(scores, labels, 0.5, CALIBRATED, kinds=kinds, clusters=clusters, draws=5)
    other = measure(
        scores[shuffled],
        labels[shuffled],
        0.5,
        CALIBRATED,
        kinds=kinds[shuffled],
        clusters=clusters[shuffled],
        draws=5,
    )
    assert one["auroc"] == other["auroc"]
    assert one["confusion"] == other["confusion"]
    assert one["intervals"] == other["intervals"]
    assert one["by_mismatch_kind"] == other["by_mismatch_kind"]


def test_intervals_are_those_of_whole_resamples() -> None:
    """The weighted shortcut equals drawing the rows and measuring them."""
    scores, labels = _drawn(3, 120)
    order = np.argsort(scores, kind="stable")
    scores, labels = scores[order], labels[order]
    clusters = np.random.default_rng(4).integers(0, 50, 120)
    found = measure(scores, labels, 0.5, SPEC, clusters=clusters, draws=40)["intervals"]
    drawn = list(evaluation.resamples(clusters.astype(object), 40))
    for name, metric in {
        "auroc": metrics.auroc,
        "average_precision": metrics.average_precision,
        "f1": lambda s, y: metrics.at_threshold(s, y, 0.5)["f1"],
    }.items():
        values = [metric(scores[rows], labels[rows]) for rows in drawn]
        assert found[name] == pytest.approx(list(np.percentile(values, [2.5, 97.5])), abs=1e-12)


def test_copies_of_one_picture_do_not_narrow_the_interval() -> None:
    scores, labels = _drawn(5, 60)
    once = measure(scores, labels, 0.5, SPEC, draws=300)["intervals"]["auroc"]
    copies = np.repeat(np.arange(60), 9)
    widths = {}
    for name, clusters in (("together", copies), ("apart", None)):
        low, high = measure(scores[copies], labels[copies], 0.5, SPEC, clusters=clusters, draws=300)[
            "intervals"
        ]["auroc"]
        widths[name] = high - low
    assert widths["together"] == pytest.approx(once[1] - once[0], rel=0.25)
    assert widths["apart"] < 0.5 * widths["together"]


def test_the_interval_of_ece_holds_its_value() -> None:
    scores, labels = _drawn(6, 200)
    found = measure(scores, labels, 0.5, CALIBRATED, draws=200)
    low, high = found["intervals"]["ece"]
    assert 0 <= low <= found["ece"] <= high <= 1


def test_retrieval_worked_by_hand() -> None:
    # Texts a1 and a2 describe A, b describes B, and c describes what no picture shows.
    texts, text_groups = unit([1, 0], [0, 1], [1, 1], [-1, 0]), ["A", "A", "B", "C"]
    # The first picture of A is nearest to a1, the second to b and then to a2, the one of B to a1 and then to b.
    images, image_groups = unit([1, 0.1], [1.0, 1.1], [1, 0.3], [-1, 0]), ["A", "A", "B", None]
    found = retrieval(images, texts, image_groups, text_groups, ks=(1, 2))
    assert found["image_to_text_recall@1"] == pytest.approx(1 / 3)
    assert found["image_to_text_recall@2"] == 1.0
    # a1 finds a picture of A first, a2 too, b one of A before B's own; c has no picture and is not asked.
    assert found["text_to_image_recall@1"] == pytest.approx(2 / 3)
    assert found["text_to_image_recall@2"] == 1.0


def test_repeated_rows_are_one_candidate_and_one_query() -> None:
    texts, text_groups = unit([1, 0], [0.9, 0.1], [0, 1]), ["A", "B", "C"]
    images, image_groups = unit([0.1, 1], [1, 0.02], [1, 0.2]), ["C", "B", "B"]
    once = retrieval(images, texts, image_groups, text_groups)
    again = np.array([0, 1, 1, 1, 2, 0, 1])
    repeated = retrieval(images[again], texts, [image_groups[row] for row in again], text_groups)
    assert repeated == once
    wrong_often = np.array([0, 0, 0, 0, 0, 1, 2])
    assert (
        retrieval(images, texts[wrong_often], image_groups, [text_groups[row] for row in wrong_often]) == once
    )


def test_recall_comes_with_intervals_and_counts() -> None:
    rng = np.random.default_rng(1)
    images, texts = (unit(*rng.normal(size=(40, 3))) for _ in range(2))
    groups = [str(row) for row in range(40)]
    found = retrieval_with_intervals(images[:30], texts, groups[:30], groups, ks=(5,))
    assert (found["n_images"], found["n_texts"]) == (30, 30)
    for name, value in retrieval(images[:30], texts, groups[:30], groups, ks=(5,)).items():
        low, high = found["intervals"][name]
        assert found[name] == value and 0 <= low < value < high <= 1


def test_a_text_that_two_groups_share_is_right_for_both() -> None:
    texts, images = unit([1, 0], [1, 0], [0, 1]), unit([1, 0], [1, 0.01])
    found = retrieval(images, texts, ["A", "B"], ["A", "B", "C"], ks=(1,))
    assert found == {"image_to_text_recall@1": 1.0, "text_to_image_recall@1": 1.0}


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    same, nearly = np.full((6, 1), 1, np.float32), unit([1, 0])
    groups = list("ABCDEF")
    places_of = places(same, same, [np.array([row]) for row in range(6)])
    assert places_of.tolist() == [5] * 6
    assert retrieval(np.repeat(nearly, 6, 0), unit([1, 0], [0, 1]), groups, ["A", "B"], ks=(1,)) == {
        "image_to_text_recall@1": 1.0,  # one picture, of all groups: that is what equal rows say
        "text_to_image_recall@1": 1.0,
    }


def test_without_anything_to_find_recall_is_nan() -> None:
    found = retrieval(unit([1, 0]), unit([1, 0]), [None], ["A"], ks=(1,))
    assert all(math.isnan(value) for value in found.values())
    found = retrieval(unit([1, 0]), unit([1, 0]), ["B"], ["A"], ks=(1,))
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("block", [1, 7, 1000, 2**24])
def test_places_equal_the_full_matrix_in_blocks_of_any_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    images, texts = (unit(*rng.normal(size=(count, 8))) for count in (53, 31))
    groups = [str(n) for n in rng.integers(0, 12, 53)]
    of_text = [str(n) for n in rng.integers(0, 12, 31)]
    monkeypatch.setattr(evaluation, "_BLOCK", block)
    found = retrieval(images, texts, groups, of_text)
    relevant = np.array(groups)[:, None] == np.array(of_text)[None]
    for k in (1, 5, 10):
        assert found[f"image_to_text_recall@{k}"] == metrics.recall_at_k(images @ texts.T, relevant, k)
        assert found[f"text_to_image_recall@{k}"] == metrics.recall_at_k(texts @ images.T, relevant.T, k)


def test_retrieval_never_holds_all_similarities() -> None:
    rng = np.random.default_rng(0)
    images, texts = (unit(*rng.normal(size=(12_000, 16))) for _ in range(2))
    groups = [str(n) for n in range(12_000)]
    started = time.monotonic()
    tracemalloc.start()
    retrieval(images, texts, groups, groups)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6, "all similarities are 576 MB"
    assert time.monotonic() - started < 60


def test_zero_shot_worked_by_hand() -> None:
    classes = unit([1, 0], [0, 1], [-1, 0], [0, -1])
    images = unit([1, 0.1], [0.2, 1], [1, 0.5], [1, 1])
    right = [np.array([0]), np.array([0, 3]), np.array([3]), np.array([], np.int64)]
    found = zero_shot(images, classes, right)
    assert (found["n"], found["n_left_out"], found["n_classes"]) == (3, 1, 4)
    assert found["top1"] == pytest.approx(1 / 3)
    assert found["top5"] == 1.0
    assert found["chance_top1"] == pytest.approx((1 / 4 + 2 / 4 + 1 / 4) / 3)
    assert found["chance_top5"] == 1.0
    assert set(found["intervals"]) == {"top1", "top5"}


def test_chance_is_what_drawing_gives() -> None:
    rng = np.random.default_rng(0)
    hits = [bool(set(rng.permutation(20)[:5]) & {0, 1, 2}) for _ in range(20_000)]
    assert evaluation._chance(np.array([3]), 20, 5) == pytest.approx(np.mean(hits), abs=0.01)
