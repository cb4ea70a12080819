"""The clients of benchmarks.serve, in a process of their own: it shares the cores with the server that it asks.

So it is cheap: one asyncio loop over raw sockets that are kept alive, requests that are joined from bytes made
beforehand, and of an answer only the status and the length are read. About 0.1 ms a request.

    python -m benchmarks.serve_load < asked.json > answered.json      # an Asked and an Answered

No two requests of one server's life are the same: the number of a request stands in its text, and in a comment of its
JPEG, which changes the file but no pixel. Nothing is answered from a cache.
"""

import asyncio
import base64
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import uvloop

Kind = Literal["analyze", "images", "texts"]
_BOUNDARY = "a-boundary-that-no-picture-holds"
_PATHS: dict[Kind, str] = {"analyze": "/clip/analyze", "images": "/embeddings", "texts": "/embeddings"}
_WORDS = (
    ("red", "blue", "green", "brown", "white", "golden", "striped", "dotted"),
    ("ceramic", "wooden", "steel", "glass", "leather", "cotton", "paper", "plastic"),
    ("mug", "plate", "bottle", "bag", "lamp", "chair", "box", "basket"),
    ("with a round handle", "on a white table", "for the kitchen", "made by hand", "in a large size"),
)


@dataclass(frozen=True)
class Asked:
    """One measurement of one server."""

    port: int
    kind: Kind
    photos: str  # folder of JPEG files
    first: int  # number of the first request; numbers make requests unique
    concurrency: int  # closed loop: connections that each ask as soon as they are answered
    per_s: float | None  # open loop: Poisson arrivals at this rate instead
    warm_up_s: float  # not counted
    seconds: float


@dataclass(frozen=True)
class Answered:
    """What came of it; latencies in seconds, of requests that were answered while it counted."""

    requests: int  # sent, the warm-up's too
    failures: dict[str, int]  # by status, or kind of error; of all requests
    latencies: list[float]
    seconds: float

    @property
    def per_s(self) -> float:
        """Successes a second."""
        return len(self.latencies) / self.seconds


def unique(photo: bytes, number: int) -> bytes:
    """The JPEG with a comment, at its start, that holds the number."""
    return _start(number) + photo[2:]


def text(number: int) -> str:
    """A description of about 16 tokens."""
    words = []
    rest = number
    for choice in _WORDS:
        rest, place = divmod(rest, len(choice))
        words.append(choice[place])
    return f"A {' '.join(words)}, product number {number}."


class Requests:
    """Every request of one kind, by its number, as the bytes to send."""

    def __init__(self, kind: Kind, photos: list[bytes]) -> None:
        self._kind = kind
        self._rests = [photo[2:] for photo in photos]
        if kind == "images":
            self._rests = [base64.b64encode(rest) for rest in self._rests]

    def parts(self, number: int) -> list[bytes]:
        """Head and body in pieces."""
        rest = self._rests[number % len(self._rests)] if self._rests else b""
        match self._kind:
            case "analyze":
                head = (
                    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="text"\r\n\r\n{text(number)}\r\n'
                    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
                    "Content-Type: image/jpeg\r\n\r\n"
                )
                body = [head.encode(), _start(number), rest, f"\r\n--{_BOUNDARY}--\r\n".encode()]
                content = f"multipart/form-data; boundary={_BOUNDARY}"
            case "images":  # the start has 18 bytes, so that its base64 and the rest's can be joined
                start = base64.b64encode(_start(number))
                body = [_BEFORE, start, rest, b'"}']
                content = "application/json"
            case "texts":
                asked = {"model": "clip", "modality": "text", "input": text(number)}
                body, content = [json.dumps(asked).encode()], "application/json"
        head = (
            f"POST {_PATHS[self._kind]} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content}\r\n"
            f"Content-Length: {sum(map(len, body))}\r\n\r\n"
        )
        return [head.encode(), *body]


_BEFORE = b'{"model": "clip", "modality": "image", "input": "data:image/jpeg;base64,'


def _start(number: int) -> bytes:
    comment = f"{number:012d}".encode()
    return b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment


class Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._length: int | None = None  # of the whole answer, once its head is there
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, parts: list[bytes]) -> int:
        """The status. Raises ConnectionError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(parts)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._length is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            _, told, after = head.partition(b"\r\ncontent-length:")
            if not told:
                self._done(ConnectionError("the answer does not say its length"))
                return
            self._length = end + 4 + int(after.split(b"\r\n", 1)[0])
        if len(self._received) >= self._length:
            status = int(self._received[9:12])
            del self._received[:]
            self._length = None
            self._done(status)

    def connection_lost(self, error: Exception | None) -> None:
        self._done(error or ConnectionResetError())

    def _done(self, outcome: int | Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


class Load:
    """Asks one server and keeps the record."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        files = [] if asked.kind == "texts" else sorted(Path(asked.photos).glob("*.jpg"))
        self._requests = Requests(asked.kind, [path.read_bytes() for path in files])
        self._number = asked.first
        self._failures: dict[str, int] = {}
        self._latencies: list[float] = []
        self._idle: list[Connection] = []
        started = time.perf_counter()
        self._from, self._until = started + asked.warm_up_s, started + asked.warm_up_s + asked.seconds

    async def run(self) -> Answered:
        """All of it; what is under way at the end is waited for and not counted."""
        if self._asked.per_s is None:
            await asyncio.gather(*(self._closed() for _ in range(self._asked.concurrency)))
        else:
            await self._open(self._asked.per_s)
        for connection in self._idle:
            connection.close()
        sent = self._number - self._asked.first
        return Answered(sent, self._failures, self._latencies, self._asked.seconds)

    async def _closed(self) -> None:
        while (now := time.perf_counter()) < self._until:
            await self._one(now)

    async def _open(self, per_s: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        for due in self._arrivals(per_s):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self._one(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    def _arrivals(self, per_s: float) -> Iterator[float]:
        chance = random.Random(self._asked.first)
        due = time.perf_counter()
        while (due := due + chance.expovariate(per_s)) < self._until:
            yield due

    async def _one(self, since: float) -> None:
        """One request, on a connection that is free, timed from `since`."""
        parts = self._requests.parts(self._number)
        self._number += 1
        try:
            connection = self._idle.pop() if self._idle else await Connection.open(self._asked.port)
            status = await connection.ask(parts)
        except OSError as error:
            self._failed(type(error).__name__)
            await asyncio.sleep(0.1)
            return
        self._idle.append(connection)
        now = time.perf_counter()
        if status != 200:
            self._failed(str(status))
        elif self._from <= now < self._until:
            self._latencies.append(now - since)

    def _failed(self, how: str) -> None:
        self._failures[how] = self._failures.get(how, 0) + 1


def main() -> None:
    asked = Asked(**json.load(sys.stdin))
    json.dump(asdict(uvloop.run(Load(asked).run())), sys.stdout)


if __name__ == "__main__":
    main()
