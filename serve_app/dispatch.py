"""Dispatcher: what waits is one batch as soon as the model can take it. Plain asyncio, no Ray.

    queue = Dispatcher(send, limits)
    answers = await queue.submit(items, costs)   # in the order of the items

`send` embeds one batch somewhere else, as many at a time as there is `capacity` for; whatever comes meanwhile waits
here, where it costs nothing to drop it: when the queue is full (429, at once), when its client has gone, or when it has
waited too long. An idle model never waits for company.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_app.capacity import Capacity

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PACE_MEMORY_S = 10.0
"""Seconds of work over which the pace is smoothed."""


class BusyError(Exception):
    """The queue is full, or the item has waited too long; `retry_after_s` says when to come back."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.message, self.retry_after_s = message, retry_after_s


@dataclass(frozen=True)
class Limits:
    """Costs are what the items say that they cost: pictures 1 each, texts their tokens."""

    batch_items: int  # most items a batch
    batch_cost: int  # most cost a batch; a dearer item goes alone
    waiting_cost: int  # most cost that may wait; more is refused
    waiting_s: float  # what has waited longer is given up


@dataclass(frozen=True)
class Sent(Generic[Answer]):
    """What came of one batch."""

    answers: Sequence[Answer]  # one for each item
    replica: str  # who answered
    lanes: int = 1  # how many batches it computes at a time


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    cost: int
    since: float
    answer: "asyncio.Future[Answer]"


@dataclass
class Counts:
    """What a dispatcher has seen since it was made; for metrics."""

    batches: int = 0
    items: int = 0
    refused: int = 0  # the queue was full
    given_up: int = 0  # waited too long
    dropped: int = 0  # the client had gone


class Dispatcher(Generic[Item, Answer]):
    """Collects items of one kind into batches for one kind of replica. Lives in one event loop."""

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Sent[Answer]]],
        limits: Limits,
        observe: Callable[[str, float], None] = lambda what, value: None,
        clock: Callable[[], float] = time.monotonic,
        capacity: Capacity | None = None,
    ) -> None:
        """`capacity` is shared with whoever sends to the same replicas; default: nobody.

        `observe` is told of waiting (cost), queue_seconds (of an item), batch_items, batch_seconds (of a batch).
        """
        self._send, self._limits, self._observe, self._clock = send, limits, observe, clock
        self._queue: OrderedDict[_Waiting[Item, Answer], None] = OrderedDict()  # oldest first
        self._waiting_cost = self._reserved = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._capacity = capacity or Capacity(clock)
        self._capacity.when_freed(self._wake)
        self._lately = (
            0.0,
            0.0,
        )  # cost that was answered, and seconds of work, of the last PACE_MEMORY_S or so
        self._last_answer = 0.0
        self._woken: asyncio.Handle | None = None
        self._giving_up: asyncio.Handle | None = None
        self.counts = Counts()

    @contextmanager
    def room(self, cost: int) -> Iterator[None]:
        """Keep room for so much while it is made ready for `submit`. Raises BusyError before that work is done."""
        self._admit(cost)
        self._reserved += cost
        try:
            yield
        finally:
            self._reserved -= cost

    async def submit(self, items: Sequence[Item], costs: Sequence[int]) -> list[Answer]:
        """The answers to `items`, in their order. All are taken, or none.

        Raises BusyError, and what `send` raised for the batch that an item was in.
        """
        self._admit(sum(costs))
        loop, now = asyncio.get_running_loop(), self._clock()
        jobs = [
            _Waiting[Item, Answer](item, cost, now, loop.create_future())
            for item, cost in zip(items, costs, strict=True)
        ]
        self._queue.update(dict.fromkeys(jobs))
        self._waiting_cost += sum(costs)
        self._wake()
        self._watch()
        self._observe("waiting", self.waiting)
        answers = [job.answer for job in jobs]
        try:
            return await asyncio.gather(*answers)
        except BaseException:
            for job in jobs:
                if job.answer.done() and not job.answer.cancelled():
                    job.answer.exception()  # seen
                job.answer.cancel()
                if job in self._queue:
                    self._gone(job)
            raise

    @property
    def waiting(self) -> int:
        """The cost of what waits, or has room kept."""
        return self._waiting_cost + self._reserved

    @property
    def cost_per_s(self) -> float | None:
        """The smoothed pace of what was answered, while there was work; None before there was any."""
        cost, seconds = self._lately
        return cost / seconds if seconds > 1e-6 else None

    @property
    def under_way(self) -> int:
        """Batches that were sent and not answered yet."""
        return len(self._under_way)

    def _admit(self, cost: int) -> None:
        waiting, most = self.waiting, self._limits.waiting_cost
        if waiting and waiting + cost > most:  # an empty queue takes whatever a request may hold
            self.counts.refused += 1
            raise BusyError(
                f"The queue is full: {waiting} of {most} wait.", self._clears_in(waiting + cost - most)
            )

    def _clears_in(self, cost: float) -> float:
        """Seconds until so much will have been answered, 1 to 30."""
        pace = self.cost_per_s
        return min(30.0, max(1.0, cost / pace)) if pace else 1.0

    def _wake(self) -> None:
        """Fill batches at the end of this turn of the loop, so that what is submitted together goes together."""
        if self._woken is None and self._queue:
            self._woken = asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._woken = None
        while self._queue and self._capacity.takes(
            min(len(self._queue), self._limits.batch_items), self._clock() - next(iter(self._queue)).since
        ):
            batch = self._next_batch()
            if not batch:
                return
            # In nobody's context: Serve cancels what was sent in that of a request whose client has gone.
            task = asyncio.get_running_loop().create_task(self._run(batch), context=Context())
            self._under_way.add(task)
            self._capacity.begin(task, len(batch), self._wake)
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._capacity.end(task)

    def _next_batch(self) -> list[_Waiting[Item, Answer]]:
        """From the front of the queue what fits into one batch."""
        self._give_up()
        batch: list[_Waiting[Item, Answer]] = []
        cost = 0
        while self._queue and len(batch) < self._limits.batch_items:
            job = next(iter(self._queue))
            if self._gone(job):
                continue
            if batch and cost + job.cost > self._limits.batch_cost:
                break
            self._leave(job)
            batch.append(job)
            cost += job.cost
            self._observe("queue_seconds", self._clock() - job.since)
        self._observe("waiting", self.waiting)
        return batch

    def _leave(self, job: _Waiting[Item, Answer]) -> None:
        del self._queue[job]
        self._waiting_cost -= job.cost

    def _gone(self, job: _Waiting[Item, Answer]) -> bool:
        """Drop what nobody waits for any more; whether it was so."""
        if job.answer.done():
            self._leave(job)
            self.counts.dropped += 1
            return True
        return False

    def _watch(self) -> None:
        """See to it that what waits is given up in time, even if the model hangs."""
        if self._giving_up is None and self._queue:
            left = next(iter(self._queue)).since + self._limits.waiting_s - self._clock()
            self._giving_up = asyncio.get_running_loop().call_later(max(left, 0.01), self._look)

    def _look(self) -> None:
        self._giving_up = None
        self._give_up()
        self._watch()

    def _give_up(self) -> None:
        while self._queue:
            job = next(iter(self._queue))
            if self._gone(job):
                continue
            if self._clock() - job.since <= self._limits.waiting_s:
                return
            self._leave(job)
            self.counts.given_up += 1
            job.answer.set_exception(
                BusyError(
                    f"The request has waited for more than {self._limits.waiting_s:g} s.",
                    self._clears_in(self._waiting_cost),
                )
            )

    async def _run(self, batch: list[_Waiting[Item, Answer]]) -> None:
        sent_at = self._clock()
        try:
            sent = await self._send([job.item for job in batch])
            if len(sent.answers) != len(batch):
                raise RuntimeError(f"{len(sent.answers)} answers came to a batch of {len(batch)}.")
        except BaseException as error:
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(_plain(error))
            if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
            return
        self._count(batch, sent, sent_at)
        for job, answer in zip(batch, sent.answers, strict=True):
            if not job.answer.done():
                job.answer.set_result(answer)

    def _count(self, batch: list[_Waiting[Item, Answer]], sent: Sent[Answer], sent_at: float) -> None:
        now = self._clock()
        self._capacity.answered(sent.replica, sent.lanes)
        worked = now - max(sent_at, self._last_answer)
        kept = math.exp(-worked / PACE_MEMORY_S)
        cost, seconds = self._lately
        self._lately = (kept * cost + sum(job.cost for job in batch), kept * seconds + worked)
        self._last_answer = now
        self.counts.batches += 1
        self.counts.items += len(batch)
        self._observe("batch_items", len(batch))
        self._observe("batch_seconds", now - sent_at)


def _plain(error: BaseException) -> BaseException:
    """What may be set on a future: a cancellation of the batch is no cancellation of the request."""
    return error if isinstance(error, Exception) else BusyError("The server is stopping.", 1.0)
