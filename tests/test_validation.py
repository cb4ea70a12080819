"""Validation: the numbers of metrics, over all pairs, whoever computes them."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from train_jobs import metrics
from train_jobs.encoder import Encoder
from train_jobs.pairdata import PairData
from train_jobs.validation import Validation

ROWS = replace(
    tiny.pairs(17, things=7, mismatches=(1, 4, 6, 9, 12, 16)),
    picture_ids=[f"p{row % 13}" for row in range(17)],  # 13 pictures and 7 texts: odd for two workers
    images=tiny.pairs(17).images.take([row % 13 for row in range(17)]),
)


def _by_hand(model: Encoder, rows: PairData) -> dict[str, float]:
    """Pair by pair, and recall with full matrices of the distinct pictures and texts of the matches."""
    images = np.concatenate([model.images(rows.decode([row], model.spec)) for row in range(len(rows))])
    texts = np.concatenate([model.texts([words]) for words in rows.texts])
    matches = np.flatnonzero(rows.labels == 1)
    pictures = sorted({rows.picture_ids[row] for row in matches})
    words = sorted({rows.texts[row] for row in matches})
    first_image = [next(row for row in matches if rows.picture_ids[row] == p) for p in pictures]
    first_text = [next(row for row in matches if rows.texts[row] == w) for w in words]
    groups = [{rows.image_groups[row] for row in matches if rows.picture_ids[row] == p} for p in pictures]
    relevant = np.array([[rows.text_groups[t] in of_picture for t in first_text] for of_picture in groups])
    similarity = images[first_image] @ texts[first_text].T
    recalls = metrics.recall_at_k(similarity, relevant, 1), metrics.recall_at_k(similarity.T, relevant.T, 1)
    return {
        "val_auroc": metrics.auroc((images * texts).sum(1), rows.labels),
        "val_recall": sum(recalls) / 2,
    }


def _measured(kind: str, **changes: object) -> dict[str, float]:
    return Validation(tiny.encoder(kind, seed=3), ROWS, tiny.schedule(**changes)).measure(
        tiny.encoder(kind, seed=3)
    )


@pytest.mark.parametrize("kind", ["clip", "dual", "siglip"])
@pytest.mark.parametrize("changes", [{}, {"cache_bytes": 0}, {"freeze": "vision"}, {"freeze": "text"}])
def test_the_numbers_are_those_of_metrics(kind: str, changes: dict[str, object]) -> None:
    """However pictures are kept: decoded, decoded anew each time, or as features of a frozen tower."""
    found = _measured(kind, **changes)
    assert found == pytest.approx(_by_hand(tiny.encoder(kind, seed=3), ROWS), abs=1e-9)
    assert 0 < found["val_recall"] < 1


@pytest.mark.parametrize("changes", [{}, {"freeze": "vision"}])
def test_two_workers_find_the_same(changes: dict[str, object]) -> None:
    expected = _measured("clip", **changes)
    assert tiny.both(_both, changes) == [pytest.approx(expected, abs=1e-9)] * 2


def _both(changes: dict[str, object]) -> dict[str, float]:
    return _measured("clip", **changes)


def test_a_model_in_training_mode_is_judged_without_dropout() -> None:
    model = tiny.encoder("dual", dropout=0.5, seed=3)
    validation = Validation(model, ROWS, tiny.schedule())
    found = []
    for _ in range(2):
        model.towers.train()
        before = tiny.state_of(model)
        found.append(validation.measure(model))
        assert all((value == before[name]).all() for name, value in model.towers.state_dict().items())
    assert found[0] == found[1] == pytest.approx(_by_hand(model, ROWS), abs=1e-9)


def test_it_follows_the_weights_it_is_given() -> None:
    """A tower that is frozen stays as it was; the rest is read anew each time."""
    start, later = tiny.encoder(seed=3), tiny.encoder(seed=3)
    with_head = tiny.schedule(freeze="vision")
    validation = Validation(start, ROWS, with_head)
    later.towers.model.visual_projection.weight.data.neg_()
    assert validation.measure(later) == pytest.approx(_by_hand(later, ROWS), abs=1e-9)
    assert validation.measure(start) != pytest.approx(validation.measure(later), abs=1e-3)


def test_without_matches_there_is_no_recall() -> None:
    found = Validation(tiny.encoder(), ROWS.take([1, 4]), tiny.schedule()).measure(tiny.encoder())
    assert np.isnan(found["val_auroc"]) and np.isnan(found["val_recall"])
