"""Matching pairs -> pairs whose text is known not to fit, for training, calibration and tests."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_jobs.matches import Matches

Kind = Literal["hard", "random"]
Texts = NDArray[np.int64]
"""Numbers of distinct texts of `Matches`, ascending."""

_WINDOW = 64  # texts of a large pool that one draw looks at


def mismatched(
    groups: Sequence[str],
    *,
    categories: Sequence[str | None] | None = None,
    hard_fraction: float = 0.5,
    seed: int = 0,
) -> list[tuple[int, int, str]]:
    """For each row i of matching pairs choose a row j whose text does not describe picture i.

    `groups[i]` names what pair i is about: a text of the same group is in truth a match and never chosen.
    A `hard_fraction` of the rows gets a text of the same category, where there is another group in it
    ("hard"); the others get one of any other group ("random"). Texts are drawn uniformly over groups, so that
    a group with many photos is not over-represented.

    Returns (i, j, kind) for each row in order; rows are left out only if there is a single group.
    """
    rng = random.Random(seed)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    names = sorted(rows_of)
    of_category: dict[str, set[str]] = defaultdict(set)
    if categories is not None:
        for group, category in zip(groups, categories, strict=True):
            if category:
                of_category[category].add(group)
    neighbours = {category: sorted(members) for category, members in of_category.items()}

    chosen = []
    for row, group in enumerate(groups):
        category = categories[row] if categories is not None else None
        near = neighbours.get(category, []) if category else []
        hard = len(near) > 1 and rng.random() < hard_fraction
        pool = near if hard else names
        if len(pool) < 2:
            continue
        other = rng.choice(pool)
        while other == group:
            other = rng.choice(pool)
        chosen.append((row, rng.choice(rows_of[other]), "hard" if hard else "random"))
    return chosen


class Mismatch(NamedTuple):
    """The picture of one record with the text of another: positions among the records, and how it was chosen."""

    row: int
    text_row: int
    kind: Kind


@dataclass(frozen=True)
class Draw:
    """Mismatches in the order of the matches, and what was asked for."""

    mismatches: list[Mismatch]
    asked: int
    hard_asked: int
    without_hard: int  # matches for which there is no hard text at all

    def count(self, kind: Kind) -> int:
        return sum(mismatch.kind == kind for mismatch in self.mismatches)


def draw(
    matches: Matches,
    pools: Sequence[Texts] | None = None,
    *,
    hard_fraction: float = 0.5,
    per_match: int = 1,
    seed: int = 0,
) -> Draw:
    """Choose `per_match` distinct texts for every match, none of the same thing and none a known mismatch already.

    `pools[i]` are the texts that would be hard for match i (its own thing's are passed over). A `hard_fraction` of all
    draws comes from there, as near as the pools allow: a draw whose pool is empty is left to another match.
    The others are drawn from all texts, each as likely. A match gets fewer where there are not enough texts.

    What a match gets depends on the seed, its picture's file name, its text and the candidates, never on its line.
    A match that is added to the data changes another's texts only where its own text is chosen, and the
    kind of at most one draw.
    """
    chooser = _Chooser(matches, seed)
    count = len(matches.rows)
    asked = count * per_match
    hard_asked = round(hard_fraction * asked) if pools is not None else 0
    hard: list[list[int]] = [[] for _ in range(count)]
    without = 0
    if pools is not None and hard_asked:
        offers = [chooser.choose(row, pool, per_match) for row, pool in enumerate(pools)]
        without = sum(not offer for offer in offers)
        left = hard_asked
        for row in chooser.turns(per_match):
            if left and len(hard[row]) < len(offers[row]):
                hard[row].append(offers[row][len(hard[row])])
                left -= 1
    everything = np.arange(len(matches.keys))
    found = []
    for row, record in enumerate(matches.rows):
        others = chooser.choose(row, everything, per_match - len(hard[row]), taken=hard[row])
        found += [Mismatch(record, matches.sources[text], "hard") for text in hard[row]]
        found += [Mismatch(record, matches.sources[text], "random") for text in others]
    return Draw(found, asked, hard_asked, without)


def same_category(matches: Matches, categories: Sequence[str]) -> list[Texts]:
    """For each match the texts of all matches of its category: pools for `draw`; `categories` [R], "" for none."""
    members: dict[str, set[int]] = defaultdict(set)
    for text, category in zip(matches.texts.tolist(), categories, strict=True):
        if category:
            members[category].add(text)
    pools = {category: np.array(sorted(texts), np.int64) for category, texts in members.items()}
    return [pools.get(category, np.empty(0, np.int64)) for category in categories]


class _Chooser:
    """Choices that depend on hashes alone.

    The texts stand on a ring in the order of their keys, which are hashes. A match looks at the _WINDOW texts
    that follow its own hash, and takes those whose key mixed with it is least (rendezvous hashing: Thaler and
    Ravishankar, "Using name-based mappings to increase hit rates", 1998). With few texts each is exactly as likely as
    another; with many their chances differ by about 1/sqrt(_WINDOW), an eighth.
    """

    def __init__(self, matches: Matches, seed: int) -> None:
        self._matches = matches
        digests = [hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")) for name in matches.names]
        self._hashes = np.array([int.from_bytes(digest.digest()[:8]) for digest in digests], np.uint64)
        self._places = np.searchsorted(matches.keys, self._hashes)

    def turns(self, per_match: int) -> list[int]:
        """Every match `per_match` times, in a random order."""
        turns = np.arange(per_match, dtype=np.uint64)
        order = np.argsort(_mixed(_mixed(self._hashes)[:, None] + turns), axis=None, kind="stable")
        rows: list[int] = (order // per_match).tolist()
        return rows

    def choose(self, row: int, pool: Texts, count: int, taken: Sequence[int] = ()) -> list[int]:
        """At most `count` distinct texts of `pool` that fit neither match `row` nor are `taken`."""
        if not count or not len(pool):
            return []
        start = np.searchsorted(pool, self._places[row])
        window = pool[(start + np.arange(min(_WINDOW, len(pool)))) % len(pool)]
        allowed = self._allowed(row, window, taken)
        if len(allowed) < count and len(pool) > len(window):
            allowed = self._allowed(row, pool, taken)
        ranks = _mixed(self._matches.keys[allowed] ^ self._hashes[row])
        chosen: list[int] = allowed[np.argsort(ranks, kind="stable")[:count]].tolist()
        return chosen

    def _allowed(self, row: int, texts: Texts, taken: Sequence[int]) -> Texts:
        matches = self._matches
        texts = texts[matches.things[texts] != matches.things[matches.texts[row]]]
        excluded = [*matches.known[row], *taken]
        return texts[~np.isin(texts, excluded)] if excluded else texts


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
