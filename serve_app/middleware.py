"""ASGI layers around the routes: a request id on everything, where its time went, and limits before any work."""

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve_app import contract, telemetry

_log = logging.getLogger("ray.serve")  # Serve writes it as JSON, a file for each replica

MAX_ID_CHARACTERS = 128
TOLD_EVERY_S = 1.0
UNREAD_BYTES = 1_000_000
"""A body up to so long that nobody reads is received all the same, to keep the connection: a new one costs more."""
UNREAD_S = 0.5
UNREAD_AT_ONCE = 32
"""Bodies that are received so at a time, and for how long: slow ones must not keep others from Serve's places."""
CLIENT_GONE = 499
"""nginx's status for a client that hung up before its answer; for the log and metrics only."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequestIds:
    """Know every request by an id: Serve's proxy hands one in (the client's, or a new one) and answers with it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
            if not 0 < len(given) <= MAX_ID_CHARACTERS or not given.isprintable():
                given = uuid.uuid4().hex
            scope.setdefault("state", {})["request_id"] = given
        await self.app(scope, receive, send)


class Timings:
    """Tell where a request's time went: a Server-Timing header, metrics by route, one line in the log."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                timing = telemetry.server_timing(stages, time.monotonic() - started)
                message["headers"] = [*message.get("headers", ()), (b"server-timing", timing.encode())]
            await send(message)

        with telemetry.request() as stages:
            try:
                await self.app(scope, receive, timed)
            except asyncio.CancelledError:
                status = CLIENT_GONE
                raise
            finally:
                route = getattr(scope.get("route"), "path", "none")
                telemetry.answered(route, status, time.monotonic() - started)
                _log.info(
                    "request",
                    extra={
                        "method": scope["method"],
                        "route": route,
                        "status": status,
                        "ms": round((time.monotonic() - started) * 1000, 1),
                        "stages_ms": {name: round(spent * 1000, 1) for name, spent in stages.items()},
                        "request": scope.get("state", {}).get("request_id"),
                    },
                )


class Deadline:
    """Answer 503 to what takes longer than `seconds`, and stop it, before Serve's own timeout does in other words."""

    def __init__(self, app: App, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds) as deadline:
                await self.app(scope, receive, noted)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            message = f"The request was not done after {self.seconds:g} s."
            await refuse(scope, send, 503, "too_slow", message, "Try again later, or send less at once.")


class Concurrency:
    """Answer 429 to what comes while `most` requests are under way, whatever its body is. Probes always come in.

    Under a flood this is what most requests meet, on the cores that the others need: so it is among the first layers,
    and tells of them together, once a second.
    """

    def __init__(self, app: App, most: int) -> None:
        self.app, self.most, self.under_way = app, most, 0
        self._refused = self._unread = 0
        self._telling: asyncio.Handle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.app(scope, receive, send)
            return
        if self.under_way >= self.most:
            message = f"{self.under_way} requests are under way here; the limit is {self.most}."
            self._refused += 1
            if self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(TOLD_EVERY_S, self._tell)
            unread = receive if self._unread < UNREAD_AT_ONCE else None
            self._unread += 1
            try:
                await refuse(scope, send, 429, "too_busy", message, "Try again in a second.", unread=unread)
            finally:
                self._unread -= 1
            return
        self.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way -= 1

    def _tell(self) -> None:
        telemetry.refused(429, self._refused)
        _log.info("refused", extra={"status": 429, "requests": self._refused})
        self._refused, self._telling = 0, None


class BodyLimit:
    """Answer 413 as soon as a body is, or says it is, beyond the route's limit, without reading the rest."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = contract.MAX_BODY_BYTES.get(path, contract.MAX_SINGLE_BODY_BYTES)
        declared = _declared(scope)
        if limit < declared < math.inf:
            await self._refuse(scope, send, f"{int(declared):,} bytes", limit)
            return
        received, refused, started = 0, False, False

        async def counted() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if not refused or started:
                started = True
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        except Exception:
            if not refused:
                raise
        if refused and not started:
            await self._refuse(scope, send, f"more than {limit:,} bytes", limit)

    async def _refuse(self, scope: Scope, send: Send, found: str, limit: int) -> None:
        message = f"The request body has {found}; the limit is {limit:,}."
        await refuse(scope, send, 413, "body_too_large", message, "Send fewer or smaller items.")


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    code: str,
    message: str,
    suggestion: str,
    *headers: tuple[bytes, bytes],
    unread: Receive | None = None,
) -> None:
    """Answer with an error in the contract's shape.

    A short body that can be had from `unread` is taken first, and the connection kept; else that is closed.
    """
    kept = unread is not None and _declared(scope) <= UNREAD_BYTES and await _taken(unread)
    request_id = scope.get("state", {}).get("request_id", "")
    body = contract.ErrorResponse.of(code, message, suggestion, request_id).model_dump_json().encode()
    told = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([] if kept else [(b"connection", b"close")]),
        *headers,
    ]
    if status in (429, 503) and b"retry-after" not in dict(headers):
        told.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


async def _taken(body: Receive) -> bool:
    """Whether all of a body has come in time. (An answer before that may leave HAProxy's client without any.)"""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UNREAD_S):
            while (arrived := await body()).get("more_body", False):
                pass
            return bool(arrived["type"] == "http.request")
    return False


def _declared(scope: Scope) -> float:
    """How long the body says it is; infinity where it does not."""
    declared = dict(scope["headers"]).get(b"content-length", b"")[:20]  # int() takes no number of any length
    return int(declared) if declared.isdigit() else math.inf
