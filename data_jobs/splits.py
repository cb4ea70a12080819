"""Leakage-proof splits: what belongs together goes to one split, on any machine and in any order."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


def split_of(key: str, shares: Mapping[str, float], seed: int = 0) -> str:
    """The split that `key` belongs to: all rows with one key land in one split.

    `shares` maps split names to fractions that add up to 1. The choice depends on nothing but the key, the
    shares and the seed, so any number of workers agrees without talking.
    """
    _check(shares)
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if position < edge:
            return name
    return name


@dataclass(frozen=True)
class Group:
    """Rows that no split may separate: a connected component, with its number of rows of each label."""

    name: str
    matches: int
    mismatches: int


@dataclass
class _Filling:
    """Rows that a split has so far, of each kind."""

    share: float
    have: dict[str, int] = field(default_factory=lambda: {"match": 0, "mismatch": 0})


def stratified(
    groups: Iterable[Group], shares: Mapping[str, float], *, matches: int, mismatches: int
) -> Iterator[tuple[str, str]]:
    """(group name, split) for each group in the order given; both labels come close to their shares in each split.

    Greedy: a group goes to the split that lacks most of what the group has, so give the largest groups first.
    `matches` and `mismatches` are the totals over all groups. Holds only counts.
    """
    _check(shares)
    splits = {name: _Filling(share) for name, share in shares.items() if share > 0}
    totals = {"match": matches, "mismatch": mismatches}

    def lack(split: _Filling, group: Group) -> float:
        parts = {"match": group.matches, "mismatch": group.mismatches}
        return sum(
            rows * (1 - split.have[label] / (split.share * totals[label]))
            for label, rows in parts.items()
            if rows
        )

    for group in groups:
        name = max(splits, key=lambda name: lack(splits[name], group))
        splits[name].have["match"] += group.matches
        splits[name].have["mismatch"] += group.mismatches
        yield group.name, name


def in_order(
    groups: Iterable[Group], shares: Mapping[str, float], *, rows_of_kind: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """(group name, split): the first groups fill the first split, the next the second, and so on, kind by kind.

    A group's `kind` is whether it holds matches, mismatches or both; `rows_of_kind` are the totals of each.
    """
    _check(shares)
    have: dict[str, int] = dict.fromkeys(rows_of_kind, 0)
    for group in groups:
        of = kind(group)
        position = have[of] / max(1, rows_of_kind[of])
        edge, chosen = 0.0, ""
        for name, share in shares.items():
            edge += share
            if share > 0:
                chosen = name
                if position < edge - 1e-9:
                    break
        have[of] += group.matches + group.mismatches
        yield group.name, chosen


def kind(group: Group) -> str:
    """`match`, `mismatch` or `both`."""
    if group.matches and group.mismatches:
        return "both"
    return "match" if group.matches else "mismatch"


def _check(shares: Mapping[str, float]) -> None:
    total = sum(shares.values())
    if abs(total - 1) > 1e-6 or min(shares.values()) < 0:
        raise ValueError(f"The shares {dict(shares)} add up to {total}, not to 1.")
