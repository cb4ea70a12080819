"""Lanes on a real event loop: engines that work until the test lets them go."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from serve_app.lanes import Lanes


@dataclass
class Engine:
    """Works until it is let go; knows when it is asked for two things at once."""

    name: str
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    working: int = 0

    def work(self) -> str:
        self.working += 1
        assert self.working == 1
        assert self.go.acquire(timeout=10)
        self.working -= 1
        return self.name


def engines(count: int) -> list[Engine]:
    return [Engine("wide"), *(Engine(f"narrow {number}") for number in range(count))]


def working(all_of_them: list[Engine]) -> list[str]:
    return [engine.name for engine in all_of_them if engine.working]


def in_a_loop(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def ask(lanes: Lanes[Engine]) -> "asyncio.Task[str]":
    return asyncio.create_task(lanes.run(Engine.work))


def test_what_is_alone_gets_all_threads() -> None:
    async def main() -> None:
        all_of_them = engines(2)
        lanes = Lanes(all_of_them[0], all_of_them[1:])
        for _ in range(3):
            all_of_them[0].go.release()
            assert await lanes.run(Engine.work) == "wide"

    in_a_loop(main)


def test_what_waits_together_gets_a_lane_each_and_never_beside_the_wide_one() -> None:
    async def main() -> None:
        all_of_them = wide, one, two = engines(2)
        lanes = Lanes(wide, [one, two])
        assert lanes.count == 2
        first = ask(lanes)
        await until(lambda: working(list(all_of_them)) == ["wide"])
        others = [ask(lanes) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert working(list(all_of_them)) == ["wide"]
        wide.go.release()
        assert await first == "wide"
        await until(lambda: working(list(all_of_them)) == ["narrow 0", "narrow 1"])
        one.go.release()
        assert await others[0] == "narrow 0"
        await until(lambda: one.working == 1)  # the third, though it waits alone: the other lane is at work
        two.go.release()
        assert await others[1] == "narrow 1"
        one.go.release()
        assert await others[2] == "narrow 0"
        wide.go.release()
        assert await lanes.run(Engine.work) == "wide"

    in_a_loop(main)


def test_without_narrow_ones_it_is_one_after_the_other() -> None:
    async def main() -> None:
        (wide,) = engines(0)
        lanes = Lanes(wide)
        assert lanes.count == 1
        asked = [ask(lanes) for _ in range(3)]
        for _ in asked:
            wide.go.release()
        assert [await one for one in asked] == ["wide"] * 3

    in_a_loop(main)


def test_an_error_is_the_callers_and_the_lane_goes_on() -> None:
    def fail(engine: Engine) -> str:
        raise ValueError("no")

    async def main() -> None:
        wide, one, two = engines(2)
        lanes = Lanes(wide, [one, two])
        for _ in range(4):
            with pytest.raises(ValueError, match="no"):
                await lanes.run(fail)
        wide.go.release()
        assert await lanes.run(Engine.work) == "wide"

    in_a_loop(main)


def test_a_client_that_goes_frees_its_lane_only_when_the_work_is_done() -> None:
    async def main() -> None:
        wide, one, two = engines(2)
        lanes = Lanes(wide, [one, two])
        gone, waiting, third = ask(lanes), ask(lanes), ask(lanes)
        await until(lambda: wide.working == 1 or one.working + two.working == 2)
        gone.cancel()
        waiting.cancel()
        await asyncio.gather(gone, waiting, return_exceptions=True)
        for engine in (wide, one, two):
            for _ in range(3):
                engine.go.release()
        assert await third in ("wide", "narrow 0", "narrow 1")
        last = ask(lanes)
        assert await last == "wide"

    in_a_loop(main)
