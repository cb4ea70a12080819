"""Who may ask, and how much: API keys and a rate limit per caller, as ASGI layers inside RequestIds.

An API key is set as `KEY` or `NAME KEY`, where KEY is the key itself or `sha256:` and the hexadecimal SHA-256 of it, so
that a configuration file need not hold secrets. NAME is how logs and metrics call its owner. Make keys by
`openssl rand -hex 32`, and their digests by `printf %s KEY | sha256sum`: a digest hides a random key, not a password.
Clients send `Authorization: Bearer KEY`, as OpenAI's do, or `X-API-Key: KEY`.

The rate limit is a bucket of tokens for each key or, without keys, for each address: a request costs one, a batch one
for each item (`charge`). Every replica of the ingress has buckets of its own: with N replicas a caller whose requests
spread over all of them gets up to N times the rate, and is refused by one while another would still serve. So set the
rate you want divided by the number of replicas you run, and take it for protection, not for an invoice.

The address is the one the server tells. Ray's are uvicorns, which take it from X-Forwarded-For where the environment's
FORWARDED_ALLOW_IPS names the peer (127.0.0.1 and ::1 unless set), and from the socket otherwise. Ray's HAProxy adds no
such header: behind it all callers share an address, and what a client wrote there itself may be believed. A limit
that must hold therefore needs keys.
"""

import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from data_jobs.errors import InputError
from serve_app.middleware import App, Receive, Scope, Send, refuse

OPEN_PATHS = (
    "/",
    "/clip/health",
    "/docs",
    "/docs/oauth2-redirect",
    "/healthz/live",
    "/healthz/ready",
    "/openapi.json",
    "/redoc",
    "/static-offline-docs/*",
)
"""Served to anybody at any rate, since probes and browsers send no keys; `/*` stands for everything below."""

_KEY_HEADERS = (b"authorization", b"x-api-key")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN = re.compile(r"[!-~]{16,}")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_ROUNDING = 1e-6
"""Tokens: who waited as long as told must not be refused over the last digit of a float."""


@dataclass(frozen=True)
class Key:
    """Whose key it is, and its SHA-256."""

    name: str
    digest: bytes = field(repr=False)


def parse_keys(entries: Iterable[str]) -> tuple[Key, ...]:
    """`KEY` or `NAME KEY` each; without a name it is `key-1`, `key-2`... by its place.

    Raises InputError (bad_api_keys), which names the place and never the key. An empty entry is an error too: a
    variable that was left empty must not open the server.
    """
    keys: list[Key] = []
    for place, entry in enumerate(entries, 1):
        *names, secret = entry.split() or [""]
        digest, plain = _DIGEST.fullmatch(secret), _PLAIN.fullmatch(secret)
        if digest:
            found = bytes.fromhex(digest[1])
        elif plain and not secret.startswith("sha256:"):
            found = hashlib.sha256(secret.encode()).digest()
        else:
            raise _bad_keys(
                place, "is neither 16 or more printable ASCII characters nor sha256: and 64 digits"
            )
        if len(names) > 1 or not all(_NAME.fullmatch(name) for name in names):
            raise _bad_keys(place, "has a name that is not 1 to 64 of A-Z a-z 0-9 . _ -")
        key = Key(names[0] if names else f"key-{place}", found)
        if any(key.name == other.name or key.digest == other.digest for other in keys):
            raise _bad_keys(place, "has the key or the name of an earlier one")
        keys.append(key)
    return tuple(keys)


class ApiKeys:
    """Answer 401 to whoever brings none of `keys`; without keys let everybody in.

    Who comes in is known as `scope["state"]["caller"]`, the key's name. The key itself goes no further: the layers and
    routes inside, and what they may log, see a request without it.
    """

    def __init__(self, app: App, keys: Iterable[str] = (), open_paths: Iterable[str] = OPEN_PATHS) -> None:
        """`keys` as for parse_keys. Raises InputError (bad_api_keys)."""
        self.app, self.keys, self.open_paths = app, parse_keys(keys), tuple(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.keys or scope["type"] == "lifespan" or _is_open(scope, self.open_paths):
            await self.app(scope, receive, send)
            return
        brought = _brought(scope)
        if not brought:
            await self._refuse(scope, send, "no_api_key", "The request brings no API key.", b"")
            return
        caller = self._owner(brought)
        if caller is None:
            await self._refuse(
                scope, send, "wrong_api_key", "The API key is not one of ours.", b', error="invalid_token"'
            )
            return
        scope.setdefault("state", {})["caller"] = caller
        # In place: the layers around learn the route from this scope.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in _KEY_HEADERS]
        await self.app(scope, receive, send)

    def _owner(self, brought: bytes) -> str | None:
        """The name of a key, found in a time that tells nothing about the keys."""
        digest = hashlib.sha256(brought).digest()
        owner = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                owner = key.name
        return owner

    async def _refuse(self, scope: Scope, send: Send, code: str, message: str, reason: bytes) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        remedy = "Send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; the server's operator gives them out."
        header = (b"www-authenticate", b'Bearer realm="catalens"' + reason)
        await refuse(scope, send, 401, code, message, remedy, header)


class RateLimitError(InputError):
    """More than the caller's rate: status 429, with Retry-After: `retry_after` (whole seconds, at least 1)."""

    def __init__(self, message: str, suggestion: str, retry_after: int) -> None:
        super().__init__("rate_limited", message, suggestion)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["RateLimitError"], tuple[str, str, int]]:  # type: ignore[override]
        return (type(self), (self.message, self.suggestion, self.retry_after))


class Buckets:
    """A bucket of tokens for each caller: `per_second` come in, at most `burst` are kept.

    What is refused costs nothing. A request for more than `burst` waits for a full bucket and then leaves it in debt,
    so that every request is served in the end and the rate holds all the same. Of more than `most_callers` the one not
    seen for longest is forgotten, and begins with a full bucket when it comes back. One event loop's: no locks.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
        most_callers: int = 10_000,
    ) -> None:
        """Raises InputError (bad_rate_limit)."""
        if not (0 < per_second < math.inf and 1 <= burst < math.inf and most_callers >= 1):
            raise InputError(
                "bad_rate_limit",
                f"A rate of {per_second} a second with bursts of {burst} for {most_callers} callers is no limit.",
                "Use a rate above 0, a burst of at least 1 and at least 1 caller.",
            )
        self.per_second, self.burst, self._clock, self._most = per_second, burst, clock, most_callers
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, caller: str, items: int, paid: int = 0) -> None:
        """Take `items` tokens for a request that took `paid` before; those are given back when it is refused.

        Raises RateLimitError.
        """
        now = self._clock()
        tokens, since = self._held.pop(caller, (self.burst, now))
        tokens = min(self.burst, tokens + (now - since) * self.per_second)
        short = min(paid + items, self.burst) - paid - tokens
        refused = short > _ROUNDING
        self._held[caller] = (min(self.burst, tokens + paid) if refused else tokens - items, now)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        if refused:
            wait = max(1, math.ceil(short / self.per_second))
            raise RateLimitError(
                f"{max(0, int(tokens + paid + _ROUNDING))} items are left of {self.per_second:g} a second "
                f"(at most {self.burst:g} at once); the request takes {paid + items} or more.",
                f"Try again in {wait} s, or send less at once.",
                wait,
            )


@dataclass
class _Bill:
    """What a request has paid for so far, and where."""

    buckets: Buckets
    caller: str
    paid: int


class RateLimit:
    """Answer 429 to whoever asks for more than `buckets` hold; inside ApiKeys, for it goes by the key's name."""

    def __init__(self, app: App, buckets: Buckets, open_paths: Iterable[str] = OPEN_PATHS) -> None:
        self.app, self.buckets, self.open_paths = app, buckets, tuple(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope, self.open_paths):
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        caller = f"key {state['caller']}" if "caller" in state else f"address {_address(scope)}"
        try:
            self.buckets.take(caller, 1)
        except RateLimitError as error:
            header = (b"retry-after", str(error.retry_after).encode())
            await refuse(scope, send, 429, error.code, error.message, error.suggestion, header)
            return
        state["bill"] = _Bill(self.buckets, caller, 1)
        await self.app(scope, receive, send)


def charge(scope: Scope, items: int) -> None:
    """Let a request pay for `items` in all, the one it paid on arrival among them; free where no rate is limited.

    Called by a route as soon as it knows how many items it was sent, in the event loop. Raises RateLimitError.
    """
    bill: _Bill | None = scope.get("state", {}).get("bill")
    if bill is not None and items > bill.paid:
        bill.buckets.take(bill.caller, items - bill.paid, bill.paid)
        bill.paid = items


def _is_open(scope: Scope, open_paths: Iterable[str]) -> bool:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return any(
        path.startswith(allowed[:-1]) if allowed.endswith("/*") else path == allowed for allowed in open_paths
    )


def _brought(scope: Scope) -> bytes:
    """The key of a request; empty if there is none."""
    headers = dict(scope["headers"])
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


def _address(scope: Scope) -> str:
    """The caller's address; of IPv6 the first 64 bits, since whoever has one address there has all with the same."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a forwarded name of any length, a Unix socket: all of them share one bucket
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def _bad_keys(place: int, why: str) -> InputError:
    return InputError(
        "bad_api_keys", f"API key {place} {why}.", "Write KEY, NAME KEY, sha256:DIGEST or NAME sha256:DIGEST."
    )
