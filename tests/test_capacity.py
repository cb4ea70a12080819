"""Capacity: when a batch is better sent now than later, for queues that share replicas."""

import asyncio

import pytest

from serve_app.capacity import COMPANY_S, REPLICA_MEMORY_S, Capacity
from serve_app.dispatch import Dispatcher, Limits, Sent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_model_takes_one_item_at_once() -> None:
    assert Capacity().takes(1)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_all_lanes_get_a_batch_and_one_of_no_smaller_size_lies_ready(lanes: int) -> None:
    capacity = Capacity()
    capacity.answered("a", lanes)
    for number in range(lanes):
        assert capacity.takes(1)
        capacity.begin(number, 6)
    assert not capacity.takes(5), "it would only wait there, and grow no more"
    assert capacity.takes(6)
    capacity.begin("ready", 6)
    assert not capacity.takes(32, waited_s=60)


def test_a_small_batch_waits_for_company_only_so_long() -> None:
    capacity = Capacity()
    capacity.begin("texts", 32)
    assert not capacity.takes(1, waited_s=COMPANY_S)
    assert capacity.takes(1, waited_s=COMPANY_S + 0.01)


def test_batches_of_a_replica_that_hangs_stop_none_of_the_others() -> None:
    clock = Clock()
    capacity = Capacity(clock)
    for replica in "ab":
        capacity.answered(replica, 2)
    for number in range(3):
        capacity.begin(f"hangs {number}", 8)
    clock.now += REPLICA_MEMORY_S / 2
    capacity.answered("a", 2)
    clock.now += REPLICA_MEMORY_S / 2 + 1
    for number in range(3):
        assert capacity.takes(8)
        capacity.begin(number, 8)
    assert not capacity.takes(8), "a has two lanes"


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


def test_who_sent_last_is_woken_last() -> None:
    capacity, order = Capacity(), list[str]()

    def pictures() -> None:
        order.append("pictures")

    def texts() -> None:
        order.append("texts")

    for queue in (pictures, texts):
        capacity.when_freed(queue)
    for number, queue in enumerate((pictures, texts, texts, pictures)):
        capacity.begin(number, 1, queue)
        capacity.end(number)
    assert order == ["texts", "pictures", "pictures", "texts", "pictures", "texts", "texts", "pictures"]


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


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_picture_gets_in_between_any_number_of_texts(lanes: int) -> None:
    async def main() -> None:
        clock = Clock()

        async def send(items: list[str]) -> Sent[str]:
            for _ in range(3):
                await asyncio.sleep(0)
            clock.now += 0.1
            return Sent(items, "a", lanes)

        capacity = Capacity(clock)
        limits = Limits(batch_items=8, batch_cost=100, waiting_cost=1000, waiting_s=3)
        pictures, texts = (Dispatcher(send, limits, clock=clock, capacity=capacity) for _ in range(2))

        async def bulk() -> None:
            while True:
                await texts.submit(["text"] * 32, [1] * 32)

        flood = [asyncio.ensure_future(bulk()) for _ in range(4)]
        for _ in range(50):
            await asyncio.sleep(0)
        for _ in range(3):
            assert await pictures.submit(["picture"], [1]) == ["picture"]
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    asyncio.run(main())
