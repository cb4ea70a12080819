"""The clients of benchmarks.calm, in a process of their own: phases of load, and what became of every request.

    python -m benchmarks.calm_load < asked.json      # prints "started", and at the end an Answered

No two requests are the same (see serve_load.Requests). An open loop keeps to its pace whatever becomes of the requests;
a closed one asks as soon as it is answered. What is kept alive is used again, unless its end was announced or seen.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks.serve_load import Requests

PATIENCE_S = 60.0
"""A client that waits longer gives up; that counts as a failure."""


@dataclass(frozen=True)
class Phase:
    """So many seconds of one load."""

    name: str
    seconds: float
    per_s: float | None  # open loop: Poisson arrivals
    connections: int = 0  # closed loop instead


@dataclass(frozen=True)
class Asked:
    port: int
    photos: str  # folder of JPEG files
    first: int  # number of the first request
    phases: list[Phase]


@dataclass(frozen=True)
class Outcome:
    """What became of one request."""

    phase: str  # in which it was due
    due: float  # time.time()
    seconds: float  # from then to its last byte
    status: str  # of HTTP, or the kind of error
    retry_after: bool  # whether the answer had that header


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """Ask, and keep the record."""

    def __init__(self, asked: Asked) -> None:
        self.outcomes: list[Outcome] = []
        self._port = asked.port
        self._requests = Requests(
            "analyze", [path.read_bytes() for path in sorted(Path(asked.photos).glob("*.jpg"))]
        )
        self._number = asked.first
        self._idle: list[Connection] = []

    async def run(self, phases: list[Phase]) -> None:
        """One after the other; what is under way at the end of one goes on during the next."""
        under_way: set[asyncio.Task[None]] = set()
        for phase in phases:
            until = time.time() + phase.seconds
            if phase.per_s is None:
                await asyncio.gather(*(self._closed(phase.name, until) for _ in range(phase.connections)))
                continue
            for due in _arrivals(phase.per_s, until, seed=self._number):
                await asyncio.sleep(max(0.0, due - time.time()))
                task = asyncio.create_task(self._one(phase.name, due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _closed(self, phase: str, until: float) -> None:
        while (now := time.time()) < until:
            await self._one(phase, now)

    async def _one(self, phase: str, due: float) -> None:
        parts = self._requests.parts(self._number)
        self._number += 1
        retry_after = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await self._ask(parts)
            status, retry_after = head[9:12].decode(), b"\r\nretry-after:" in head
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        self.outcomes.append(Outcome(phase, due, time.time() - due, status, retry_after))

    async def _ask(self, parts: list[bytes]) -> bytes:
        """The head of the answer, in lower case."""
        reader, writer = await self._connection()
        try:
            writer.writelines(parts)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length)) if length else await reader.read()
        except BaseException:
            writer.close()
            raise
        if b"\r\nconnection: close" in head or not length:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)


def _arrivals(per_s: float, until: float, seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    due = time.time()
    while (due := due + chance.expovariate(per_s)) < until:
        yield due


def main() -> None:
    told = json.loads(sys.stdin.readline())
    phases = [Phase(**phase) for phase in told.pop("phases")]
    clients = Clients(Asked(**told, phases=phases))
    print("started", flush=True)
    uvloop.run(clients.run(phases))
    json.dump([asdict(outcome) for outcome in clients.outcomes], sys.stdout)


if __name__ == "__main__":
    main()
