"""What every raw format offers.

A source is read in two steps: `raws` runs through a file quickly and in one place, `items` parses what it found, in
as many places as there are workers. A reader holds one raw row at a time; one broken row becomes one `Reject`,
never an exception. Only a source that cannot be read at all raises InputError.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from data_jobs.items import Item


class Raw(NamedTuple):
    """A row as it stands in a file, not yet parsed; `rows` counts what it will become, about."""

    file: str
    line: int
    content: Any
    rows: int = 1


class Source(Protocol):
    """One raw format. Implementations are frozen dataclasses, so that they travel to workers."""

    @property
    def name(self) -> str:
        """What the user gave, for the report."""

    @property
    def needs_pairs(self) -> bool:
        """Whether a dataset of passages alone would mean that something is wrong."""

    def files(self) -> list[str]:
        """Every file to read, absolute and sorted. Raises InputError when there is none."""

    def raws(self, file: str) -> Iterator[Raw]:
        """Run through one file. The same file gives the same raws in the same order, always."""

    def items(self, raw: Raw) -> Iterator[Item]:
        """Parse one of them."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive raws: the unit of work. `name` is the same on every run over the same files."""

    name: str
    raws: list[Raw]


MAX_GROUPS = 64
"""Files are read in at most this many groups side by side; it is part of the chunks' names, so do not change it."""


def groups(found: Sequence[str]) -> list[tuple[int, list[str]]]:
    """(number, consecutive files) that one reader takes, depending on nothing but the files."""
    count = min(len(found), MAX_GROUPS)
    edges = [len(found) * number // count for number in range(count + 1)] if count else []
    return [(n, list(found[a:b])) for n, (a, b) in enumerate(pairwise(edges))]


def chunks(source: Source, group: int, members: Sequence[str], size: int) -> Iterator[Chunk]:
    """The raws of a group's files, across files, in chunks of about `size` rows."""
    raws: list[Raw] = []
    rows = number = 0
    for file in members:
        for raw in source.raws(file):
            raws.append(raw)
            rows += raw.rows
            if rows >= size:
                yield Chunk(f"{group:03d}-{number:08d}", raws)
                raws, rows, number = [], 0, number + 1
    if raws:
        yield Chunk(f"{group:03d}-{number:08d}", raws)


def read(source: Source) -> Iterator[Item]:
    """All items of a source in this process, one at a time."""
    for file in source.files():
        for raw in source.raws(file):
            yield from source.items(raw)
