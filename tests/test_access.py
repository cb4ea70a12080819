"""API keys over real HTTP, token buckets on a clock of our own, and both together."""

import asyncio
import hashlib
import json
import logging
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

import httpx
import pytest
import uvicorn
from conftest import free_port
from hypothesis import example, given
from hypothesis import strategies as st

from data_jobs.errors import InputError
from serve_app.access import ApiKeys, Buckets, RateLimit, RateLimitError, charge, parse_keys
from serve_app.contract import ErrorResponse
from serve_app.middleware import App, Message, Receive, RequestIds, Scope, Send

PLAIN = "plain-key-of-the-shop=="
HASHED = "a-key-that-the-server-never-holds"
KEYS = (f"shop {PLAIN}", f"sha256:{hashlib.sha256(HASHED.encode()).hexdigest()}")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what reached the routes; `?items=N` pays for a batch of N."""
    items = parse_qs(scope["query_string"].decode()).get("items")
    status, told = 200, {"caller": scope["state"].get("caller"), "headers": str(scope["headers"])}
    try:
        if items:
            charge(scope, int(items[0]))
    except RateLimitError as error:
        status, told = 429, {"retry_after": error.retry_after}
    logging.getLogger("echo").info("request %s", scope)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


@contextmanager
def served(app: App) -> Iterator[httpx.Client]:
    """A client of `app` behind a real socket."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=5), trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def keyed() -> Iterator[httpx.Client]:
    """A server with KEYS and no rate."""
    with served(RequestIds(ApiKeys(echo, KEYS))) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class TestKeys:
    @pytest.mark.parametrize(
        ("headers", "caller"),
        [(bearer(PLAIN), "shop"), (bearer(HASHED), "key-2"), ({"X-API-Key": HASHED}, "key-2"),
         ({"x-api-key": PLAIN}, "shop"), ({"Authorization": f"bearer  {PLAIN}"}, "shop"),
         ({"Authorization": "Basic dTpw", "X-API-Key": PLAIN}, "shop")],
    )  # fmt: skip
    def test_a_key_opens_and_names_its_owner(
        self, keyed: httpx.Client, headers: dict[str, str], caller: str
    ) -> None:
        answer = keyed.get("/clip/config", headers=headers)
        assert answer.status_code == 200
        assert answer.json()["caller"] == caller

    @pytest.mark.parametrize(
        ("headers", "code"),
        [({}, "no_api_key"), ({"Authorization": "Bearer"}, "no_api_key"), ({"X-API-Key": ""}, "no_api_key"),
         ({"Authorization": PLAIN}, "no_api_key"), ({"Authorization": f"Basic {PLAIN}"}, "no_api_key"),
         ({"Cookie": f"key={PLAIN}"}, "no_api_key"),
         (bearer(PLAIN[:-1]), "wrong_api_key"), (bearer(PLAIN + "="), "wrong_api_key"),
         (bearer(PLAIN.upper()), "wrong_api_key"), (bearer(f"shop {PLAIN}"), "wrong_api_key"),
         (bearer(KEYS[1]), "wrong_api_key"), (bearer(KEYS[1].removeprefix("sha256:")), "wrong_api_key"),
         (bearer("none"), "wrong_api_key"), ({**bearer("none"), "X-API-Key": PLAIN}, "wrong_api_key")],
    )  # fmt: skip
    def test_anything_else_is_refused_in_the_contracts_shape(
        self, keyed: httpx.Client, headers: dict[str, str], code: str
    ) -> None:
        answer = keyed.post(
            "/clip/analyze", headers={"X-Request-ID": "r1", **headers}, content=b"x" * 100_000
        )
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        error = ErrorResponse.model_validate_json(answer.content)
        assert (error.error.code, error.detail, error.request_id) == (code, error.error.message, "r1")

    def test_keys_reach_no_routes_logs_or_errors(
        self, keyed: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        right = keyed.get("/x", headers={**bearer(PLAIN), "X-API-Key": PLAIN, "X-Other": "kept"})
        wrong = keyed.get("/x", headers=bearer("wrong-" + PLAIN))
        ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpcore")]
        assert any("request" in message for message in ours), "nothing was logged: the test tests nothing"
        assert "kept" in right.text
        for said in (right.text, wrong.text, str(wrong.headers), *ours):
            assert PLAIN not in said
        assert PLAIN not in repr(parse_keys(KEYS))
        assert str(hashlib.sha256(PLAIN.encode()).digest()) not in repr(parse_keys(KEYS))

    def test_a_digest_that_begins_alike_opens_nothing(self, keyed: httpx.Client) -> None:
        def digest(key: str) -> bytes:
            return hashlib.sha256(key.encode()).digest()

        alike = next(key for key in map(str, range(10**7)) if digest(key)[:2] == digest(PLAIN)[:2])
        assert keyed.get("/x", headers=bearer(alike)).status_code == 401

    @pytest.mark.parametrize(
        "path", ["/", "/healthz/live", "/healthz/ready", "/clip/health", "/docs", "/redoc", "/openapi.json",
                 "/static-offline-docs/swagger-ui.css"]
    )  # fmt: skip
    def test_probes_and_pages_need_no_key(self, keyed: httpx.Client, path: str) -> None:
        assert keyed.get(path).status_code == 200

    @pytest.mark.parametrize(
        "path", ["/v1/embeddings", "/clip/analyze", "/healthz", "/healthz/live/", "/docs/x", "/Docs",
                 "/static-offline-docs", "/static-offline-docsx", "/x?/docs",
                 "/x%3F/docs", "/clip/health%2f..%2fanalyze"]
    )  # fmt: skip
    def test_everything_else_does(self, keyed: httpx.Client, path: str) -> None:
        assert keyed.get(path).status_code == 401

    def test_without_keys_everybody_comes_in(self) -> None:
        with served(RequestIds(ApiKeys(echo))) as client:
            for headers in ({}, bearer("anything")):
                assert client.get("/clip/config", headers=headers).status_code == 200

    def test_open_paths_can_be_closed_and_follow_the_route_prefix(self) -> None:
        with served(RequestIds(ApiKeys(echo, KEYS, open_paths=()))) as client:
            assert client.get("/docs").status_code == 401

        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            await ApiKeys(echo, KEYS)({**scope, "root_path": "/shop", "state": {}}, receive, send)

        with served(below) as client:
            assert client.get("/shop/docs").status_code == 200
            assert client.get("/shop/clip/config").status_code == 401

    def test_websockets_are_closed_and_lifespans_pass(self) -> None:
        sent: list[Message] = []
        passed: list[str] = []

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            passed.append(scope["type"])

        async def receive() -> Message:
            raise AssertionError("nothing is to be read")

        async def send(message: Message) -> None:
            sent.append(message)

        async def both() -> None:
            gate = ApiKeys(inner, KEYS)
            await gate({"type": "websocket", "path": "/ws", "headers": []}, receive, send)
            await gate({"type": "lifespan"}, receive, send)

        asyncio.run(both())
        assert sent == [{"type": "websocket.close", "code": 1008}]
        assert passed == ["lifespan"]


class TestSettings:
    @pytest.mark.parametrize(
        "entries",
        [("",), (" ",), (KEYS[0], ""), ("short",), ("shop short",), ("shop",), ("a b " + PLAIN,),
         ("sh:op " + PLAIN,), ("sha256:abc",), (KEYS[1] + "0",), (KEYS[1].replace("sha256", "sha512")[:12],),
         ("sha256:" + "g" * 64,), ("schlüssel-mit-umlaut",), ("shop " + PLAIN, "shop " + HASHED),
         (PLAIN, PLAIN), (HASHED, KEYS[1]), ("key-2 " + PLAIN, HASHED)],
    )  # fmt: skip
    def test_bad_keys_stop_the_start_and_are_not_shown(self, entries: tuple[str, ...]) -> None:
        with pytest.raises(InputError) as caught:
            ApiKeys(echo, entries)
        assert caught.value.code == "bad_api_keys"
        for entry in entries:
            for word in entry.split():
                assert len(word) < 6 or word not in str(caught.value)

    @pytest.mark.parametrize(
        ("rate", "burst", "callers"),
        [(0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1), (1, 0.5, 1), (1, float("nan"), 1),
         (1, float("inf"), 1), (1, 1, 0)],
    )  # fmt: skip
    def test_bad_rates_stop_the_start(self, rate: float, burst: float, callers: int) -> None:
        with pytest.raises(InputError) as caught:
            Buckets(rate, burst, most_callers=callers)
        assert caught.value.code == "bad_rate_limit"


def refused_for(buckets: Buckets, caller: str, items: int, paid: int = 0) -> int:
    """Retry-After of a refusal, 0 if there is none."""
    try:
        buckets.take(caller, items, paid)
    except RateLimitError as error:
        return error.retry_after
    return 0


class TestBuckets:
    def test_a_burst_and_then_the_rate(self) -> None:
        clock = Clock()
        buckets = Buckets(2, 4, clock)
        assert [refused_for(buckets, "a", 1) for _ in range(5)] == [0, 0, 0, 0, 1]
        clock.now += 1.0
        assert [refused_for(buckets, "a", 1) for _ in range(3)] == [0, 0, 1]
        clock.now += 3600
        assert [refused_for(buckets, "a", 1) for _ in range(5)] == [0, 0, 0, 0, 1]

    def test_callers_do_not_share(self) -> None:
        buckets = Buckets(1, 1, Clock())
        assert [refused_for(buckets, caller, 1) for caller in "abab"] == [0, 0, 1, 1]

    def test_retry_after_is_when_the_tokens_are_there(self) -> None:
        clock = Clock()
        buckets = Buckets(0.1, 10, clock)
        buckets.take("a", 10)
        assert refused_for(buckets, "a", 1) == 10
        assert refused_for(buckets, "a", 5) == 50
        clock.now += 49
        assert refused_for(buckets, "a", 5) == 1
        clock.now += 1
        assert refused_for(buckets, "a", 5) == 0

    def test_a_batch_beyond_the_burst_is_served_in_the_end_and_paid_for(self) -> None:
        clock = Clock()
        buckets = Buckets(1, 10, clock)
        buckets.take("a", 1)
        assert refused_for(buckets, "a", 64) == 1
        clock.now += 1
        assert refused_for(buckets, "a", 64) == 0
        assert refused_for(buckets, "a", 1) == 55

    def test_a_batch_beyond_the_burst_needs_no_more_than_a_full_bucket(self) -> None:
        buckets = Buckets(1, 10, Clock())
        buckets.take("a", 1)
        assert refused_for(buckets, "a", 63, paid=1) == 0

    def test_what_is_refused_costs_nothing(self) -> None:
        buckets = Buckets(1, 10, Clock())
        buckets.take("a", 6)
        assert refused_for(buckets, "a", 1) == 0
        assert refused_for(buckets, "a", 7, paid=1) == 4
        assert refused_for(buckets, "a", 4) == 0
        assert refused_for(buckets, "a", 1) == 1

    def test_memory_is_bounded_and_the_longest_unseen_goes_first(self) -> None:
        buckets = Buckets(1, 1, Clock(), most_callers=100)
        for n in range(1000):
            buckets.take(str(n), 1)
            assert refused_for(buckets, "regular", 1) == bool(n)
        assert len(buckets) == 100
        assert refused_for(buckets, "999", 1) == 1
        assert refused_for(buckets, "0", 1) == 0

    @given(
        rate=st.floats(0.01, 1000),
        burst=st.integers(1, 100),
        asked=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 200)), min_size=1, max_size=30),
    )
    @example(rate=0.7, burst=65, asked=[(0.0, 65), (0.0, 63)])  # 90 s x 0.7 fall short of 63 in floats
    def test_the_rate_holds_and_who_waits_as_told_is_served(
        self, rate: float, burst: int, asked: list[tuple[float, int]]
    ) -> None:
        clock = Clock()
        buckets = Buckets(rate, burst, clock)
        taken = largest = 0
        for pause, items in asked:
            clock.now += pause
            wait = refused_for(buckets, "a", items)
            if wait:
                clock.now += wait
                assert refused_for(buckets, "a", items) == 0
            taken, largest = taken + items, max(largest, items)
            assert taken <= burst + rate * (clock.now - 1000.0) + max(0, largest - burst) + 0.01

    def test_the_error_survives_a_processs_border(self) -> None:
        error = pickle.loads(pickle.dumps(RateLimitError("message", "suggestion", 7)))
        assert (error.code, error.message, error.suggestion, error.retry_after) == (
            "rate_limited", "message", "suggestion", 7
        )  # fmt: skip


class TestRateLimit:
    def test_a_key_has_its_own_rate_and_a_batch_counts_its_items(self) -> None:
        clock = Clock()
        with served(RequestIds(ApiKeys(RateLimit(echo, Buckets(1, 32, clock)), KEYS))) as client:

            def status(key: str, items: int) -> int:
                return client.get("/x", params={"items": items}, headers=bearer(key)).status_code

            assert status(PLAIN, 32) == 200
            assert status(PLAIN, 1) == 429
            assert status(HASHED, 31) == 200
            assert [status(HASHED, 1), status(HASHED, 1)] == [200, 429]
            clock.now += 9
            late = client.get("/x", params={"items": 32}, headers=bearer(PLAIN))
            assert (late.status_code, late.json()) == (429, {"retry_after": 23})
            assert status(PLAIN, 9) == 200, "the refused batch cost nothing"

    def test_a_refusal_has_the_contracts_shape(self) -> None:
        with served(RequestIds(RateLimit(echo, Buckets(0.2, 1, Clock())))) as client:
            assert client.get("/x").status_code == 200
            answer = client.get("/x", headers={"X-Request-ID": "r2"})
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
            error = ErrorResponse.model_validate_json(answer.content)
            assert (error.error.code, error.request_id) == ("rate_limited", "r2")
            assert [client.get("/healthz/ready").status_code for _ in range(5)] == [200] * 5

    def test_a_wrong_key_takes_nothing_from_anybody(self) -> None:
        with served(RequestIds(ApiKeys(RateLimit(echo, Buckets(1, 2, Clock())), KEYS))) as client:
            for _ in range(5):
                assert client.get("/x", headers=bearer("wrong")).status_code == 401
            assert client.get("/x", headers=bearer(PLAIN)).status_code == 200

    def test_without_keys_the_limit_goes_by_address(self) -> None:
        """Here uvicorn believes X-Forwarded-For, since the peer is 127.0.0.1."""
        buckets = Buckets(1, 1, Clock())

        def statuses(client: httpx.Client, *addresses: str) -> list[int]:
            return [
                client.get("/x", headers={"X-Forwarded-For": address} if address else {}).status_code
                for address in addresses
            ]

        with served(RequestIds(RateLimit(echo, buckets))) as client:
            assert statuses(client, "", "", "8.8.8.8", "8.8.8.8") == [200, 429, 200, 429]
            assert statuses(client, "2a00:1450::1", "2a00:1450::ffff", "2a00:1450:0:1::1") == [200, 429, 200]
            assert statuses(client, "::ffff:8.8.8.8") == [429]
            assert statuses(client, "nonsense", "more nonsense", "x" * 5000) == [200, 429, 429]
        assert len(buckets) == 5

    def test_where_no_rate_is_limited_charging_is_free(self) -> None:
        with served(RequestIds(ApiKeys(echo, KEYS))) as client:
            answer = client.get("/x", params={"items": 10**9}, headers=bearer(PLAIN))
            assert answer.status_code == 200
        charge({"type": "http"}, 10**9)

    def test_charging_counts_a_request_once(self) -> None:
        buckets = Buckets(1, 10, Clock())

        async def twice(scope: Scope, receive: Receive, send: Send) -> None:
            for items in (1, 4, 4, 2):
                charge(scope, items)
            await echo(scope, receive, send)

        with served(RequestIds(ApiKeys(RateLimit(twice, buckets), KEYS))) as client:
            assert client.get("/x", headers=bearer(PLAIN)).status_code == 200
        assert refused_for(buckets, "key shop", 6) == 0
        assert refused_for(buckets, "key shop", 1) == 1
