"""Matching pairs, and which of their pictures and texts are in truth of one thing.

Equal texts, one group, one picture with two captions: a chain of such links leads from any picture of a thing to any
text of it, so that a text of the same thing is never a mismatch.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_jobs import files
from data_jobs.items import Record
from data_jobs.text import normalize, text_key

_NO_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Matches:
    """The R pairs of label 1 among some records, and their T distinct texts."""

    rows: list[int]  # [R] position of each pair among the records
    names: list[str]  # [R] what identifies a pair on every machine and in any order of rows
    texts: NDArray[np.int64]  # [R] which of the distinct texts each pair has
    keys: NDArray[np.uint64]  # [T] text_key of each distinct text as a number, ascending
    sources: list[int]  # [T] position of the first record that has the text
    things: NDArray[np.int64]  # [T] number of the thing that each text describes
    known: list[frozenset[int]]  # [R] texts that the records call a mismatch of the pair's picture

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Matches":
        """Records of label 0 tell known mismatches, and by their group what a picture shows; no texts to draw."""
        keys = [text_key(record.text) for record in records]
        thing_of = _things(records, keys)
        rows = [row for row, record in enumerate(records) if record.label == 1]
        first = {keys[row]: row for row in reversed(rows)}
        number = {key: n for n, key in enumerate(sorted(first))}
        known = defaultdict(set)
        for key, record in zip(keys, records, strict=True):
            if record.label == 0 and key in number:
                known[record.image_path].add(number[key])
        return cls(
            rows=rows,
            names=_names([f"{files.name(records[row].image_path)}\0{keys[row]}" for row in rows]),
            texts=np.array([number[keys[row]] for row in rows], np.int64),
            keys=np.array([int(key, 16) for key in number], np.uint64),
            sources=[first[key] for key in number],
            things=np.array([thing_of["text", key] for key in number], np.int64),
            known=[frozenset(known.get(records[row].image_path, ())) for row in rows],
        )


def components(links: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    """A number for every linked node; nodes have one number if a chain of links leads from one to the other."""
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for one, other in links:
        parent[root(one)] = root(other)
    numbers: dict[Hashable, int] = {}
    return {node: numbers.setdefault(root(node), len(numbers)) for node in list(parent)}


def _things(records: Sequence[Record], keys: Sequence[str]) -> dict[Hashable, int]:
    """Numbers by ("text", key) and ("image", path); texts that differ in no letter or digit are one."""

    def links() -> Iterable[tuple[Hashable, Hashable]]:
        for key, record in zip(keys, records, strict=True):
            image, words = ("image", record.image_path), ("text", key)
            if record.image_group is not None:
                yield image, ("group", record.image_group)
            if record.label == 1:
                yield image, words
                yield words, ("group", record.text_group)
                letters = _NO_LETTERS.sub("", normalize(record.text).casefold())
                if letters:
                    yield words, ("letters", letters)

    return components(links())


def _names(names: Sequence[str]) -> list[str]:
    """`names` with a number behind each, so that no two are equal."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append(f"{name}\0{seen[name]}")
        seen[name] += 1
    return numbered
