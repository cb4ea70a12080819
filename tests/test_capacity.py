"""Capacity: when a batch is better sent now than later, for queues that share replicas."""

import asyncio

import pytest

from serve_app.capacity import REPLICA_MEMORY_S, Capacity
from serve_app.dispatch import Dispatcher, Limits, Sent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_model_takes_one_item_at_once() -> None:
    assert Capacity().takes(1)


@pytest.mark.parametrize(("lanes", "most"), [(1, 2), (2, 3), (4, 5)])
def test_all_lanes_get_a_batch_and_one_of_no_smaller_size_lies_ready(lanes: int, most: int) -> None:
    capacity = Capacity()
    capacity.answered("a", lanes)
    for number in range(lanes):
        assert capacity.takes(1)
        capacity.begin(number, 6)
    assert not capacity.takes(5), "it would only wait there, and grow no more"
    assert capacity.takes(6)
    capacity.begin("ready", 6)
    assert not capacity.takes(32)
    assert most == lanes + 1


def test_every_replica_has_one_ready() -> None:
    capacity = Capacity()
    capacity.answered("a", 2)
    capacity.answered("b", 2)
    for number in range(6):
        assert capacity.takes(1)
        capacity.begin(number, 1)
    assert not capacity.takes(1)


def test_a_batch_that_is_done_makes_room_whatever_came_of_it() -> None:
    capacity = Capacity()
    capacity.begin("one", 8)
    assert not capacity.takes(1)
    capacity.end("one")
    assert capacity.takes(1)


def test_replicas_that_are_silent_for_long_count_no_more() -> None:
    clock = Clock()
    capacity = Capacity(clock)
    capacity.answered("a", 4)
    capacity.begin("one", 1)
    assert capacity.takes(1)
    capacity.begin("two", 1)
    clock.now += REPLICA_MEMORY_S + 1
    assert not capacity.takes(1)


def test_queues_take_turns_at_being_the_first() -> None:
    capacity, order = Capacity(), []
    capacity.when_freed(lambda: order.append("pictures"))
    capacity.when_freed(lambda: order.append("texts"))
    for number in range(3):
        capacity.begin(number, 1)
        capacity.end(number)
    assert order == ["texts", "pictures", "pictures", "texts", "texts", "pictures"]


def test_what_one_queue_sends_is_room_that_the_other_has_not() -> None:
    """Texts wait while the lanes are busy with pictures, and go together when one is free."""

    async def main() -> None:
        sent: list[tuple[list[str], asyncio.Future[None]]] = []

        async def send(items: list[str]) -> Sent[str]:
            sent.append((items, asyncio.get_running_loop().create_future()))
            await sent[-1][1]
            return Sent(items, "a", 1)

        capacity = Capacity()
        limits = Limits(batch_items=8, batch_cost=100, waiting_cost=100, waiting_s=60)
        pictures, texts = (Dispatcher(send, limits, capacity=capacity) for _ in range(2))
        asked = [asyncio.ensure_future(pictures.submit(["p1", "p2", "p3"], [1, 1, 1]))]
        await asyncio.sleep(0)
        for word in ("t1", "t2"):
            asked.append(asyncio.ensure_future(texts.submit([word], [1])))
            for _ in range(5):
                await asyncio.sleep(0)
        assert [items for items, _ in sent] == [["p1", "p2", "p3"]]
        sent[0][1].set_result(None)
        await asked[0]
        for _ in range(5):
            await asyncio.sleep(0)
        assert [items for items, _ in sent][1:] == [["t1", "t2"]]
        sent[1][1].set_result(None)
        assert await asyncio.gather(*asked) == [["p1", "p2", "p3"], ["t1"], ["t2"]]

    asyncio.run(main())
