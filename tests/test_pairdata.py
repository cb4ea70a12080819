"""PairData: batches decided by the seed alone, mismatches that are none in truth, pictures decoded one way."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_photos

from data_jobs import dataset, images
from data_jobs.drawing import describe, random_products
from data_jobs.errors import InputError
from data_jobs.items import Passage
from train_jobs import scratch
from train_jobs.encoder import Encoder
from train_jobs.pairdata import (
    Order,
    PairData,
    PixelCache,
    embed_pictures,
    group_ids,
    score_pairs,
    to_channels_first,
)
from train_jobs.view import View

PRODUCTS = random_products(8, seed=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photos(PRODUCTS, tmp_path_factory.mktemp("photos"))


def _dataset(photos: Path, output: Path, rows: Sequence[Sequence[object]], header: str) -> PairData:
    source = output.with_suffix(".csv")
    with source.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])
    dataset.from_csv(source, output, image_base_path=photos, image_size=40)
    return PairData.open(output)


@pytest.fixture(scope="module")
def data(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> PairData:
    """Every picture twice: with its English and with its Persian text, which are one group."""
    rows = [
        (f"{i}.png", describe(product, language), 1, f"g{i}")
        for i, product in enumerate(PRODUCTS)
        for language in ("en", "fa")
    ]
    return _dataset(photos, tmp_path_factory.mktemp("data") / "pairs", rows, "image_path,text,label,group_id")


@pytest.fixture(scope="module")
def labelled(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> PairData:
    """Matches and mismatches as a CSV states them."""
    rows = [(f"{i}.png", describe(product), 1) for i, product in enumerate(PRODUCTS)]
    rows += [(f"{i}.png", describe(PRODUCTS[(i + 1) % 8]), 0) for i in range(3)]
    return _dataset(photos, tmp_path_factory.mktemp("data") / "labelled", rows, "image_path,text,label")


@pytest.fixture(scope="module")
def encoder(data: PairData) -> Encoder:
    return scratch.build("scratch:tiny-clip", data.texts)


def test_open(data: PairData, tmp_path: Path) -> None:
    assert len(data) == 16
    assert data.labels.dtype == np.int64 and data.labels.tolist() == [1] * 16
    assert sorted(data.texts) == sorted(describe(p, language) for p in PRODUCTS for language in ("en", "fa"))
    assert data.image_groups == data.text_groups
    assert len(set(data.picture_ids)) == len(set(data.text_groups)) == 8


def test_open_knows_the_dataset_by_its_fingerprint(photos: Path, tmp_path: Path) -> None:
    opened = _dataset(photos, tmp_path / "one", [("0.png", "mug", 1)], "image_path,text,label")
    assert opened.fingerprint == dataset.read_report(tmp_path / "one")["fingerprint"]


def test_open_refuses_what_is_no_dataset_or_has_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        PairData.open(tmp_path)
    assert refusal.value.code == "not_a_dataset"
    passage = Passage("f.json", 1, "a", "g", "kebab", "passage", None)
    dataset.write_part("000", [passage], tmp_path, image_size=40)
    dataset.finish(tmp_path, image_size=40, inputs=[])
    with pytest.raises(InputError, match=str(tmp_path)) as refusal:
        PairData.open(tmp_path)
    assert refusal.value.code == "no_pairs"


def test_take_keeps_each_row_together_in_the_order_asked_for(data: PairData) -> None:
    rows = np.array([5, 0, 5, 15])
    taken = data.take(rows)
    for position, row in enumerate(rows):
        assert taken.images[position].as_py() == data.images[row].as_py()
        for name in ("picture_ids", "texts", "labels", "image_groups", "text_groups"):
            assert getattr(taken, name)[position] == getattr(data, name)[row]
    assert taken.fingerprint == data.fingerprint
    assert len(data.take([])) == 0


@pytest.mark.parametrize("seed", range(5))
def test_added_mismatches_are_none_in_truth(data: PairData, seed: int) -> None:
    both = data.with_mismatches(seed)
    assert both.labels.tolist() == [1] * 16 + [0] * 16
    assert both.texts[:16] == data.texts
    truth = dict(zip(data.picture_ids, data.text_groups, strict=True))
    group_of = dict(zip(data.texts, data.text_groups, strict=True))
    for row in range(16, 32):
        assert both.picture_ids[row] == data.picture_ids[row - 16]
        assert both.images[row].as_py() == data.images[row - 16].as_py()
        assert both.text_groups[row] == group_of[both.texts[row]] != truth[both.picture_ids[row]]


def test_the_seed_decides_the_mismatches(data: PairData) -> None:
    first, again, other = (data.with_mismatches(seed).texts for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("seed", range(5))
def test_a_text_paired_with_the_same_picture_elsewhere_is_no_mismatch(
    photos: Path, tmp_path: Path, seed: int
) -> None:
    """Two captions of one photo, without group_id: two text groups, and yet both describe the photo."""
    rows = [(f"{i}.png", describe(PRODUCTS[i], language), 1) for i in range(3) for language in ("en", "fa")]
    opened = _dataset(photos, tmp_path / "captions", rows, "image_path,text,label")
    truth = set(zip(opened.picture_ids, opened.texts, strict=True))
    assert len(truth) == len(set(opened.text_groups)) == 6
    both = opened.with_mismatches(seed)
    added = [(both.picture_ids[row], both.texts[row]) for row in np.flatnonzero(both.labels == 0)]
    assert added
    assert not truth & set(added)


def test_data_with_mismatches_stays_as_it_is(labelled: PairData) -> None:
    assert sorted(labelled.labels.tolist()) == [0] * 3 + [1] * 8
    assert labelled.with_mismatches() is labelled


def test_a_single_product_has_no_mismatch(data: PairData) -> None:
    with pytest.raises(InputError) as refusal:
        data.take([row for row in range(16) if data.text_groups[row] == "g0"]).with_mismatches()
    assert refusal.value.code == "one_group"


def test_pictures_are_decoded_as_the_encoder_does(data: PairData, encoder: Encoder) -> None:
    for row, pixels in zip([3, 0], data.decode([3, 0], encoder.spec), strict=True):
        expected = encoder.pixels(images.decode(data.images[row].as_py()))
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("scale", "side"), [(1.0, 32), (1.15, 37), (0.5, 16)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_scale_decodes_the_same_view_larger(
    data: PairData, encoder: Encoder, resize: str, scale: float, side: int
) -> None:
    spec = encoder.spec.replace(image_size=32, image_shortest=32, image_resize=resize)
    found = data.decode([3, 0], spec, scale)
    assert found.shape == (2, side, side, 3) and found.dtype == np.uint8
    whole = images.decode(data.images[3].as_py())
    np.testing.assert_array_equal(found[0], View(side, side, resize, "bicubic").pixels(whole))


@pytest.mark.parametrize("budget", [0, 8 * 37 * 37 * 3 - 1, 8 * 37 * 37 * 3, 10**9])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_the_cache_gives_the_same_pixels_whatever_its_budget(
    data: PairData, encoder: Encoder, budget: int, resize: str
) -> None:
    """Eight pictures of 37 = 1.15 x 32 pixels fit into the third budget to the byte."""
    spec = encoder.spec.replace(image_size=32, image_shortest=32, image_resize=resize)
    cache = PixelCache(data, spec, 1.15, budget_bytes=budget, threads=3)
    rows = [15, 2, 2, 0, 7]
    batch = cache.batch(rows)
    assert batch.shape == (5, 37, 37, 3) and batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, data.decode(rows, spec, 1.15))
    assert cache.batch(range(16)).shape == (16, 37, 37, 3)


def test_a_batch_may_be_changed_without_changing_the_cache(data: PairData, encoder: Encoder) -> None:
    cache = PixelCache(data, encoder.spec, budget_bytes=10**9, threads=1)
    before = cache.batch([1]).copy()
    cache.batch([1])[:] = 0
    np.testing.assert_array_equal(cache.batch([1]), before)


@pytest.mark.parametrize("batch_size", [3, 32])
def test_score_pairs_is_the_cosine_of_each_pair(
    labelled: PairData, encoder: Encoder, batch_size: int
) -> None:
    small = Encoder(encoder.towers.model, encoder.tokenizer, encoder.spec, "cpu", batch_size)
    scores = score_pairs(small, labelled)
    assert scores.shape == (11,) and scores.dtype == np.float32
    for row, score in enumerate(scores):
        image = encoder.images([images.decode(labelled.images[row].as_py())])[0]
        words = encoder.texts([labelled.texts[row]])[0]
        assert score == pytest.approx(float(image @ words), abs=1e-5)


def test_nothing_has_no_scores(data: PairData, encoder: Encoder) -> None:
    assert score_pairs(encoder, data.take([])).shape == (0,)


def test_embed_pictures_follows_the_rows(data: PairData, encoder: Encoder) -> None:
    found = embed_pictures(encoder, data, [9, 1, 9])
    expected = encoder.images([images.decode(data.images[row].as_py()) for row in (9, 1, 9)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert embed_pictures(encoder, data, []).shape == (0, encoder.spec.embedding_dim)


def _epoch(count: int, batch_size: int, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    """The full batches of an epoch."""
    steps = range(count // batch_size)
    order = Order(np.arange(count), seed)
    return [order.batch(epoch, step, batch_size).tolist() for step in steps]


def test_an_epoch_is_decided_by_seed_and_number() -> None:
    assert _epoch(100, 8) == _epoch(100, 8)
    assert _epoch(100, 8) != _epoch(100, 8, seed=1)
    assert _epoch(100, 8) != _epoch(100, 8, epoch=1)
    assert _epoch(100, 8, seed=1) != _epoch(100, 8, epoch=1)


def test_any_batch_can_be_had_without_those_before() -> None:
    """So a run resumes in the middle of an epoch; other epochs asked for meanwhile do not matter."""
    in_order = _epoch(100, 8, epoch=3)
    order = Order(np.arange(100), seed=0)
    for step in (7, 0, 11, 3):
        for epoch in (0, 1, 2):
            order.batch(epoch, step, 8)
        assert order.batch(3, step, 8).tolist() == in_order[step]


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(12, 4, 3), (13, 4, 3), (4, 4, 1), (1, 1, 1)])
def test_batches_are_full_and_hold_each_row_once(count: int, batch_size: int, batches: int) -> None:
    found = _epoch(count, batch_size)
    assert [len(batch) for batch in found] == [batch_size] * batches
    rows = list(chain(*found))
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(count))


def test_the_rows_left_out_are_others_in_another_epoch() -> None:
    left_out = [set(range(13)) - set(chain(*_epoch(13, 4, epoch=epoch))) for epoch in range(40)]
    assert set.union(*left_out) == set(range(13))


def test_batches_are_shuffled() -> None:
    rows = list(chain(*_epoch(1000, 10)))
    assert rows != sorted(rows)
    assert abs(np.corrcoef(rows, range(1000))[0, 1]) < 0.1


def test_rows_of_one_unit_stay_together_in_their_own_order() -> None:
    units = np.array([0, 1, 2, 0, 3, 1, 0])
    orders = {tuple(Order(units, seed=0).batch(epoch, 0, 7).tolist()) for epoch in range(30)}
    assert len(orders) > 10
    for order in orders:
        at = {row: place for place, row in enumerate(order)}
        assert at[3] == at[0] + 1 and at[6] == at[3] + 1 and at[5] == at[1] + 1


def test_what_a_picture_shows_is_known_by_any_of_its_rows(data: PairData) -> None:
    other = next(row for row, picture in enumerate(data.picture_ids) if picture != data.picture_ids[0])
    rows = data.take([0, other, 0, other])
    rows = replace(rows, image_groups=[None, None, "a mug", None])
    assert rows.pictures_groups() == ["a mug", None, "a mug", None]


def test_group_ids_are_the_same_whoever_counts() -> None:
    assert group_ids(["b", None, "a", "b"]) == group_ids(["a", "b"]) == {"a": 0, "b": 1}


def test_channels_first() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    out = to_channels_first(pixels)
    assert out.shape == (2, 3, 4, 4) and out.dtype == torch.uint8
    assert out[1, 2, 0, 3] == pixels[1, 0, 3, 2]
    assert out.is_contiguous(memory_format=torch.channels_last)
