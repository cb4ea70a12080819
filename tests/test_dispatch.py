"""The dispatcher on a real event loop: a model that answers when the test says so, and time that passes so."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from serve_app import ray_metrics, telemetry
from serve_app.capacity import COMPANY_S, REPLICA_MEMORY_S
from serve_app.dispatch import BusyError, Dispatcher, Limits, Sent

LIMITS = Limits(batch_items=8, batch_cost=100, waiting_cost=100, waiting_s=60.0)
UNDER_WAY_PER_REPLICA = 2
"""Batches of equal size: one that it computes, and one that lies ready."""
AT_ONCE = 12
"""Turns of the loop in which everything that does not wait has happened."""


@pytest.fixture(scope="module", autouse=True)
def _little_garbage() -> Iterator[None]:
    """What the imports made is not searched for garbage by every test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Batch:
    """What was sent, and what will come of it."""

    items: list[Any]
    outcome: "asyncio.Future[Sent[str]]"

    def answer(self, replica: str = "a", lanes: int = 1) -> None:
        self.outcome.set_result(Sent([answer_to(item) for item in self.items], replica, lanes))

    def fail(self, error: BaseException) -> None:
        self.outcome.set_exception(error)


@dataclass
class Model:
    """Where batches lie until they are answered."""

    batches: list[Batch] = field(default_factory=list)

    async def __call__(self, items: list[Any]) -> Sent[str]:
        self.batches.append(Batch(items, asyncio.get_running_loop().create_future()))
        return await self.batches[-1].outcome

    @property
    def items(self) -> list[list[Any]]:
        return [batch.items for batch in self.batches]

    @property
    def open(self) -> list[Batch]:
        return [batch for batch in self.batches if not batch.outcome.done()]


def answer_to(item: Any) -> str:
    return f"answer to {item}"


def quietly(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a loop of its own. What the loop has to complain about, then or later, is a failure; so is a hang."""
    complaints: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with asyncio.timeout(10):
            await main()

    asyncio.run(run())
    gc.collect()
    assert not complaints


async def turns() -> None:
    for _ in range(AT_ONCE):
        await asyncio.sleep(0)


def ask(queue: "Dispatcher[Any, str]", *items: Any, cost: int = 1) -> "asyncio.Task[list[str]]":
    """A client of its own, whose error is no complaint though nobody may ask for it."""
    client = asyncio.create_task(queue.submit(items, [cost] * len(items)))
    client.add_done_callback(lambda done: done.cancelled() or done.exception())
    return client


async def busy(model: Model, queue: "Dispatcher[Any, str]") -> list["asyncio.Task[list[str]]"]:
    """As many batches under way as may be while no replica is known, one item each: what comes now waits."""
    clients = []
    for number in range(UNDER_WAY_PER_REPLICA):
        clients.append(ask(queue, f"first {number}"))
        await turns()
    assert queue.under_way == len(model.batches) == UNDER_WAY_PER_REPLICA
    assert queue.waiting == 0
    return clients


async def finish(model: Model) -> None:
    """Answer until nothing more comes."""
    while model.open:
        for batch in model.open:
            batch.answer()
        await turns()


async def error_of(client: Awaitable[Any]) -> BaseException:
    (outcome,) = await asyncio.gather(client, return_exceptions=True)
    assert isinstance(outcome, BaseException), f"it was answered: {outcome}"
    return outcome


class TestBatches:
    def test_what_is_submitted_in_one_turn_is_one_batch(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            clients = [ask(queue, 0), ask(queue, 1, 2), ask(queue, 3)]
            await turns()
            assert model.items == [[0, 1, 2, 3]]
            model.batches[0].answer()
            assert await asyncio.gather(*clients) == [
                [answer_to(0)], [answer_to(1), answer_to(2)], [answer_to(3)]
            ]  # fmt: skip

        quietly(main)

    def test_an_idle_model_never_waits_for_company(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            for number in range(UNDER_WAY_PER_REPLICA):
                ask(queue, number)
                await turns()
                assert len(model.batches) == number + 1
            late = [ask(queue, "third"), ask(queue, "fourth")]
            await turns()
            assert model.items == [[0], [1]], "both hands are full"
            assert queue.waiting == 2
            model.batches[0].answer()
            await turns()
            assert model.items == [[0], [1], ["third", "fourth"]], "what has waited goes together"
            assert queue.waiting == 0
            await finish(model)
            assert await late[1] == [answer_to("fourth")]

        quietly(main)

    def test_clients_that_ask_again_at_once_stay_one_batch(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)

            async def again(name: str) -> None:
                for number in range(5):
                    await queue.submit([f"{name}{number}"], [1])

            clients = [asyncio.create_task(again(name)) for name in "abc"]
            for number in range(5):
                await turns()
                assert model.items[number:] == [[f"{name}{number}" for name in "abc"]]
                model.batches[-1].answer()
            await asyncio.gather(*clients)

        quietly(main)

    def test_answers_come_in_the_order_of_the_items_whichever_batch_is_done_first(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=2))
            client = ask(queue, 0, 1, 2, 3)
            await turns()
            assert model.items == [[0, 1], [2, 3]]
            model.batches[1].answer("b")
            await turns()
            assert not client.done()
            model.batches[0].answer("a")
            assert await client == [answer_to(number) for number in range(4)]

        quietly(main)

    @pytest.mark.parametrize(
        ("costs", "batches"),
        [
            ([1] * 9, [[0, 1, 2, 3], [4, 5, 6, 7], [8]]),  # 4 items
            ([4, 4, 2, 1], [[0, 1, 2], [3]]),  # 10 exactly
            ([4, 4, 3, 1], [[0, 1], [2, 3]]),  # nobody overtakes: 1 would have fitted
            ([11, 1, 25, 1], [[0], [1], [2], [3]]),  # dearer than a batch: alone
            ([1, 11, 0], [[0], [1], [2]]),
            ([0, 0, 10, 0, 0], [[0, 1, 2, 3], [4]]),
        ],
    )
    def test_a_batch_holds_so_many_items_of_so_much_cost(
        self, costs: list[int], batches: list[list[int]]
    ) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=4, batch_cost=10))
            client = asyncio.create_task(queue.submit(range(len(costs)), costs))
            await turns()
            await finish(model)
            assert model.items == batches
            assert await client == [answer_to(number) for number in range(len(costs))]

        quietly(main)

    def test_first_come_first_served_over_clients(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=3))
            await busy(model, queue)
            for client in range(5):
                ask(queue, (client, 0), (client, 1))
                await turns()
            await finish(model)
            sent = [item for items in model.items[UNDER_WAY_PER_REPLICA:] for item in items]
            assert sent == [(client, part) for client in range(5) for part in range(2)]

        quietly(main)

    def test_nothing_asked_is_answered_at_once(self) -> None:
        async def main() -> None:
            model = Model()
            assert await Dispatcher(model, LIMITS).submit([], []) == []
            assert model.batches == []

        quietly(main)

    def test_items_without_costs_are_a_mistake_that_leaves_nothing_behind(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            with pytest.raises(ValueError, match="shorter"):
                await queue.submit([1, 2], [1])
            await turns()
            assert (queue.waiting, model.batches) == (0, [])

        quietly(main)


class TestUnderWay:
    @staticmethod
    async def most(model: Model, queue: "Dispatcher[Any, str]") -> int:
        """How many batches are under way when there is more to do than may be; answers none."""
        while queue.waiting < 3:
            ask(queue, "more")
            await turns()
        assert queue.under_way == len(model.open)
        return queue.under_way

    def test_it_grows_with_the_replicas_that_answer(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=1))
            assert await self.most(model, queue) == 2
            for replica, most in [("a", 2), ("a", 2), ("b", 4), ("a", 4), ("c", 6)]:
                model.open[0].answer(replica)
                await turns()
                assert await self.most(model, queue) == most

        quietly(main)

    def test_it_grows_with_the_lanes_of_a_replica(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=1))
            for number in range(12):
                ask(queue, number)
            await turns()
            assert queue.under_way == 2
            model.open[0].answer("a", lanes=3)
            await turns()
            assert queue.under_way == 3 + 1
            model.open[0].answer("b", lanes=1)
            await turns()
            assert queue.under_way == (3 + 1) + (1 + 1)
            await finish(model)

        quietly(main)

    def test_a_replica_that_has_not_answered_for_long_counts_no_more(self) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, replace(LIMITS, batch_items=1), clock=clock)
            for replica in "abc":
                assert await self.most(model, queue)
                model.open[0].answer(replica)
                await turns()
            assert await self.most(model, queue) == 6
            clock.now += REPLICA_MEMORY_S - 1
            for replica in "ababab":
                model.open[0].answer(replica)
                await turns()
                assert await self.most(model, queue) == 6
            clock.now += 1
            for most in (5, 4, 4):  # c is forgotten: as batches come back, fewer are sent
                model.open[0].answer("a")
                await turns()
                assert await self.most(model, queue) == most
            clock.now += REPLICA_MEMORY_S
            model.open[0].answer("c")  # a and b are forgotten, and with them the three batches that they keep
            await turns()
            assert await self.most(model, queue) == 3 + 2

        quietly(main)

    def test_failures_make_no_replica_known_and_take_none_away(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=1))
            for replica in "ab":
                assert await self.most(model, queue)
                model.open[0].answer(replica)
                await turns()
            for _ in range(3):
                assert await self.most(model, queue) == 4
                model.open[0].fail(RuntimeError("out of memory"))
                await turns()
            assert await self.most(model, queue) == 4

        quietly(main)


class TestRefusals:
    def test_beyond_the_limit_all_of_a_request_is_refused_at_once(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, waiting_cost=10))
            await busy(model, queue)
            admitted = [ask(queue, 0, cost=4), ask(queue, 1, cost=4)]
            await turns()
            with pytest.raises(BusyError, match=r"8 of 10") as caught:
                await queue.submit([2, 3, 4], [1, 1, 1])
            assert caught.value.retry_after_s == 1.0, "nothing is known of the pace"
            admitted.append(ask(queue, 5, cost=2))
            await turns()
            assert (queue.waiting, queue.counts.refused) == (10, 1)
            await finish(model)
            assert model.items[UNDER_WAY_PER_REPLICA:] == [[0, 1, 5]]
            assert [await client for client in admitted] == [[answer_to(number)] for number in (0, 1, 5)]
            assert queue.waiting == 0

        quietly(main)

    def test_an_empty_queue_takes_a_request_of_any_size(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, waiting_cost=10))
            await busy(model, queue)
            large = ask(queue, *range(30))
            await turns()
            assert queue.waiting == 30
            with pytest.raises(BusyError):
                await queue.submit(["small"], [1])
            await finish(model)
            assert await large == [answer_to(number) for number in range(30)]

        quietly(main)

    def test_what_is_under_way_does_not_wait(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, waiting_cost=3))
            sent = [ask(queue, *range(8)), ask(queue, *range(8))]
            await turns()
            assert model.items == [list(range(8))], "the second came while the first was waiting"
            assert isinstance(await error_of(sent[1]), BusyError)
            sent.append(ask(queue, *range(8)))
            await turns()
            sent.append(ask(queue, 1, 2, 3))
            await turns()
            assert (queue.under_way, queue.waiting) == (2, 3)
            await finish(model)
            assert len(await sent[0]) == 8

        quietly(main)

    def test_room_is_kept_from_others_and_given_back(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, waiting_cost=10))
            await busy(model, queue)
            waiting = ask(queue, "waits", cost=4)
            await turns()
            with queue.room(6):
                assert queue.waiting == 10
                with pytest.raises(BusyError), queue.room(1):
                    raise AssertionError("the work has begun")
                with pytest.raises(BusyError):
                    await queue.submit(["other"], [1])
            assert queue.waiting == 4
            reserved = ask(queue, "ready", cost=6)
            await turns()
            assert queue.waiting == 10
            await finish(model)
            assert await asyncio.gather(waiting, reserved) == [[answer_to("waits")], [answer_to("ready")]]

        quietly(main)

    def test_room_is_given_back_after_an_error_and_a_cancellation(self) -> None:
        async def main() -> None:
            queue = Dispatcher(Model(), LIMITS)
            with pytest.raises(OSError, match="broken"), queue.room(5):
                raise OSError("broken")
            assert queue.waiting == 0

            async def decode() -> None:
                with queue.room(5):
                    await asyncio.sleep(100)

            client = asyncio.create_task(decode())
            await turns()
            assert queue.waiting == 5
            client.cancel()
            await turns()
            assert queue.waiting == 0

        quietly(main)

    def test_an_empty_queue_keeps_room_of_any_size(self) -> None:
        async def main() -> None:
            queue = Dispatcher(Model(), replace(LIMITS, waiting_cost=10))
            with queue.room(30):
                assert queue.waiting == 30
                with pytest.raises(BusyError), queue.room(1):
                    pass
            with queue.room(1), pytest.raises(BusyError), queue.room(30):
                pass
            assert (queue.waiting, queue.counts.refused) == (0, 2)

        quietly(main)

    @pytest.mark.parametrize(("pace", "asked", "expected"), [(10, 48, 4.8), (10, 1, 1.0), (0.5, 90, 30.0)])
    def test_when_to_come_back_follows_from_the_pace(self, pace: float, asked: int, expected: float) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, LIMITS, clock=clock)
            assert queue.cost_per_s is None
            ask(queue, "first", cost=20)
            await turns()
            clock.now += 20 / pace
            model.batches[0].answer()
            await turns()
            assert queue.cost_per_s == pytest.approx(pace)
            for number in range(UNDER_WAY_PER_REPLICA):
                ask(queue, number)
                await turns()
            ask(queue, "waits", cost=100)
            await turns()
            with pytest.raises(BusyError) as caught:
                await queue.submit(["late"], [asked])
            assert caught.value.retry_after_s == pytest.approx(expected)

        quietly(main)

    def test_idle_time_does_not_slow_the_pace(self) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, LIMITS, clock=clock)
            for _ in range(5):
                clock.now += 3600
                ask(queue, "item", cost=20)
                await turns()
                clock.now += 2
                model.batches[-1].answer()
                await turns()
                assert queue.cost_per_s == pytest.approx(10)

        quietly(main)

    def test_the_pace_follows_a_model_that_slows_down(self) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, LIMITS, clock=clock)
            for seconds in [1] * 5 + [10] * 30:
                ask(queue, "item", cost=20)
                await turns()
                clock.now += seconds
                model.batches[-1].answer()
                await turns()
            assert queue.cost_per_s == pytest.approx(2, rel=0.1)

        quietly(main)

    def test_the_pace_of_replicas_that_answer_together_is_their_sum(self) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, replace(LIMITS, batch_items=1), clock=clock)
            for _ in range(20):
                ask(queue, "left", "right", cost=10)
                await turns()
                clock.now += 1
                for batch, replica in zip(model.open, "ab", strict=True):
                    batch.answer(replica)
                await turns()
            assert queue.cost_per_s is not None
            assert 5 <= queue.cost_per_s <= 80, "20 a second"

        quietly(main)


class TestGivingUp:
    def test_what_has_waited_too_long_is_given_up_and_the_rest_goes_on(self) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, replace(LIMITS, waiting_s=5.0), clock=clock)
            await busy(model, queue)
            old, clock.now = ask(queue, "old", "old too"), clock.now
            await turns()
            clock.now += 1
            patient = ask(queue, "patient")
            await turns()
            clock.now += 5
            fresh = ask(queue, "fresh")
            await turns()
            model.batches[0].answer()
            error = await error_of(old)
            assert isinstance(error, BusyError)
            assert "5 s" in error.message
            assert 1.0 <= error.retry_after_s <= 30.0
            await finish(model)
            assert model.items[UNDER_WAY_PER_REPLICA:] == [["patient", "fresh"]]
            assert await asyncio.gather(patient, fresh) == [[answer_to("patient")], [answer_to("fresh")]]
            assert (queue.waiting, queue.counts.given_up) == (0, 2)

        quietly(main)

    def test_what_has_waited_too_long_is_given_up_though_the_model_hangs(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, waiting_s=0.05))
            await busy(model, queue)
            client = ask(queue, "waits")
            done, _ = await asyncio.wait([client], timeout=2)
            assert done, "nobody has told the client to come back later"
            assert isinstance(await error_of(client), BusyError)
            assert (queue.waiting, queue.counts.given_up) == (0, 1)

        quietly(main)


class TestClientsThatLeave:
    def test_what_nobody_waits_for_does_not_reach_the_model(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            await busy(model, queue)
            clients = [ask(queue, f"{name}0", f"{name}1") for name in "abcd"]
            await turns()
            for gone in (0, 2):
                clients[gone].cancel()
            await turns()
            assert clients[0].cancelled()
            await finish(model)
            assert model.items[UNDER_WAY_PER_REPLICA:] == [["b0", "b1", "d0", "d1"]]
            assert await clients[1] == [answer_to("b0"), answer_to("b1")]
            assert (queue.waiting, queue.counts.dropped) == (0, 4)
            assert queue.counts.items == UNDER_WAY_PER_REPLICA + 4

        quietly(main)

    def test_when_all_have_gone_nothing_is_sent(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            first = await busy(model, queue)
            gone = [ask(queue, number) for number in range(20)]
            await turns()
            for client in gone:
                client.cancel()
            await finish(model)
            await asyncio.gather(*first)
            assert len(model.batches) == UNDER_WAY_PER_REPLICA
            assert (queue.waiting, queue.under_way, queue.counts.dropped) == (0, 0, 20)

        quietly(main)

    def test_who_has_gone_takes_no_room_from_who_comes(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, waiting_cost=10))
            await busy(model, queue)
            gone = ask(queue, *range(10))
            await turns()
            assert queue.waiting == 10
            gone.cancel()
            await turns()
            assert queue.waiting == 0
            stays = ask(queue, "stays", cost=10)
            await turns()
            assert not stays.done(), "it was refused"
            await finish(model)
            assert await stays == [answer_to("stays")]
            assert queue.waiting == 0

        quietly(main)

    def test_who_has_gone_leaves_nothing_in_memory(self) -> None:
        class Picture:
            """Something that can be watched."""

        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            await busy(model, queue)
            ask(queue, "stays, at the front")
            watched: list[weakref.ref[Picture]] = []
            for _ in range(20):
                picture = Picture()
                watched.append(weakref.ref(picture))
                client = ask(queue, picture)
                del picture
                await turns()
                client.cancel()
                await turns()
                del client
            gc.collect()
            assert not [ref for ref in watched if ref() is not None]

        quietly(main)

    @pytest.mark.parametrize("fails", [False, True])
    def test_who_leaves_while_the_model_works_takes_nobody_along(self, fails: bool) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            gone, stays = ask(queue, "gone"), ask(queue, "stays")
            await turns()
            gone.cancel()
            await turns()
            assert gone.cancelled()
            if fails:
                model.batches[0].fail(OSError("broken"))
                assert isinstance(await error_of(stays), OSError)
            else:
                model.batches[0].answer()
                assert await stays == [answer_to("stays")]
            await turns()
            assert queue.under_way == 0

        quietly(main)

    @pytest.mark.parametrize("fails", [False, True])
    def test_who_leaves_as_the_answer_comes_leaves_no_complaint(self, fails: bool) -> None:
        for late in range(AT_ONCE):

            async def main(late: int = late) -> None:
                model = Model()
                queue = Dispatcher(model, replace(LIMITS, batch_items=1))
                client = ask(queue, 0, 1, 2)
                await turns()
                for batch in model.open:
                    batch.fail(OSError("broken")) if fails else batch.answer()
                for _ in range(late):
                    await asyncio.sleep(0)
                client.cancel()
                await turns()
                await finish(model)
                assert client.done()
                assert (queue.waiting, queue.under_way) == (0, 0)
                assert len(model.batches) in ((2,) if fails else (2, 3))
                if client.cancelled():
                    return
                assert isinstance(client.exception(), OSError) if fails else len(await client) == 3

            quietly(main)

    # BUG: a job whose client is being cancelled stays in the queue for two more turns, until `submit` wakes; a batch
    # that is filled in them takes it along.
    def test_what_nobody_waits_for_is_not_sent_though_its_turn_is_now(self) -> None:
        """Whichever turn of the loop the client leaves in: the two in which its task does not know yet, too."""
        for late in range(AT_ONCE):

            async def main(late: int = late) -> None:
                model = Model()
                queue = Dispatcher(model, LIMITS)
                await busy(model, queue)
                gone = ask(queue, "gone")
                await turns()
                model.batches[0].answer()
                for _ in range(late):
                    await asyncio.sleep(0)
                was_waiting = queue.waiting == 1
                gone.cancel()
                await turns()
                assert (["gone"] in model.items) != was_waiting
                assert queue.waiting == 0

            quietly(main)

    # BUG: the same.
    def test_who_is_gone_before_it_was_sent_is_not_sent(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            gone, stays = ask(queue, "gone"), ask(queue, "stays")
            await asyncio.sleep(0)
            assert queue.waiting == 2
            gone.cancel()
            await turns()
            assert model.items == [["stays"]]
            await finish(model)
            assert await stays == [answer_to("stays")]

        quietly(main)

    # BUG: the same, and if its time is up as well, `_give_up` raises InvalidStateError out of `_fill` or `_look`:
    # nothing is sent, and nothing given up any more, until somebody comes or a batch returns.
    def test_who_leaves_as_its_time_is_up_stops_nobody(self) -> None:
        """A client's own deadline may be the queue's, to the turn of the loop."""
        for late in range(AT_ONCE):

            async def main(late: int = late) -> None:
                model, clock = Model(), Clock()
                queue = Dispatcher(model, replace(LIMITS, waiting_s=5.0), clock=clock)
                await busy(model, queue)
                gone = ask(queue, "gone")
                await turns()
                clock.now += 3
                stays = ask(queue, "stays")
                await turns()
                clock.now += 3
                model.batches[0].answer()
                for _ in range(late):
                    await asyncio.sleep(0)
                gone.cancel()
                await turns()
                assert model.items[UNDER_WAY_PER_REPLICA:] == [["stays"]]
                await finish(model)
                assert await stays == [answer_to("stays")]
                assert queue.waiting == 0

            quietly(main)


class TestFailures:
    def test_a_failing_batch_fails_its_own_items_and_later_ones_go_on(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=2))
            clients = [ask(queue, number) for number in range(6)]
            await turns()
            assert model.items == [[0, 1], [2, 3]]
            model.batches[1].fail(OSError("broken"))
            await turns()
            assert model.items[2:] == [[4, 5]], "the failed batch has made way"
            for failed in (2, 3):
                assert isinstance(await error_of(clients[failed]), OSError)
            await finish(model)
            for sound in (0, 1, 4, 5):
                assert await clients[sound] == [answer_to(sound)]
            assert (queue.waiting, queue.under_way) == (0, 0)
            assert (queue.counts.batches, queue.counts.items) == (2, 4)

        quietly(main)

    @pytest.mark.parametrize("second", ["answers", "fails", "is waiting"])
    def test_a_request_fails_with_its_first_batch_and_the_rest_of_it_is_dropped(self, second: str) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=2))
            if second == "is waiting":
                ask(queue, "other")
                await turns()
            client = ask(queue, *range(6))
            await turns()
            model.batches[-1].fail(OSError("the first"))
            error = await error_of(client)
            assert str(error) == "the first" if second == "is waiting" else isinstance(error, OSError)
            if second == "fails":
                model.open[0].fail(RuntimeError("too late to be heard"))
                await turns()
            await finish(model)
            assert [4, 5] not in model.items
            assert (queue.waiting, queue.under_way) == (0, 0)
            assert queue.counts.dropped == (4 if second == "is waiting" else 2)

        quietly(main)

    def test_a_model_that_raises_at_once_is_asked_again(self) -> None:
        async def main() -> None:
            tried: list[list[str]] = []

            async def broken(items: list[str]) -> Sent[str]:
                tried.append(items)
                raise OSError("broken")

            queue = Dispatcher(broken, replace(LIMITS, batch_items=1))
            clients = [ask(queue, name) for name in "abcde"]
            for client in clients:
                assert isinstance(await error_of(client), OSError)
            assert tried == [[name] for name in "abcde"]
            await turns()
            assert (queue.waiting, queue.under_way) == (0, 0)

        quietly(main)

    def test_a_cancelled_batch_is_no_cancelled_request(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=2))
            clients = [ask(queue, number) for number in range(5)]
            await turns()
            model.batches[0].outcome.cancel()
            for cancelled in (0, 1):
                assert isinstance(await error_of(clients[cancelled]), BusyError)
            await finish(model)
            for sound in (2, 3, 4):
                assert await clients[sound] == [answer_to(sound)]
            assert queue.under_way == 0

        quietly(main)

    def test_whatever_a_batch_raises_is_told_to_its_clients_alone(self) -> None:
        class OddError(BaseException):
            """No Exception."""

        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, replace(LIMITS, batch_items=1))
            clients = [ask(queue, number) for number in range(3)]
            await turns()
            model.batches[0].fail(OddError())
            assert isinstance(await error_of(clients[0]), BusyError)
            await finish(model)
            assert await asyncio.gather(*clients[1:]) == [[answer_to(1)], [answer_to(2)]]

        quietly(main)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_a_batch_with_too_many_or_too_few_answers_has_failed(self, count: int) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            clients = [ask(queue, "one"), ask(queue, "two")]
            await turns()
            model.batches[0].outcome.set_result(Sent(["whose?"] * count, "a"))
            done, _ = await asyncio.wait(clients, timeout=0.5)
            assert len(done) == 2, "a client is left waiting"
            for client in clients:
                assert isinstance(await error_of(client), Exception), "nobody knows whose answer it was"
            later = ask(queue, "later")
            await turns()
            await finish(model)
            assert await later == [answer_to("later")]

        quietly(main)

    def test_a_batch_belongs_to_no_clients_context(self) -> None:
        """Serve keeps there whose request it is; when that client leaves, it cancels what was sent in its context."""
        whose: ContextVar[str] = ContextVar("whose", default="nobody's")

        async def main() -> None:
            seen: list[str] = []

            async def send(items: list[str]) -> Sent[str]:
                seen.append(whose.get())
                return Sent(items, "a")

            queue = Dispatcher(send, replace(LIMITS, batch_items=1))

            async def client(name: str) -> None:
                whose.set(name)
                await queue.submit([name, name], [1, 1])

            await asyncio.gather(client("Ann's"), client("Bob's"))
            assert seen == ["nobody's"] * 4

        quietly(main)

    def test_a_loop_that_ends_leaves_no_complaint(self) -> None:
        async def main() -> None:
            model = Model()
            queue = Dispatcher(model, LIMITS)
            first = await busy(model, queue)
            waiting = ask(queue, *range(20))
            await turns()
            assert queue.waiting == 20
            assert not any(client.done() for client in (*first, waiting))

        quietly(main)


class TestNumbers:
    @pytest.fixture
    def told(self) -> Iterator[list[tuple[str, float, dict[str, str]]]]:
        numbers: list[tuple[str, float, dict[str, str]]] = []
        telemetry.collect_by(lambda name, value, tags: numbers.append((name, value, tags)))
        yield numbers
        telemetry.collect_by(None)

    def test_batches_and_waits_are_told_under_names_that_ray_metrics_knows(
        self, told: list[tuple[str, float, dict[str, str]]]
    ) -> None:
        async def main() -> None:
            model, clock = Model(), Clock()
            queue = Dispatcher(model, LIMITS, telemetry.observer("clip", "image"), clock)
            await busy(model, queue)
            ask(queue, "a", "b")
            await turns()
            clock.now += 2
            model.batches[0].answer()
            await turns()
            clock.now += 3
            await finish(model)

        quietly(main)
        values = {name: [value for told_name, value, _ in told if told_name == name] for name, _, _ in told}
        waiting = values.pop("waiting")
        assert (max(waiting), waiting[-1]) == (2, 0)
        assert values == {
            "queue_seconds": [0, 0, 2, 2],
            "batch_items": [1, 1, 2],
            "batch_seconds": [2, 5, 3],
        }
        known = {**ray_metrics.HISTOGRAMS, **ray_metrics.GAUGES}
        for name, _, tags in told:
            assert set(known[name][1]) == set(tags) == {"model", "kind"}


class BrokenError(Exception):
    """What a failing batch raises."""


@dataclass(eq=False)
class Client:
    """What one client asked for, and what comes of it."""

    items: list[int]
    since: float
    task: "asyncio.Task[list[str]]"
    refused: bool
    leaves: bool = False


class AnySchedule(RuleBasedStateMachine):
    """Clients come and go, batches are answered, fail and are cancelled, time passes: in any order.

    Every item comes to exactly one end, in turn; what somebody waits for is sent as soon as it may be.
    """

    rooms = Bundle("rooms")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.clock, self.model = Clock(), Model()
        self.answered_at: dict[str, float] = {}
        self.sent_at: dict[int, float] = {}  # batches, by their first item
        self.time_has_passed = False
        self.clients: list[Client] = []
        self.costs: list[int] = []  # of every item; items are numbers
        self.open_rooms = ExitStack()
        self.reserved = 0

    @initialize(
        batch_items=st.integers(1, 4),
        batch_cost=st.integers(1, 12),
        waiting_cost=st.integers(1, 40),
        waiting_s=st.sampled_from([4.0, 1000.0]),
    )
    def start(self, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self.queue: Dispatcher[int, str] = Dispatcher(self.send, self.limits, clock=self.clock)

    async def send(self, items: list[int]) -> Sent[str]:
        assert 1 <= len(items) <= self.limits.batch_items
        assert len(items) == 1 or sum(self.costs[item] for item in items) <= self.limits.batch_cost
        assert self.counted() < self.most(), "too many batches under way"
        assert items == sorted(items), "out of turn"
        assert not self.model.batches or self.model.batches[-1].items[-1] < items[0], "out of turn, or again"
        assert not [item for item in items if self.of(item).task.cancelled()], "nobody waits for it"
        self.sent_at[items[0]] = self.clock.now
        return await self.model(items)

    def sizes(self) -> list[int]:
        """Of the batches under way that are work of replicas that answer."""
        lately = self.clock.now - REPLICA_MEMORY_S
        silent = not any(at > lately for at in self.answered_at.values())
        return [len(b.items) for b in self.model.open if silent or self.sent_at[b.items[0]] > lately]

    def counted(self) -> int:
        return len(self.sizes())

    def oldest_s(self, waiting: list[int]) -> float:
        return self.clock.now - min(self.of(item).since for item in waiting)

    def replicas(self) -> int:
        return max(1, sum(at > self.clock.now - REPLICA_MEMORY_S for at in self.answered_at.values()))

    def most(self) -> int:
        return UNDER_WAY_PER_REPLICA * self.replicas()

    def of(self, item: int) -> Client:
        return next(client for client in self.clients if item in client.items)

    def settle(self) -> None:
        self.loop.run_until_complete(turns())

    def fits(self, waiting: int, cost: int) -> bool:
        return not waiting or waiting + cost <= self.limits.waiting_cost

    def ask(self, costs: Sequence[int], refused: bool) -> None:
        items = list(range(len(self.costs), len(self.costs) + len(costs)))
        self.costs.extend(costs)
        task = self.loop.create_task(self.queue.submit(items, costs))
        self.clients.append(Client(items, self.clock.now, task, refused))
        self.time_has_passed &= refused

    @rule(requests=st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=5), min_size=1, max_size=3))
    def submit_in_one_turn(self, requests: list[list[int]]) -> None:
        waiting = self.queue.waiting
        for costs in requests:
            fits = self.fits(waiting, sum(costs))
            self.ask(costs, refused=not fits)
            waiting += sum(costs) * fits
        self.settle()
        for client in self.clients[-len(requests) :]:
            assert client.task.done() == client.refused

    @rule(target=rooms, cost=st.integers(1, 30))
    def keep_room(self, cost: int) -> tuple[ExitStack, int] | None:
        room, before = self.open_rooms.enter_context(ExitStack()), self.queue.waiting
        try:
            room.enter_context(self.queue.room(cost))
        except BusyError:
            assert not self.fits(before, cost)
            return None
        assert self.fits(before, cost)
        assert self.queue.waiting == before + cost
        self.reserved += cost
        return room, cost

    @rule(room=consumes(rooms), used=st.booleans())
    def room_is_enough(self, room: tuple[ExitStack, int] | None, used: bool) -> None:
        if room is not None:
            room[0].close()
            self.reserved -= room[1]
            if used:
                self.ask([room[1]], refused=False)
            self.settle()

    @rule(data=st.data(), also=st.booleans())
    def leave(self, data: st.DataObject, also: bool) -> None:
        staying = [client for client in self.clients if not client.task.done()]
        if staying:
            client = data.draw(st.sampled_from(staying))
            client.leaves = True
            client.task.cancel()
            if also and self.model.open:  # in the very same turn
                self.answer(data, data.draw(st.sampled_from("abc")))
            self.settle()

    @rule(data=st.data(), replica=st.sampled_from("abc"))
    def answer(self, data: st.DataObject, replica: str) -> None:
        if self.model.open:
            data.draw(st.sampled_from(self.model.open)).answer(replica)
            self.answered_at[replica] = self.clock.now
            self.time_has_passed = False
            self.settle()

    @rule(data=st.data(), cancelled=st.booleans())
    def fail(self, data: st.DataObject, cancelled: bool) -> None:
        if self.model.open:
            batch = data.draw(st.sampled_from(self.model.open))
            batch.outcome.cancel() if cancelled else batch.fail(BrokenError())
            self.time_has_passed = False
            self.settle()

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.time_has_passed = True  # since it was last looked at who may go
        self.clock.now += seconds

    def waited_for(self) -> list[int]:
        """Items that were not sent and whose clients are there."""
        sent = {item for items in self.model.items for item in items}
        there = [item for client in self.clients if not client.task.done() for item in client.items]
        return [item for item in there if item not in sent]

    @invariant()
    def nothing_waits_for_an_idle_model(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.under_way == len(self.model.open)
            waiting = self.waited_for()
            assert self.queue.waiting == sum(self.costs[item] for item in waiting) + self.reserved
            assert not self.complaints
            if waiting and not self.time_has_passed:
                sizes = self.sizes()
                assert len(sizes) >= self.replicas()
                if len(sizes) < self.most():  # then for company
                    assert self.oldest_s(waiting) <= COMPANY_S
                    assert min(len(waiting), self.limits.batch_items) * len(sizes) < sum(sizes)

    def teardown(self) -> None:
        try:
            while self.model.open:
                for batch in self.model.open:
                    batch.answer("a")
                self.answered_at["a"] = self.clock.now
                self.settle()
            for client in self.clients:
                self.check_end(client)
            if hasattr(self, "queue"):
                self.check_counts()
        finally:
            for client in self.clients:
                client.task.cancel()
            self.loop.run_until_complete(turns())
            self.loop.close()
        assert not self.complaints

    def check_end(self, client: Client) -> None:
        """Answered, refused, gone, failed or given up: for a reason, and one of these."""
        assert client.task.done(), "left waiting"
        outcomes = {item: batch.outcome for batch in self.model.batches for item in batch.items}
        batches = [outcomes.get(item) for item in client.items]
        if client.task.cancelled():
            assert client.leaves
            return
        error = client.task.exception()
        if error is None:
            assert client.task.result() == [answer_to(item) for item in client.items]
            assert all(batch is not None and not batch.cancelled() for batch in batches)
        elif client.refused:
            assert isinstance(error, BusyError)
            assert batches == [None] * len(batches)
        elif isinstance(error, BrokenError):
            assert any(batch and not batch.cancelled() and batch.exception() is error for batch in batches)
        else:
            assert isinstance(error, BusyError)
            given_up = None in batches and self.clock.now - client.since > self.limits.waiting_s
            assert given_up or any(batch and batch.cancelled() for batch in batches)

    def check_counts(self) -> None:
        """What was admitted is what became of it."""
        self.open_rooms.close()
        assert (self.queue.under_way, self.queue.waiting, self.waited_for()) == (0, 0, [])
        counts, failed = self.queue.counts, 0
        for batch in self.model.batches:
            if batch.outcome.cancelled() or batch.outcome.exception():
                failed += len(batch.items)
        admitted = sum(len(client.items) for client in self.clients if not client.refused)
        assert admitted == counts.items + counts.given_up + counts.dropped + failed


AnySchedule.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnySchedule = AnySchedule.TestCase
