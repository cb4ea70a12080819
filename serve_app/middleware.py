"""ASGI layers around the routes: a request id on everything, and no body beyond the limit."""

import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve_app import contract

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
            scope.setdefault("state", {})["request_id"] = given or uuid.uuid4().hex
        await self.app(scope, receive, send)


class BodyLimit:
    """Answer 413 as soon as a body is, or says it is, beyond MAX_BODY_BYTES, without reading the rest."""

    def __init__(self, app: App, limit: int = contract.MAX_BODY_BYTES) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.limit:
            await self._refuse(scope, send, f"{int(declared):,} bytes")
            return
        received, refused, started = 0, False, False

        async def counted() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
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
            await self._refuse(scope, send, f"more than {self.limit:,} bytes")

    async def _refuse(self, scope: Scope, send: Send, found: str) -> None:
        message = f"The request body has {found}; the limit is {self.limit:,}."
        body = contract.ErrorResponse.of(
            "body_too_large",
            message,
            "Send fewer or smaller items.",
            scope.get("state", {}).get("request_id", ""),
        )
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body.model_dump_json().encode()})
