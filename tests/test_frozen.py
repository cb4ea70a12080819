"""FrozenFeatures: what a frozen tower says of each distinct item, computed once."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from train_jobs.frozen import FrozenFeatures
from train_jobs.pairdata import PairData


def _repeated() -> PairData:
    """Ten rows of seven pictures and five texts."""
    rows = tiny.pairs(10, things=5)
    return replace(rows, picture_ids=[f"p{row % 7}" for row in range(10)]).take(
        [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]
    )


@pytest.mark.parametrize("kind", ["clip", "dual", "siglip"])
def test_embeddings_through_the_table_are_those_of_the_encoder(kind: str) -> None:
    """In training mode too: dropout and batch statistics are of no account."""
    model, rows = tiny.encoder(kind, dropout=0.5), tiny.pairs(10, things=5)
    model.towers.train()
    images, texts = FrozenFeatures.of_images(model, rows), FrozenFeatures.of_texts(model, rows)
    asked = np.array([9, 2, 2, 0])
    model.towers.eval()
    with torch.no_grad():
        from_table = model.towers(images.of(asked), texts.of(asked))
    np.testing.assert_allclose(
        from_table[0], model.images(rows.decode(asked.tolist(), model.spec)), atol=1e-6
    )
    np.testing.assert_allclose(from_table[1], model.texts([rows.texts[row] for row in asked]), atol=1e-6)


def test_each_distinct_item_is_computed_once_in_batches_that_fit() -> None:
    model, rows = tiny.encoder(), _repeated()
    seen: dict[str, list[int]] = {"vision": [], "text": []}
    model.towers.model.vision_model.register_forward_hook(
        lambda module, args, out: seen["vision"].append(len(out.pooler_output))
    )
    model.towers.model.text_model.register_forward_hook(
        lambda module, args, out: seen["text"].append(len(out.pooler_output))
    )
    images, texts = FrozenFeatures.of_images(model, rows), FrozenFeatures.of_texts(model, rows)
    assert seen == {"vision": [4, 3], "text": [4, 1]}
    by_picture = dict(zip(rows.picture_ids, images.of(np.arange(10)), strict=True))
    assert len({tuple(row.tolist()) for row in by_picture.values()}) == 7
    for row in range(10):
        assert torch.equal(images.of(np.array([row]))[0], by_picture[rows.picture_ids[row]])
    assert len({tuple(row.tolist()) for row in texts.of(np.arange(10))}) == 5


def _tables(count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Both tables for the first `count` rows, and how many pictures this process computed."""
    model, rows = tiny.encoder(), _repeated().take(range(count))
    seen: list[int] = []
    model.towers.model.vision_model.register_forward_hook(
        lambda module, args, out: seen.append(len(out.pooler_output))
    )
    found = FrozenFeatures.of_images(model, rows), FrozenFeatures.of_texts(model, rows)
    asked = np.arange(count)
    return found[0].of(asked).numpy(), found[1].of(asked).numpy(), sum(seen)


@pytest.mark.parametrize(("count", "computed"), [(10, [4, 3]), (1, [1, 0])])
def test_two_workers_share_the_work_and_know_all(count: int, computed: list[int]) -> None:
    images, texts, _ = _tables(count)
    found = tiny.both(_tables, count)
    assert [worker[2] for worker in found] == computed
    for worker in found:
        np.testing.assert_allclose(worker[0], images, atol=1e-5)
        np.testing.assert_allclose(worker[1], texts, atol=1e-5)
