"""Lanes: one model computed on all threads for a batch that is alone, or on one lane each for batches that are not.

    lanes = Lanes(backend, [narrow, narrow])
    rows = await lanes.run(lambda backend: backend.images(pixels))

Alone, a batch is done soonest by all threads together; but they wait for each other at the end of every layer, and for
whoever else runs on their cores. Several batches are done sooner by a thread each. Plain asyncio, no Ray.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Engine = TypeVar("Engine")
T = TypeVar("T")

_WIDE = 0


class Lanes(Generic[Engine]):
    """Each engine does one piece of work at a time; `wide` and the narrow ones never work together."""

    def __init__(self, wide: Engine, narrow: Sequence[Engine] = ()) -> None:
        self._engines = [wide, *narrow]
        self._free = set(range(len(self._engines)))
        self._waiting: deque[asyncio.Future[int]] = deque()

    @property
    def count(self) -> int:
        """How many pieces of work are done at a time."""
        return max(1, len(self._engines) - 1)

    async def run(self, work: Callable[[Engine], T]) -> T:
        """What `work` makes of an engine, in a thread; first come, first served."""
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._assign()
        try:
            lane = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(turn.result())
            raise
        computing = asyncio.ensure_future(asyncio.to_thread(work, self._engines[lane]))
        computing.add_done_callback(lambda done: self._computed(lane, done))
        return await asyncio.shield(computing)  # a thread cannot be cancelled: its lane stays taken

    def _computed(self, lane: int, done: "asyncio.Future[T]") -> None:
        if not done.cancelled():
            done.exception()  # seen, also when nobody waits for it any more
        self._leave(lane)

    def _leave(self, lane: int) -> None:
        self._free.add(lane)
        self._assign()

    def _assign(self) -> None:
        while self._waiting:
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
                continue
            lane = self._lane_for(sum(not turn.done() for turn in self._waiting))
            if lane is None:
                return
            self._free.remove(lane)
            self._waiting.popleft().set_result(lane)

    def _lane_for(self, waiting: int) -> int | None:
        if _WIDE not in self._free:
            return None
        idle = len(self._free) == len(self._engines)
        if idle and (waiting == 1 or len(self._engines) == 1):
            return _WIDE
        return min((lane for lane in self._free if lane != _WIDE), default=None)
