"""Metrics: worked literals, and scikit-learn as an independent oracle where scores tie."""

import doctest
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from train_jobs import metrics
from train_jobs.metrics import (
    at_threshold,
    auroc,
    average_precision,
    brier,
    confusion,
    expected_calibration_error,
    recall_at_k,
    reliability,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
LABELS = np.array([1, 0, 1, 1, 0, 0])


def _tied(seed: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a few levels, so that most of them tie, and labels that follow them loosely."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, 200) / levels
    return scores.astype(np.float32), (rng.random(200) < 0.2 + 0.6 * scores).astype(np.int64)


def test_docstrings_tell_the_truth() -> None:
    outcome = doctest.testmod(metrics)
    assert outcome.attempted >= 2 and outcome.failed == 0


def test_auroc_worked_by_hand() -> None:
    # of the 9 match-mismatch pairs the matches 0.7 and 0.6 lose one each, to the mismatch 0.8
    assert auroc(SCORES, LABELS) == pytest.approx(7 / 9)
    assert auroc(np.array([0.2, 0.2, 0.1]), np.array([1, 0, 0])) == pytest.approx(0.75)  # a tie counts half
    assert auroc(np.full(5, 0.3), np.array([1, 0, 1, 0, 0])) == 0.5
    assert auroc(-SCORES, LABELS) == pytest.approx(2 / 9)


def test_average_precision_worked_by_hand() -> None:
    assert average_precision(SCORES, LABELS) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    # a tie is one step: both rows are predicted together, in whatever order they are stored
    for labels in ([1, 0, 0], [0, 1, 0]):
        assert average_precision(np.array([0.2, 0.2, 0.1]), np.array(labels)) == 0.5


@pytest.mark.parametrize("levels", [2, 5, 40])
@pytest.mark.parametrize("seed", range(5))
def test_ranking_equals_scikit_learn_with_ties(seed: int, levels: int) -> None:
    scores, labels = _tied(seed, levels)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], []])
def test_auroc_is_nan_without_both_labels(labels: list[int]) -> None:
    assert math.isnan(auroc(np.arange(len(labels)) / 10, np.array(labels, np.int64)))


def test_average_precision_is_nan_without_a_match_only() -> None:
    assert math.isnan(average_precision(np.array([0.1, 0.2]), np.array([0, 0])))
    assert math.isnan(average_precision(np.array([]), np.array([], np.int64)))
    assert average_precision(np.array([0.1, 0.2]), np.array([1, 1])) == 1.0


def test_at_threshold_worked_by_hand() -> None:
    # 0.7 itself is predicted a match: hits 0.9 and 0.7, one false alarm, one miss
    assert at_threshold(SCORES, LABELS, 0.7) == pytest.approx(
        {"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}
    )
    assert at_threshold(SCORES, LABELS, 0.85) == pytest.approx(
        {"accuracy": 4 / 6, "precision": 1.0, "recall": 1 / 3, "f1": 0.5}
    )


def test_at_threshold_is_zero_where_a_ratio_has_no_cases() -> None:
    nothing = at_threshold(SCORES, LABELS, 1.0)
    assert nothing == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    no_matches = at_threshold(SCORES, np.zeros(6, np.int64), 0.7)
    assert no_matches == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    empty = at_threshold(np.array([]), np.array([], np.int64), 0.5)
    assert math.isnan(empty.pop("accuracy"))
    assert empty == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.4, 0.6, 0.99])
def test_at_threshold_equals_scikit_learn(threshold: float) -> None:
    scores, labels = _tied(7, 5)
    found = at_threshold(scores, labels, threshold)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, scores >= threshold, average="binary", zero_division=0
    )
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1))


def test_brier_worked_by_hand() -> None:
    assert brier(np.array([0.9, 0.2, 0.5]), np.array([1, 0, 1])) == pytest.approx((0.01 + 0.04 + 0.25) / 3)
    assert brier(np.array([1.0, 0.0]), np.array([1, 0])) == 0.0
    assert brier(np.array([0.0, 1.0]), np.array([1, 0])) == 1.0


def test_expected_calibration_error_worked_by_hand() -> None:
    # bin [0, .5): confidence .2, accuracy 1/2, 2 of 5 rows; bin [.5, 1]: confidence .8, accuracy 2/3, 3 of 5
    probabilities, labels = np.array([0.1, 0.3, 0.5, 0.9, 1.0]), np.array([1, 0, 1, 1, 0])
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(
        2 / 5 * 0.3 + 3 / 5 * (0.8 - 2 / 3)
    )


def test_expected_calibration_error_at_its_ends() -> None:
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([0, 1])) == 0.0  # 1.0 is in the last bin
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([1, 0])) == 1.0
    always = expected_calibration_error(np.full(10, 0.75), np.array([1] * 4 + [0] * 6))
    assert always == pytest.approx(0.35)


SIMILARITY = np.array(
    [
        [0.9, 0.1, 0.2, 0.3, 0.4, 0.0, 0.5, 0.6],
        [0.1, 0.8, 0.9, 0.3, 0.0, 0.2, 0.4, 0.5],
        [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
        [0.2, 0.2, 0.2, 0.9, 0.2, 0.2, 0.2, 0.2],
    ]
)
RELEVANT = np.array(
    [
        [1, 0, 0, 0, 0, 0, 0, 0],  # ranked 1st
        [0, 1, 0, 0, 1, 0, 0, 0],  # ranked 2nd, the other one last
        [0, 0, 0, 0, 1, 0, 0, 0],  # ranked 5th
        [0, 0, 0, 0, 0, 0, 0, 1],  # ranked last of equals: ties stay in the order of the items
    ],
    bool,
)


@pytest.mark.parametrize(("k", "recall"), [(1, 0.25), (2, 0.5), (4, 0.5), (5, 0.75), (7, 0.75), (8, 1.0)])
def test_recall_at_k_of_four_queries_and_eight_items(k: int, recall: float) -> None:
    assert recall_at_k(SIMILARITY, RELEVANT, k) == recall


def test_recall_at_k_may_ask_for_more_than_there_is() -> None:
    assert recall_at_k(SIMILARITY, RELEVANT, 100) == 1.0


def test_recall_at_k_leaves_out_queries_without_a_relevant_item() -> None:
    relevant = RELEVANT.copy()
    relevant[2:] = False
    assert recall_at_k(SIMILARITY, relevant, 1) == 0.5
    assert math.isnan(recall_at_k(SIMILARITY, np.zeros_like(RELEVANT), 1))


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_repetitions(seed: int) -> None:
    scores, labels = _tied(seed, 40)
    probabilities = scores.astype(np.float64)
    weights = np.random.default_rng(seed).integers(0, 4, 200)
    weights[np.argsort(scores)[-3:]] = 0  # the best scores too may not have been drawn
    again = np.repeat(np.arange(200), weights)
    for metric in (auroc, average_precision, brier):
        assert metric(probabilities, labels, weights) == pytest.approx(
            metric(probabilities[again], labels[again]), abs=1e-12
        )
    assert at_threshold(scores, labels, 0.4, weights) == pytest.approx(
        at_threshold(scores[again], labels[again], 0.4), abs=1e-12
    )
    assert expected_calibration_error(probabilities, labels, weights=weights) == pytest.approx(
        expected_calibration_error(probabilities[again], labels[again]), abs=1e-12
    )
    assert auroc(scores, labels, weights) == pytest.approx(
        roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert average_precision(scores, labels, weights) == pytest.approx(
        average_precision_score(labels, scores, sample_weight=weights), abs=1e-12
    )


def test_confusion_counts_every_row_once() -> None:
    assert confusion(SCORES, LABELS, 0.7) == {
        "match_as_match": 2,
        "match_as_mismatch": 1,
        "mismatch_as_match": 1,
        "mismatch_as_mismatch": 2,
    }


def test_reliability_worked_by_hand() -> None:
    rows, said, true = reliability(np.array([0.1, 0.3, 0.9]), np.array([1, 0, 1]), bins=4)
    assert rows.tolist() == [1, 1, 0, 1]
    assert said[[0, 1, 3]].tolist() == [0.1, 0.3, 0.9]
    assert true[[0, 1, 3]].tolist() == [1, 0, 1]
    assert math.isnan(said[2]) and math.isnan(true[2])
