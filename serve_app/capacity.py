"""Capacity: how many batches the replicas of a model take at a time, whatever they hold. Plain asyncio, no Ray.

Pictures and texts have queues of their own (`dispatch`), but the same replicas compute them. A batch that is sent while
all their lanes are busy only waits somewhere else, and can no longer grow; so of these one lies ready for each replica,
to hide the hop, and only if it is no smaller than what is under way. A small one waits here for company.
"""

import time
from collections.abc import Callable

REPLICA_MEMORY_S = 10.0
"""A replica that has not answered for so long no longer counts."""


class Capacity:
    """What is under way to the replicas of one model, from the queues that share it. Lives in one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, tuple[float, int]] = {}  # when each answered last, and its lanes
        self._under_way: dict[object, int] = {}  # items by batch
        self._freed: list[Callable[[], None]] = []

    def when_freed(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a batch is done. Of several, each is the first in its turn."""
        self._freed.append(wake)

    def takes(self, items: int) -> bool:
        """Whether a batch of so many items is better sent now than later."""
        lately = self._clock() - REPLICA_MEMORY_S
        self._replicas = {name: known for name, known in self._replicas.items() if known[0] > lately}
        lanes, replicas = sum(lanes for _, lanes in self._replicas.values()) or 1, len(self._replicas) or 1
        under_way = len(self._under_way)
        if under_way < lanes:
            return True  # an idle model never waits for company
        return under_way < lanes + replicas and items * under_way >= sum(self._under_way.values())

    def begin(self, batch: object, items: int) -> None:
        """A batch is sent."""
        self._under_way[batch] = items

    def answered(self, replica: str, lanes: int) -> None:
        """By whom one was answered, and how many it computes at a time."""
        self._replicas[replica] = self._clock(), lanes

    def end(self, batch: object) -> None:
        """It is done, whatever came of it."""
        del self._under_way[batch]
        self._freed = self._freed[1:] + self._freed[:1]
        for wake in self._freed:
            wake()
