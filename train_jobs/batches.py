"""Batches: this worker's share of any step's global batch, the same for any number of workers."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from data_jobs.errors import InputError
from train_jobs import losses, workers
from train_jobs.augment import Augmentation, cut, draws, views
from train_jobs.encoder import Encoder
from train_jobs.frozen import FrozenFeatures
from train_jobs.pairdata import Distinct, Order, PairData, PixelCache, group_ids, to_channels_first
from train_jobs.schedule import Loss, Schedule
from train_jobs.towers import Texts

CANVAS = 1.15
"""Training pictures are decoded this much larger than the model's input, so that crops keep detail."""
TEXT_BANK_LIMIT = 512
"""With at most this many distinct texts, each step contrasts its pictures with all of them."""


@dataclass(frozen=True)
class Pairs:
    """The labelled pairs of a micro-batch, as rows of its distinct pictures and texts."""

    images: Tensor  # int64 [n]
    texts: Tensor  # int64 [n]
    labels: Tensor  # float [n]: 1 match, 0 mismatch, something between for pictures with a piece of another


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one worker, on the device."""

    images: Tensor  # float [n, 3, S, S] in 0..255, or pooled features [n, H]
    texts: Texts  # m of them
    image_groups: Tensor  # int64 [n]
    text_groups: Tensor  # int64 [m]
    pairs: Pairs | None = None  # with labels; without, groups tell what matches
    second_groups: Tensor | None = None  # int64 [n]: of the pictures that cover a piece (CutMix)
    first_share: Tensor | None = None  # float [n]: what is left of each picture, 0..1


@dataclass(frozen=True)
class _Fetched:
    """What can be fetched of a micro-batch while the step before is computed."""

    images: Tensor  # uint8 [n, 3, C, C], or pooled features
    drawn: Tensor  # float [n, DRAWS]
    image_groups: Tensor
    text_rows: np.ndarray
    text_groups: Tensor
    pairs: Pairs | None
    cover: "_Cover | None"


@dataclass(frozen=True)
class _Covers:
    """Of a global batch of N: the row that covers a piece of each row's picture, its view, and the piece."""

    rows: np.ndarray  # [N]
    drawn: Tensor  # float [N, DRAWS]
    where: tuple[slice, slice]


@dataclass(frozen=True)
class _Cover:
    """Of a micro-batch of n: the pictures of which a piece covers its own, and where."""

    images: Tensor  # uint8 [n, 3, C, C]
    drawn: Tensor  # float [n, DRAWS]
    groups: Tensor
    where: tuple[slice, slice]
    first_share: float


class Batches:
    """Steps of shuffled global batches; a last short batch of an epoch is left out unless it is the only one.

    Labelled pairs of one picture stay together, so that a step encodes each of its pictures once, and each text.
    """

    def __init__(
        self,
        encoder: Encoder,
        data: PairData,
        schedule: Schedule,
        frozen_images: FrozenFeatures | None,
        frozen_texts: FrozenFeatures | None,
    ) -> None:
        self._encoder, self._data, self._schedule = encoder, data, schedule
        self._rank, self._workers = workers.rank(), workers.count()
        self.waited = 0.0  # seconds that steps have waited for their data
        parts = self._workers * schedule.accumulate
        self.batch_size = min(schedule.batch_size, len(data) // parts * parts)
        if self.batch_size == 0:
            raise InputError(
                "too_few_pairs",
                f"{len(data)} pairs do not feed {self._workers} workers with {schedule.accumulate} micro-batches each.",
                "Use --num-workers 1 and --accumulate 1.",
            )
        self.per_epoch = max(1, len(data) // self.batch_size)
        self._frozen_images, self._frozen_texts = frozen_images, frozen_texts
        if frozen_images is None:
            plain = schedule.augmentation == Augmentation.none()
            self._cache = PixelCache(
                data,
                encoder.spec,
                1.0 if plain else CANVAS,
                budget_bytes=schedule.cache_bytes,
                threads=schedule.threads,
            )
        self._ids = encoder.token_ids(data.texts) if frozen_texts is None else []
        self._labelled = schedule.loss == "pairs"
        self._picture_of = Distinct.of(data.picture_ids).index
        self._text_of = Distinct.of(data.texts).index
        shows = data.pictures_groups() if self._labelled else data.image_groups
        number = group_ids([*shows, *data.text_groups])
        self._image_groups = torch.tensor([number.get(g or "", losses.NO_GROUP) for g in shows])
        self._text_groups = torch.tensor([number[g] for g in data.text_groups])
        self._order = Order(self._picture_of if self._labelled else np.arange(len(data)), schedule.seed)
        self._bank = None if self._labelled else self._bank_rows()

    @property
    def texts_per_picture(self) -> int:
        """How many texts a picture is contrasted with in a step."""
        return self.batch_size if self._bank is None else len(set(self._data.texts))

    def from_step(self, first: int, last: int) -> Generator[list[Batch], None, None]:
        """The micro-batches of steps `first` to `last` - 1, counted over all epochs; fetched one step ahead."""
        if first >= last:
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._fetch, first)
            for step in range(first, last):
                asked = time.perf_counter()
                fetched = coming.result()
                self.waited += time.perf_counter() - asked
                if step + 1 < last:
                    coming = ahead.submit(self._fetch, step + 1)
                yield [self._on_device(one) for one in fetched]

    def _fetch(self, step: int) -> list[_Fetched]:
        schedule = self._schedule
        epoch, within = divmod(step, self.per_epoch)
        rows = self._order.batch(epoch, within, self.batch_size)
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        drawn = draws(len(rows), generator)
        chance = torch.rand(4, generator=generator)
        covers = np.roll(np.arange(len(rows)), len(rows) // 2)
        if self._labelled:  # a picture has one view in the batch, whichever worker computes it
            pictures = Distinct.of(self._picture_of[rows].tolist())
            first = np.array(pictures.first)[pictures.index]
            drawn, covers = drawn[first], covers[first]
        cover = None
        if chance[0] < schedule.augmentation.cutmix:
            cover = _Covers(rows[covers], drawn[covers], cut(self._encoder.spec.image_size, chance[1:]))
        share = self.batch_size // self._workers
        mine = np.arange(self._rank * share, (self._rank + 1) * share)
        return [
            self._fetch_part(number, rows, drawn, places, cover)
            for number, places in enumerate(np.array_split(mine, schedule.accumulate))
        ]

    def _fetch_part(
        self, number: int, rows: np.ndarray, drawn: Tensor, places: np.ndarray, covers: _Covers | None
    ) -> _Fetched:
        """The micro-batch `number`, which is `places` of the global batch of `rows`."""
        shown, pairs = places, None
        if self._labelled:
            pictures = Distinct.of(self._picture_of[rows[places]].tolist())
            texts = Distinct.of(self._text_of[rows[places]].tolist())
            labels = torch.from_numpy(self._data.labels[rows[places]]).float()
            pairs = Pairs(torch.from_numpy(pictures.index), torch.from_numpy(texts.index), labels)
            shown, text_rows = places[pictures.first], rows[places[texts.first]]
            text_groups = self._text_groups[text_rows]
        elif self._bank is not None:
            part = np.array_split(np.arange(len(self._bank[0])), self._schedule.accumulate)[number]
            text_rows, text_groups = self._bank[0][part], self._bank[1][part]
        else:
            text_rows, text_groups = rows[places], self._text_groups[rows[places]]
        cover = None
        if covers is not None:
            cover = self._cover(covers, shown)
            pairs = None if pairs is None else _mixed(pairs, cover, text_groups)
        return _Fetched(
            images=self._images(rows[shown]),
            drawn=drawn[shown],
            image_groups=self._image_groups[rows[shown]],
            text_rows=text_rows,
            text_groups=text_groups,
            pairs=pairs,
            cover=cover,
        )

    def _images(self, rows: np.ndarray) -> Tensor:
        if self._frozen_images is not None:
            return self._frozen_images.of(rows)
        return to_channels_first(self._cache.batch(rows.tolist()))

    def _cover(self, covers: _Covers, shown: np.ndarray) -> _Cover:
        rows, (down, across) = covers.rows[shown], covers.where
        covered = (down.stop - down.start) * (across.stop - across.start)
        first_share = 1 - covered / self._encoder.spec.image_size**2
        return _Cover(
            self._images(rows), covers.drawn[shown], self._image_groups[rows], covers.where, first_share
        )

    def _on_device(self, fetched: _Fetched) -> Batch:
        how, device, size = self._schedule.augmentation, self._encoder.device, self._encoder.spec.image_size
        images = fetched.images.to(device)
        if images.ndim == 4:
            images = views(images, size, how, fetched.drawn).contiguous(memory_format=torch.channels_last)
        second_groups = first_share = None
        if (cover := fetched.cover) is not None:
            down, across = cover.where
            covering = views(cover.images.to(device), size, how, cover.drawn)
            images[:, :, down, across] = covering[:, :, down, across]
            if fetched.pairs is None:
                second_groups = cover.groups.to(device)
                first_share = torch.full((len(images),), cover.first_share, device=device)
        pairs = fetched.pairs
        return Batch(
            images=images,
            texts=self._texts(fetched.text_rows),
            image_groups=fetched.image_groups.to(device),
            text_groups=fetched.text_groups.to(device),
            pairs=None
            if pairs is None
            else Pairs(pairs.images.to(device), pairs.texts.to(device), pairs.labels.to(device)),
            second_groups=second_groups,
            first_share=first_share,
        )

    def _texts(self, rows: np.ndarray) -> Texts:
        if self._frozen_texts is not None:
            return self._frozen_texts.of(rows).to(self._encoder.device)
        return self._encoder.padded([self._ids[row] for row in rows])

    def _bank_rows(self) -> tuple[np.ndarray, Tensor] | None:
        """This worker's share of one row for each distinct text, padded to equal shares with NO_GROUP."""
        first = {t: row for row, t in reversed(list(enumerate(self._data.texts)))}
        if len(first) > TEXT_BANK_LIMIT:
            return None
        rows = np.array(sorted(first.values()))
        short = -len(rows) % (self._workers * self._schedule.accumulate)
        groups = torch.cat([self._text_groups[rows], torch.full((short,), losses.NO_GROUP)])
        rows = np.concatenate([rows, rows[:1].repeat(short)])
        return rows[self._rank :: self._workers], groups[self._rank :: self._workers]


def _mixed(pairs: Pairs, cover: _Cover, text_groups: Tensor) -> Pairs:
    """A text matches a picture with a piece of another as far as it matches each: by the label, and by the groups."""
    of_second, of_text = cover.groups[pairs.images], text_groups[pairs.texts]
    second = ((of_second == of_text) & (of_second != losses.NO_GROUP)).float()
    labels = cover.first_share * pairs.labels + (1 - cover.first_share) * second
    return Pairs(pairs.images, pairs.texts, labels)


def learnable(data: PairData, loss: Loss) -> PairData:
    """The pairs that `loss` learns from: all, of both labels, or the matches.

    Raises InputError (one_label, no_matches).
    """
    rows = np.flatnonzero(data.labels == 1)
    if loss == "pairs":
        if len(rows) in (0, len(data)):
            raise InputError(
                "one_label",
                f"All {len(data)} training pairs are {'matches' if len(rows) else 'mismatches'}; --loss pairs learns "
                "from both.",
                "Make mismatches with data_jobs.make_mismatches, or use --loss contrastive for matches alone.",
            )
        return data
    if not len(rows):
        raise InputError(
            "no_matches",
            f"None of the {len(data)} training pairs is a match.",
            "Contrastive training learns from matches; use --loss pairs for mismatches alone.",
        )
    return data if len(rows) == len(data) else data.take(cast(np.ndarray, rows))
