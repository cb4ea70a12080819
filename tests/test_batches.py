"""Batches: the same global rows, texts and views for any number of workers, from any step on."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from data_jobs.errors import InputError
from train_jobs import batches, workers
from train_jobs.augment import Augmentation
from train_jobs.batches import Batch, Batches, learnable
from train_jobs.frozen import FrozenFeatures
from train_jobs.losses import NO_GROUP
from train_jobs.pairdata import PairData

MODEL = tiny.encoder()
ROWS = tiny.pairs(26, things=11)
MIXED = Augmentation(cutmix=0.7)


def _batches(rows: PairData = ROWS, **changes: object) -> Batches:
    return Batches(MODEL, rows, tiny.schedule(**changes), None, None)


def _as_worker(rank: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the share of a worker: Batches asks for nothing else of the others."""
    monkeypatch.setattr(workers, "rank", lambda: rank)
    monkeypatch.setattr(workers, "count", lambda: count)


def _steps(made: Batches, first: int = 0, last: int = 5) -> list[list[Batch]]:
    return list(made.from_step(first, last))


def _tensors(batch: Batch) -> list[Tensor]:
    assert isinstance(batch.texts, tuple)
    return [batch.images, *batch.texts, batch.image_groups, batch.text_groups]


def _contrasted(parts: list[Batch]) -> list[tuple[int, tuple[int, ...]]]:
    """(group, token ids) of all texts but padding, in order of the ids."""
    found = []
    for part in parts:
        assert isinstance(part.texts, tuple)
        for group, ids, mask in zip(part.text_groups.tolist(), *part.texts, strict=True):
            if group != NO_GROUP:
                found.append((group, tuple(ids[mask == 1].tolist())))
    return sorted(found)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("loss", ["contrastive", "mixed"])
def test_all_workers_together_see_the_global_batch(
    loss: str, count: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in the same order and views to the bit, whoever computes them; every text once (or beside its picture)."""
    how = {"contrastive": {}, "mixed": {"augmentation": MIXED}}[loss]
    alone = _steps(_batches(**how))
    shares = []
    for rank in range(count):
        _as_worker(rank, count, monkeypatch)
        shares.append(_steps(_batches(accumulate=accumulate, **how)))
    for step, (whole,) in enumerate(alone):
        parts = [part for share in shares for part in share[step]]
        assert [len(part.images) for part in parts] == [8 // count // accumulate] * (count * accumulate)
        names = ["images", "image_groups"]
        names += ["second_groups", "first_share"] if whole.first_share is not None else []
        for name in names:
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(whole, name)), name
        assert _contrasted(parts) == _contrasted([whole])


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_a_later_start_gives_what_the_undisturbed_run_gets_there(first: int) -> None:
    """Three steps an epoch, so step 3 begins the second one."""
    whole = _steps(_batches(accumulate=2, augmentation=MIXED), 0, 5)
    rest = _steps(_batches(accumulate=2, augmentation=MIXED), first, 5)
    assert len(rest) == 5 - first
    for expected, found in zip(whole[first:], rest, strict=True):
        for one, other in zip(expected, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(_tensors(one), _tensors(other), strict=True))


def test_nothing_is_left_to_do_at_the_end() -> None:
    assert _steps(_batches(), 5, 5) == []


def test_an_epoch_shows_each_row_at_most_once_and_never_a_short_batch() -> None:
    made = _batches(tiny.pairs(26))
    assert (made.batch_size, made.per_epoch) == (8, 3)
    epochs = []
    for epoch in range(2):
        groups = [part.image_groups for (part,) in _steps(made, epoch * 3, epoch * 3 + 3)]
        assert [len(g) for g in groups] == [8, 8, 8]
        rows = torch.cat(groups).tolist()
        assert len(set(rows)) == 24
        epochs.append(rows)
    assert epochs[0] != epochs[1]


def test_the_seed_decides_order_and_views() -> None:
    one, again, other = (_steps(_batches(seed=seed), 0, 1)[0][0] for seed in (3, 3, 4))
    assert torch.equal(one.images, again.images) and torch.equal(one.image_groups, again.image_groups)
    assert not torch.equal(one.image_groups, other.image_groups)


def test_a_picture_is_seen_in_another_view_in_the_next_epoch() -> None:
    first, second = ((part,) for (part,) in _steps(_batches(tiny.pairs(1), batch_size=1), 0, 2))
    assert not torch.equal(first[0].images, second[0].images)
    assert first[0].images.shape == (1, 3, tiny.SIDE, tiny.SIDE) and first[0].images.dtype == torch.float32


def test_without_augmentation_a_picture_is_as_the_encoder_sees_it() -> None:
    rows = tiny.pairs(8)
    (part,) = _steps(_batches(rows, augmentation=Augmentation.none()), 0, 1)[0]
    expected = rows.decode(np.argsort(rows.image_groups), MODEL.spec)  # numbers of groups follow their names
    torch.testing.assert_close(
        part.images.permute(0, 2, 3, 1),
        torch.from_numpy(expected[part.image_groups.numpy()]).float(),
        atol=0.01,
        rtol=0,
    )


@pytest.mark.parametrize("budget", [0, 10**8])
def test_a_small_cache_changes_nothing(budget: int) -> None:
    (part,) = _steps(_batches(cache_bytes=budget), 2, 3)[0]
    (expected,) = _steps(_batches(), 2, 3)[0]
    assert torch.equal(part.images, expected.images)


def test_a_share_of_the_steps_covers_each_picture_with_a_piece_of_another() -> None:
    plain = _steps(_batches(augmentation=Augmentation()), 0, 60)
    mixed = _steps(_batches(augmentation=MIXED), 0, 60)
    changed = 0
    for (before,), (after,) in zip(plain, mixed, strict=True):
        assert torch.equal(before.image_groups, after.image_groups)
        if after.first_share is None:
            assert torch.equal(before.images, after.images) and after.second_groups is None
            continue
        changed += 1
        other = before.images.roll(4, 0)  # half a batch further on, in its own view
        assert torch.equal(after.second_groups, before.image_groups.roll(4))
        piece = ((after.images == other) & (before.images != other)).any(1)  # [n, S, S]
        assert torch.equal(after.images, torch.where(piece[:, None], other, before.images))
        covered = piece.any(0).sum() / piece[0].numel()
        assert covered == pytest.approx(1 - after.first_share[0].item(), abs=1e-6)
        assert len(set(after.first_share.tolist())) == 1
    assert 30 <= changed <= 54  # 42 expected of 60 steps, with 3.5 of deviation


def test_each_text_is_in_the_bank_once_and_padding_fills_equal_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eleven texts for two workers with two micro-batches each: three a micro-batch, one of them padding."""
    parts = []
    for rank in (0, 1):
        _as_worker(rank, 2, monkeypatch)
        parts += _steps(_batches(accumulate=2), 0, 1)[0]
    assert [len(part.text_groups) for part in parts] == [3, 3, 3, 3]
    groups = torch.cat([part.text_groups for part in parts]).tolist()
    assert sorted(groups) == [NO_GROUP, *range(11)]
    names = sorted(set(ROWS.text_groups))
    token_ids = {
        names.index(g): MODEL.token_ids([t])[0] for g, t in zip(ROWS.text_groups, ROWS.texts, strict=True)
    }
    assert _contrasted(parts) == sorted((group, tuple(ids)) for group, ids in token_ids.items())


def test_a_picture_is_contrasted_with_every_text_but_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_worker(0, 2, monkeypatch)
    assert _batches(accumulate=2).texts_per_picture == 11
    assert _batches(loss="pairs").texts_per_picture == 8


def test_beyond_the_limit_texts_are_those_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TEXT_BANK_LIMIT", 10)
    made = _batches()
    (part,) = _steps(made, 0, 1)[0]
    assert torch.equal(part.text_groups, part.image_groups)
    assert made.texts_per_picture == 8
    monkeypatch.setattr(batches, "TEXT_BANK_LIMIT", 11)
    (part,) = _steps(_batches(), 0, 1)[0]
    assert sorted(part.text_groups.tolist()) == list(range(11))


def _told(parts: list[Batch]) -> list[tuple[bytes, int, float]]:
    """(picture, group of the text, label) of every labelled pair, in order."""
    found = []
    for part in parts:
        assert part.pairs is not None
        columns = (part.pairs.images.tolist(), part.pairs.texts.tolist(), part.pairs.labels.tolist())
        for image, text, label in zip(*columns, strict=True):
            found.append((part.images[image].numpy().tobytes(), int(part.text_groups[text]), label))
    return found


LABELLED = tiny.labelled(10, each=3)


def test_labelled_pairs_keep_their_own_texts_and_labels() -> None:
    (part,) = _steps(_batches(LABELLED, loss="pairs", batch_size=30), 0, 1)[0]
    assert part.pairs is not None and len(part.pairs.labels) == 30
    of_pairs = part.image_groups[part.pairs.images] == part.text_groups[part.pairs.texts]
    assert torch.equal(of_pairs.float(), part.pairs.labels)
    assert part.pairs.labels.sum() == 10


def test_a_step_encodes_each_picture_and_each_text_of_labelled_pairs_once() -> None:
    for (part,) in _steps(_batches(LABELLED, loss="pairs", batch_size=9), 0, 6):
        assert len(part.images) == 3  # nine pairs of three pictures: a picture's pairs stay together
        assert len(part.text_groups) == len(set(part.text_groups.tolist())) < 9


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("how", [Augmentation(), MIXED])
def test_labelled_pairs_are_the_same_for_any_number_of_workers(
    how: Augmentation, count: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those whose picture's pairs are split between two workers: it has one view."""
    plan = {"loss": "pairs", "batch_size": 16, "augmentation": how}
    alone = _steps(_batches(LABELLED, **plan), 0, 4)
    shares = []
    for rank in range(count):
        _as_worker(rank, count, monkeypatch)
        shares.append(_steps(_batches(LABELLED, accumulate=accumulate, **plan), 0, 4))
    for step, whole in enumerate(alone):
        assert _told([part for share in shares for part in share[step]]) == _told(whole)


def test_labels_of_covered_pictures_are_shares_of_both() -> None:
    """At 0.7 a picture is told by its own label times what is left of it, and by the group of the piece on it."""
    plain = _steps(_batches(LABELLED, loss="pairs", batch_size=15), 0, 20)
    mixed = _steps(_batches(LABELLED, loss="pairs", batch_size=15, augmentation=MIXED), 0, 20)
    seen = 0
    for (before,), (after,) in zip(plain, mixed, strict=True):
        assert before.pairs is not None and after.pairs is not None
        assert torch.equal(before.pairs.images, after.pairs.images)
        if torch.equal(before.images, after.images):
            assert torch.equal(before.pairs.labels, after.pairs.labels)
            continue
        matching = before.pairs.labels == 1
        (share,) = set(after.pairs.labels[matching].tolist())
        of_others = after.pairs.labels[~matching]
        assert 0 < share < 1
        assert torch.equal(of_others, (of_others > 0).float() * (1 - share))
        seen += int((of_others > 0).any())
    assert seen  # some mismatch described the piece


def test_a_picture_of_nobody_knows_what_has_no_match() -> None:
    rows = tiny.pairs(8)
    unknown = replace(rows, image_groups=[None, *rows.image_groups[1:]])
    (part,) = _steps(_batches(unknown), 0, 1)[0]
    assert (part.image_groups == NO_GROUP).sum() == 1
    assert not (part.text_groups == NO_GROUP).any()


def test_cached_features_stand_for_pictures_and_texts() -> None:
    images, texts = FrozenFeatures.of_images(MODEL, ROWS), FrozenFeatures.of_texts(MODEL, ROWS)
    plan = tiny.schedule(loss="pairs")
    (part,) = next(Batches(MODEL, ROWS, plan, images, texts).from_step(0, 1))
    (plain,) = next(Batches(MODEL, ROWS, plan, None, None).from_step(0, 1))
    assert part.images.shape == (8, 16) and isinstance(part.texts, Tensor)
    assert isinstance(plain.texts, tuple)
    assert torch.equal(part.image_groups, plain.image_groups)
    assert part.pairs is not None and plain.pairs is not None
    assert torch.equal(part.pairs.texts, plain.pairs.texts)
    with torch.no_grad():
        torch.testing.assert_close(part.texts, MODEL.towers.pool_texts(*plain.texts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("pairs", "batch_size", "count", "accumulate", "expected", "per_epoch"),
    [
        (26, 8, 1, 1, 8, 3),
        (26, 64, 1, 1, 26, 1),
        (10, 64, 2, 2, 8, 1),
        (7, 8, 4, 1, 4, 1),
        (16, 8, 2, 1, 8, 2),
    ],
)
def test_a_batch_is_no_larger_than_the_data_and_can_be_shared_out(
    pairs: int,
    batch_size: int,
    count: int,
    accumulate: int,
    expected: int,
    per_epoch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _as_worker(0, count, monkeypatch)
    made = _batches(tiny.pairs(pairs), batch_size=batch_size, accumulate=accumulate)
    assert (made.batch_size, made.per_epoch) == (expected, per_epoch)


def test_too_few_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_worker(0, 2, monkeypatch)
    with pytest.raises(InputError, match="3 pairs do not feed 2 workers with 2 micro-batches") as refusal:
        _batches(tiny.pairs(3), accumulate=2)
    assert refusal.value.code == "too_few_pairs"


def test_what_there_is_to_learn_from() -> None:
    rows = tiny.pairs(6, mismatches=(0, 4))
    assert learnable(rows, "contrastive").texts == [rows.texts[row] for row in (1, 2, 3, 5)]
    assert learnable(ROWS, "sigmoid") is ROWS and learnable(rows, "pairs") is rows
    with pytest.raises(InputError, match="None of the 2 training pairs") as refusal:
        learnable(rows.take([0, 4]), "contrastive")
    assert refusal.value.code == "no_matches"
    for one, kind in ((rows.take([0, 4]), "mismatches"), (ROWS, "matches")):
        with pytest.raises(InputError, match=f"are {kind}; --loss pairs learns from both") as refusal:
            learnable(one, "pairs")
        assert refusal.value.code == "one_label"
