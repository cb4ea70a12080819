"""The layers around the routes: over ASGI as servers speak it, with real routes behind, and once over a socket."""

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from conftest import free_port
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from serve_app import contract, forms, middleware, ray_metrics, telemetry
from serve_app.access import ApiKeys
from serve_app.contract import MAX_SINGLE_BODY_BYTES, ErrorResponse
from serve_app.middleware import (
    MAX_ID_CHARACTERS,
    App,
    BodyLimit,
    Concurrency,
    Deadline,
    Message,
    Receive,
    RequestIds,
    Scope,
    Send,
    Timings,
)

CHUNK = b"x" * 2**20
FILE = b'--xxx\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
"""What a form with boundary xxx begins with, before the file's bytes."""
BATCH = "/clip/analyze-batch"
SINGLE_CHUNKS = MAX_SINGLE_BODY_BYTES // len(CHUNK)


class Body:
    """Some first bytes, so many chunks and some more bytes, made as they are asked for."""

    def __init__(self, chunks: int, more: bytes = b"", first: bytes = b"") -> None:
        self.chunks, self.more, self.first, self.taken = chunks, more, first, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.first
        for _ in range(self.chunks):
            self.taken += 1
            yield CHUNK
        self.taken += bool(self.more)
        yield self.more


class Named(BaseModel):
    name: str


def routes() -> FastAPI:
    """Routes that read their bodies in all the ways there are, spend time, and fail."""
    app = FastAPI()

    @app.post("/stream")
    @app.post(BATCH)
    async def stream(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def json(named: Named) -> str:
        return named.name

    @app.post("/form")
    async def form(request: Request) -> list[str]:
        return list(await forms.form(request))

    @app.post("/stubborn")
    async def stubborn(request: Request) -> str:
        try:
            await request.body()
        except Exception:
            return "all is well"
        return "read"

    @app.post("/ignored")
    async def ignored() -> str:
        return "not read"

    @app.get("/id")
    async def told_id(request: Request) -> str:
        return str(request.state.request_id)

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("broken")

    @app.get("/stages")
    async def stages(name: str = "decode") -> Response:
        with telemetry.stage(name):
            await asyncio.sleep(0.02)

        async def search() -> None:
            telemetry.spent("search", 0.5)

        await asyncio.gather(search(), search())
        await asyncio.to_thread(telemetry.spent, "model", 0.25)
        return Response("done", headers={"X-Own": "kept"})

    @app.get("/sync")
    def sync() -> None:
        telemetry.spent("model", 0.25)

    under = APIRouter(prefix="/under")

    @under.get("/{number}")
    async def numbered(number: int) -> int:
        return number

    app.include_router(under)
    return app


def ask(app: App, method: str, path: str, **request: Any) -> httpx.Response:
    """One request; what the app raises is raised."""

    async def go() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


def scope(path: str, method: str = "POST", headers: dict[bytes, bytes] | None = None, **more: Any) -> Scope:
    """A request as a server hands it in."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": list((headers or {}).items()),
        **more,
    }


async def called(app: App, given: Scope, *messages: Message) -> list[Message]:
    """What the app sends, called without anything between."""
    received, sent = iter(messages), list[Message]()

    async def receive() -> Message:
        for message in received:
            return message
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(given, receive, send)
    return sent


async def nothing() -> Message:
    raise AssertionError("nothing is to be read")


async def nowhere(message: Message) -> None:
    raise AssertionError("nothing is to be sent")


@contextmanager
def served(app: App) -> Iterator[tuple[str, int]]:
    """The address of `app` behind a real socket."""
    address = ("127.0.0.1", free_port())
    server = uvicorn.Server(uvicorn.Config(app, *address, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield address
    finally:
        server.should_exit = True
        thread.join()


def error_of(answer: httpx.Response) -> ErrorResponse:
    return ErrorResponse.model_validate_json(answer.content)


@pytest.mark.parametrize(
    "layer",
    [RequestIds, Timings, BodyLimit, lambda app: Deadline(app, 1), lambda app: Concurrency(app, 1)],
    ids=["RequestIds", "Timings", "BodyLimit", "Deadline", "Concurrency"],
)
@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_request_passes_untouched(layer: Callable[[App], App], kind: str) -> None:
    passed: list[tuple[Scope, Receive, Send]] = []

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append((scope, receive, send))

    asyncio.run(_awaited(layer(below)({"type": kind}, nothing, nowhere)))
    assert passed == [({"type": kind}, nothing, nowhere)]


async def _awaited(what: Awaitable[None]) -> None:
    await what


class TestRequestIds:
    @pytest.mark.parametrize("given", ["r1", "a b/c:d", "é", "x" * MAX_ID_CHARACTERS, "7f0f" * 8])
    def test_the_clients_id_is_kept(self, given: str) -> None:
        headers = {b"x-request-id": given.encode("latin-1")}
        assert ask(RequestIds(routes()), "GET", "/id", headers=headers).json() == given

    @pytest.mark.parametrize(
        "given", [None, b"", b"x" * (MAX_ID_CHARACTERS + 1), b"tab\there", b"\x1b[31mred", b"\x85", b"\xa0"]
    )
    def test_without_a_usable_one_there_is_a_new_one(self, given: bytes | None) -> None:
        headers = {} if given is None else {b"x-request-id": given}
        ids = {ask(RequestIds(routes()), "GET", "/id", headers=headers).json() for _ in range(3)}
        assert len(ids) == 3
        assert all(re.fullmatch("[0-9a-f]{32}", new) for new in ids)

    def test_what_the_server_put_into_the_state_stays(self) -> None:
        given = scope("/", state={"of": "the lifespan"})

        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["state"]["of"] == "the lifespan"
            assert scope["state"]["request_id"]

        assert asyncio.run(called(RequestIds(below), given)) == []


class TestBodyLimit:
    @pytest.mark.parametrize("path", ["/stream", "/stubborn", "/body", BATCH])
    def test_the_limit_is_the_last_size_that_is_read(self, path: str) -> None:
        chunks = SINGLE_CHUNKS if path != BATCH else contract.MAX_BODY_BYTES[BATCH] // len(CHUNK)
        assert chunks * len(CHUNK) == contract.MAX_BODY_BYTES.get(path, MAX_SINGLE_BODY_BYTES)
        answer = ask(BodyLimit(routes()), "POST", path, content=Body(chunks))
        assert answer.status_code == 200
        assert answer.json() in (chunks * len(CHUNK), "read")

    @pytest.mark.parametrize("path", ["/stream", "/body", "/json", "/form", "/stubborn", BATCH])
    def test_one_byte_more_is_refused_however_the_route_reads(self, path: str) -> None:
        chunks = SINGLE_CHUNKS if path != BATCH else contract.MAX_BODY_BYTES[BATCH] // len(CHUNK)
        kind = "multipart/form-data; boundary=xxx" if path == "/form" else "application/json"
        answer = ask(
            RequestIds(Timings(BodyLimit(routes()))),
            "POST",
            path,
            content=Body(chunks, first=FILE) if path == "/form" else Body(chunks, b"y"),
            headers={"Content-Type": kind, "X-Request-ID": "r1"},
        )
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/json"
        error = error_of(answer)
        assert (error.error.code, error.request_id) == ("body_too_large", "r1")
        assert f"{chunks * len(CHUNK):,}" in error.detail

    def test_no_more_is_read_than_the_limit(self) -> None:
        body = Body(10 * SINGLE_CHUNKS)
        assert ask(BodyLimit(routes()), "POST", "/body", content=body).status_code == 413
        assert body.taken == SINGLE_CHUNKS + 1

    @pytest.mark.parametrize("path", ["/body", "/ignored", "/none", BATCH])
    def test_what_says_that_it_is_too_large_is_not_read_at_all(self, path: str) -> None:
        size = contract.MAX_BODY_BYTES.get(path, MAX_SINGLE_BODY_BYTES) + 1
        body = Body(1)
        answer = ask(BodyLimit(routes()), "POST", path, content=body, headers={"Content-Length": str(size)})
        assert (answer.status_code, body.taken) == (413, 0)
        assert f"{size:,} bytes" in error_of(answer).detail

    @pytest.mark.parametrize("said", ["10", "-1", "+5", "0", "", "1e9", "many", "16777216"])
    def test_what_it_says_of_its_size_is_not_believed(self, said: str) -> None:
        body = Body(3 * SINGLE_CHUNKS)
        answer = ask(BodyLimit(routes()), "POST", "/body", content=body, headers={"Content-Length": said})
        assert (answer.status_code, body.taken) == (413, SINGLE_CHUNKS + 1)

    def test_a_size_of_thousands_of_digits_is_too_large(self) -> None:
        """Python's int() takes 4300 digits at most."""
        answer = ask(
            BodyLimit(routes()), "POST", "/body", content=Body(1), headers={"Content-Length": "9" * 5000}
        )
        assert answer.status_code == 413

    def test_the_batches_limit_follows_the_route_prefix(self) -> None:
        given = scope(
            f"/shop{BATCH}",
            root_path="/shop",
            headers={b"content-length": str(contract.MAX_BODY_BYTES[BATCH]).encode()},
        )
        sent = asyncio.run(called(BodyLimit(routes()), given, {"type": "http.request", "body": b"short"}))
        assert sent[0]["status"] == 200

    def test_a_body_in_many_messages_is_counted_as_a_whole(self) -> None:
        small = {"type": "http.request", "body": b"x" * 1000, "more_body": True}

        async def go() -> int:
            given = scope("/body")
            messages = [dict(small) for _ in range(MAX_SINGLE_BODY_BYTES // 1000 + 1)]
            return int((await called(BodyLimit(routes()), given, *messages))[0]["status"])

        assert asyncio.run(go()) == 413

    def test_an_answer_that_has_begun_is_not_begun_again(self) -> None:
        async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await receive())["type"] == "http.request":
                await send({"type": "http.response.body", "body": b"read", "more_body": True})
            await send({"type": "http.response.body", "body": b"end"})

        chunk = {"type": "http.request", "body": CHUNK, "more_body": True}
        messages = [dict(chunk) for _ in range(2 * SINGLE_CHUNKS)]
        sent = asyncio.run(called(BodyLimit(hasty), scope("/"), *messages))
        assert [message["type"] for message in sent].count("http.response.start") == 1
        assert [message.get("body") for message in sent[1:]] == [b"read"] * SINGLE_CHUNKS + [b"end"]

    def test_other_failures_are_not_hidden(self) -> None:
        with pytest.raises(RuntimeError, match="broken"):
            ask(BodyLimit(routes()), "GET", "/fails")

    def test_a_socket_hears_413_before_it_has_sent_its_body(self) -> None:
        with served(BodyLimit(routes())) as address:
            with socket.create_connection(address, timeout=20) as client:
                client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
            with socket.create_connection(address, timeout=20) as client:
                client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(SINGLE_CHUNKS + 1):  # no last chunk: it never says that it has ended
                    client.sendall(f"{len(CHUNK):x}\r\n".encode() + CHUNK + b"\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def timings(answer: httpx.Response) -> dict[str, float]:
    """The Server-Timing header, milliseconds by name."""
    parts = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
    return {name: float(spent) for name, spent in parts}


Told = list[tuple[str, float, dict[str, str]]]


class TestTimings:
    @pytest.fixture
    def log(self) -> Iterator[list[logging.LogRecord]]:
        """What the service's logger is told, whatever Ray has made of it in this process."""
        records: list[logging.LogRecord] = []
        logger, handler = logging.getLogger("ray.serve"), logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel("INFO")
        yield records
        logger.setLevel(level)
        logger.removeHandler(handler)

    @pytest.fixture
    def told(self) -> Iterator[Told]:
        numbers: Told = []
        telemetry.collect_by(lambda name, value, tags: numbers.append((name, value, tags)))
        yield numbers
        telemetry.collect_by(None)

    def test_the_header_says_where_the_time_went(self) -> None:
        answer = ask(Timings(routes()), "GET", "/stages")
        spent = timings(answer)
        assert list(spent) == ["decode", "search", "model", "total"]
        assert (spent["search"], spent["model"]) == (1000, 250), "seconds of tasks and threads add up"
        assert 20 <= spent["decode"] <= spent["total"]
        assert (answer.text, answer.headers["x-own"]) == ("done", "kept")

    def test_routes_in_threads_and_errors_have_it_too(self) -> None:
        assert timings(ask(Timings(routes()), "GET", "/sync"))["model"] == 250
        assert list(timings(ask(Timings(routes()), "GET", "/none"))) == ["total"]

    def test_requests_side_by_side_have_their_own(self) -> None:
        async def go() -> list[httpx.Response]:
            transport = httpx.ASGITransport(Timings(routes()))
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await asyncio.gather(*(client.get(f"/stages?name=n{i}") for i in range(5)))

        for number, answer in enumerate(asyncio.run(go())):
            assert list(timings(answer)) == [f"n{number}", "search", "model", "total"]
            assert timings(answer)["search"] == 1000

    def test_outside_of_a_request_nothing_is_kept(self) -> None:
        telemetry.spent("model", 100)
        assert "model" not in timings(ask(Timings(routes()), "GET", "/none"))

    @pytest.mark.parametrize(
        ("method", "path", "route", "status"),
        [
            ("GET", "/stages?name=x", "/stages", 200),
            ("GET", "/under/17", "/under/{number}", 200),
            ("GET", "/under/seventeen", "/under/{number}", 422),
            ("GET", "/nobody/knows", "none", 404),
            ("GET", "/fails", "/fails", 500),
        ],
    )
    def test_it_is_logged_and_counted_by_route(
        self, log: list[logging.LogRecord], told: Told, method: str, path: str, route: str, status: int
    ) -> None:
        app = RequestIds(Timings(routes()))
        try:
            ask(app, method, path, headers={"X-Request-ID": "r1"})
        except RuntimeError:
            assert status == 500
        (record,) = [vars(record) for record in log if record.getMessage() == "request"]
        assert (record["method"], record["route"], record["status"]) == (method, route, status)
        assert record["request"] == "r1"
        assert 0 <= record["ms"] < 60_000
        if route == "/stages":
            assert (record["stages_ms"]["search"], record["stages_ms"]["model"]) == (1000, 250)
        assert ("requests_total", 1, {"route": route, "status": str(status)}) in told
        assert [tags for name, _, tags in told if name == "request_seconds"] == [{"route": route}]
        known = {**ray_metrics.COUNTERS, **ray_metrics.HISTOGRAMS}
        for name, _, tags in told:
            assert set(known[name][1]) == set(tags)

    def test_refusals_of_the_layers_below_are_seen(self, log: list[logging.LogRecord], told: Told) -> None:
        size = {"Content-Length": str(MAX_SINGLE_BODY_BYTES + 1)}
        answer = ask(Timings(BodyLimit(routes())), "POST", "/body", content=Body(1), headers=size)
        assert (answer.status_code, list(timings(answer))) == (413, ["total"])
        assert ("requests_total", 1, {"route": "none", "status": "413"}) in told
        assert [vars(record)["status"] for record in log] == [413]

    def test_a_client_that_leaves_is_no_failure_of_the_server(
        self, log: list[logging.LogRecord], told: Told
    ) -> None:
        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(3600)

        async def go() -> None:
            task = asyncio.create_task(called(Timings(slow), scope("/")))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(go())
        (counted,) = [tags["status"] for name, _, tags in told if name == "requests_total"]
        assert not counted.startswith("5")
        assert [str(vars(record)["status"]) for record in log] == [counted]


class TestDeadline:
    @staticmethod
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(3600)

    def test_what_takes_too_long_is_stopped_and_told(self) -> None:
        stopped: list[str] = []

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                stopped.append(scope["path"])
                raise

        answer = ask(RequestIds(Deadline(slow, 0.05)), "GET", "/x", headers={"X-Request-ID": "r1"})
        assert (answer.status_code, answer.headers["retry-after"], stopped) == (503, "1", ["/x"])
        error = error_of(answer)
        assert (error.error.code, error.request_id) == ("too_slow", "r1")
        assert "0.05 s" in error.detail

    def test_what_is_in_time_is_not_touched(self) -> None:
        answer = ask(Deadline(routes(), 20), "POST", "/body", content=b"short")
        assert (answer.status_code, answer.json()) == (200, 5)

    def test_an_answer_that_has_begun_breaks_off(self) -> None:
        async def begun(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.sleep(3600)

        with pytest.raises(TimeoutError):
            ask(Deadline(begun, 0.05), "GET", "/x")

    def test_a_client_that_leaves_gets_no_answer(self) -> None:
        async def go() -> None:
            task = asyncio.create_task(called(Deadline(self.slow, 20), scope("/")))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(go())

    def test_a_timeout_of_something_else_is_not_the_deadlines(self) -> None:
        """TimeoutError is an OSError as well: ETIMEDOUT of a network disk."""

        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            raise TimeoutError(110, "Connection timed out")

        with pytest.raises(TimeoutError, match="Connection timed out"):
            ask(Deadline(failing, 20), "GET", "/x")


class TestConcurrency:
    def test_beyond_so_many_none_is_begun_and_probes_come_in(self) -> None:
        async def go() -> None:
            release, entered = asyncio.Event(), list[str]()

            async def held(scope: Scope, receive: Receive, send: Send) -> None:
                entered.append(scope["path"])
                if scope["method"] == "POST":
                    await release.wait()
                if scope["path"] == "/fails":
                    raise RuntimeError("broken")
                await Response("done")(scope, receive, send)

            transport = httpx.ASGITransport(RequestIds(Concurrency(held, 3)), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                first = [asyncio.create_task(client.post(path)) for path in ("/a", "/fails", "/leaves")]
                while len(entered) < 3:
                    await asyncio.sleep(0)
                body = Body(1)
                refused = await client.post("/late", content=body, headers={"X-Request-ID": "r1"})
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
                assert (error_of(refused).error.code, error_of(refused).request_id) == ("too_busy", "r1")
                assert (body.taken, "/late" in entered) == (0, False)
                assert refused.headers["connection"] == "close", "who knows how much is unread"
                assert int(refused.headers["content-length"]) == len(refused.content)
                short = Body(0, more=b"y" * 1000)
                small = await client.post("/late", content=short, headers={"Content-Length": "1000"})
                assert (small.status_code, "connection" in small.headers, short.taken) == (429, False, 1)
                assert (await client.get("/healthz/live")).status_code == 200
                first[2].cancel()
                await asyncio.wait([first[2]])
                again = asyncio.create_task(client.post("/again"))
                while "/again" not in entered:
                    await asyncio.sleep(0)
                assert (await client.post("/late")).status_code == 429
                release.set()
                assert [answer.status_code for answer in await asyncio.gather(*first[:2], again)] == [
                    200, 500, 200
                ]  # fmt: skip
                for _ in range(5):
                    later = await asyncio.gather(*(client.post("/later") for _ in range(3)))
                    assert [answer.status_code for answer in later] == [200] * 3, "a place was not given back"

        asyncio.run(go())


def test_refusals_of_a_flood_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line and a metric for each would take what is left of the machine."""
    told: list[tuple[str, float, dict[str, str]]] = []
    monkeypatch.setattr(telemetry, "_sink", lambda *number: told.append(number))
    monkeypatch.setattr(middleware, "TOLD_EVERY_S", 1.0)

    async def go() -> None:
        transport = httpx.ASGITransport(Concurrency(Response("done"), 0))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            for requests in (7, 3):
                for _ in range(requests):
                    assert (await client.post("/x")).status_code == 429
                await asyncio.sleep(1.1)

    asyncio.run(go())
    tags = {"route": "none", "status": "429"}
    assert told == [("requests_total", 7, tags), ("requests_total", 3, tags)]


@pytest.mark.parametrize("ending", ["stalls", "hangs up"])
def test_a_refusal_waits_for_no_slow_body(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "UNREAD_S", 0.05)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if ending == "stalls":
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"content-length", b"1000")]}
    asyncio.run(asyncio.wait_for(Concurrency(Response("done"), 0)(scope, receive, send), 5))
    assert sent[0]["status"] == 429
    assert (b"connection", b"close") in sent[0]["headers"]


def test_slow_bodies_of_refused_requests_are_not_all_waited_for() -> None:
    async def go() -> None:
        limit = Concurrency(Response("done"), 0)
        stalled = asyncio.Event()
        answered: list[int] = []

        async def receive() -> dict[str, Any]:
            await stalled.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered.append(message["status"])

        scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"content-length", b"1000")]}
        slow = [
            asyncio.ensure_future(limit(dict(scope), receive, send))
            for _ in range(middleware.UNREAD_AT_ONCE + 5)
        ]
        await asyncio.sleep(0.01)
        assert answered == [429] * 5
        stalled.set()
        await asyncio.gather(*slow)

    asyncio.run(go())


def test_routes_are_known_of_requests_with_a_key_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, dict[str, str]]] = []
    monkeypatch.setattr(telemetry, "_sink", lambda *number: told.append(number))
    app = FastAPI()
    app.add_api_route("/x/{name}", lambda name: name)
    layers = Timings(ApiKeys(app, ["a-key-of-enough-characters"]))
    answer = ask(layers, "GET", "/x/y", headers={"X-API-Key": "a-key-of-enough-characters"})
    assert answer.status_code == 200
    assert ("requests_total", 1, {"route": "/x/{name}", "status": "200"}) in told
