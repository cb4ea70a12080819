"""Capacity: how many batches the replicas of a model take at a time, whatever they hold. Plain asyncio, no Ray.

Pictures and texts have queues of their own (`dispatch`), but the same replicas compute them. A batch that is sent while
all their lanes are busy only waits somewhere else, and can no longer grow; so of these one lies ready for each replica,
to hide the hop, and only if it is no smaller than what is under way, or has waited for company long enough.
"""

import time
from collections.abc import Callable

REPLICA_MEMORY_S = 10.0
"""A replica that has not answered for so long no longer counts, nor do, while others answer, batches sent before."""
COMPANY_S = 0.5
"""What has waited longer need not wait for more: else a few pictures would never get in between many texts."""


class Capacity:
    """What is under way to the replicas of one model, from the queues that share it. Lives in one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, tuple[float, int]] = {}  # when each answered last, and its lanes
        self._under_way: dict[object, tuple[float, int]] = {}  # by batch: when it was sent, and its items
        self._freed: list[Callable[[], None]] = []

    def when_freed(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a batch is done. Of several, who sent last is woken last."""
        self._freed.append(wake)

    def takes(self, items: int, waited_s: float = 0.0) -> bool:
        """Whether a batch of so many items, the oldest of which has waited so long, is better sent now than later."""
        lately = self._clock() - REPLICA_MEMORY_S
        self._replicas = {name: known for name, known in self._replicas.items() if known[0] > lately}
        lanes, replicas = sum(lanes for _, lanes in self._replicas.values()) or 1, len(self._replicas) or 1
        # A replica that hangs holds its batches for minutes: they are no work of those that answer.
        sizes = [size for sent, size in self._under_way.values() if sent > lately or not self._replicas]
        if len(sizes) < lanes:
            return True  # an idle model never waits for company
        if len(sizes) >= lanes + replicas:
            return False
        return waited_s > COMPANY_S or items * len(sizes) >= sum(sizes)

    def begin(self, batch: object, items: int, by: Callable[[], None] | None = None) -> None:
        """A batch is sent, by the queue that `by` wakes."""
        if by in self._freed:
            self._freed.remove(by)
            self._freed.append(by)
        self._under_way[batch] = self._clock(), items

    def answered(self, replica: str, lanes: int) -> None:
        """By whom one was answered, and how many it computes at a time."""
        self._replicas[replica] = self._clock(), lanes

    def end(self, batch: object) -> None:
        """It is done, whatever came of it."""
        del self._under_way[batch]
        for wake in self._freed:
            wake()
