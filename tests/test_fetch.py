"""Fetching against real servers on this machine; only the name server is played, where a test needs its lies."""

import asyncio
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_jobs.errors import InputError
from serve_app.fetch import Fetcher, is_public

PICTURE = bytes(range(256)) * 4
LIMIT = 50_000
LOOPBACK = frozenset({"127.0.0.1"})


class Server(http.server.ThreadingHTTPServer):
    """A web server that misbehaves by path, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, address: str, port: int = 0, name: str = "") -> None:
        super().__init__((address, port), Handler)
        self.name = name.encode()
        self.seen: list[str] = []
        self.closing = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """Clients hang up here on purpose."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        what, _, value = self.path.strip("/").partition("/")
        if what == "picture":
            self.answer(200, PICTURE)
        elif what == "name":
            self.answer(200, self.server.name)
        elif what == "headers":
            self.answer(200, json.dumps({name.lower(): held for name, held in self.headers.items()}).encode())
        elif what == "status":
            self.answer(int(value), b"an error page")
        elif what == "hops":
            self.redirect(f"/hops/{int(value) - 1}" if int(value) else "/picture")
        elif what == "to":
            self.redirect(value)
        elif what == "loop":
            self.redirect(self.path)
        elif what == "nowhere":
            self.answer(302, b"")
        elif what == "size":
            self.answer(200, b"x" * int(value))
        elif what == "gzip":
            self.answer(200, PICTURE, {"Content-Encoding": "gzip"})
        elif what == "declares":
            self.start({"Content-Length": value})
            self.wfile.write(b"x" * 10)
            self.close_connection = True
        elif what == "endless":
            self.start({"Connection": "close"})
            while not self.server.closing.is_set():
                self.wfile.write(b"x" * 4096)
        elif what == "drip":
            self.start({"Content-Length": "1000"})
            self.drip(b"x")
        elif what == "drip-headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.drip(b"X-More: 1\r\n")
        elif what == "silent":
            self.server.closing.wait()
        else:
            self.wfile.write(b"what is this?\r\n\r\n")
            self.close_connection = True

    def start(self, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.start({"Content-Length": str(len(body)), **(headers or {})}, status)
        self.wfile.write(body)

    def redirect(self, location: str) -> None:
        self.start({"Location": location, "Content-Length": "0", "Set-Cookie": "id=1"}, 302)

    def drip(self, drop: bytes) -> None:
        while not self.server.closing.wait(0.05):
            self.wfile.write(drop)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def outer() -> Iterator[Server]:
    with running(Server("127.0.0.1", name="127.0.0.1")) as server:
        yield server


@pytest.fixture
def server(outer: Server) -> Server:
    outer.seen.clear()
    return outer


@pytest.fixture
def base(server: Server) -> str:
    return f"http://localhost:{server.server_port}"


def fetcher(server: Server, **changes: Any) -> Fetcher:
    """One that may visit `server` as localhost, which resolves to an address that is not public."""
    knobs: dict[str, Any] = {
        "allowed_hosts": (f"localhost:{server.server_port}",),
        "max_bytes": LIMIT,
        "timeout_s": 5.0,
        "private_ok": LOOPBACK,
    }
    return Fetcher(**{**knobs, **changes})


def fetch(fetcher: Fetcher, url: str) -> bytes:
    return asyncio.run(fetcher.get(url))


def refusal(fetcher: Fetcher, url: str) -> InputError:
    with pytest.raises(InputError) as caught:
        fetch(fetcher, url)
    str(caught.value).encode()
    return caught.value


class Names:
    """A name server: for each host its answers, one after the other, of which the last stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {host.replace("_", "."): list(given) for host, given in answers.items()}
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        answers = self.answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (family_of(address), socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in addresses
        ]


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


class TestAllowed:
    def test_a_picture_comes_whole(self, server: Server, base: str) -> None:
        assert fetch(fetcher(server), f"{base}/picture") == PICTURE

    def test_what_the_server_is_sent(
        self, server: Server, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        sent = json.loads(fetch(fetcher(server), f"{base}/to//headers"))
        assert sent["host"] == f"localhost:{server.server_port}"
        assert sent["accept-encoding"] == "identity"
        assert not {"cookie", "authorization", "referer"} & set(sent)
        assert server.seen == ["/to//headers", "/headers"]

    def test_path_and_query_arrive_as_they_were_and_no_fragment(self, server: Server, base: str) -> None:
        fetch(fetcher(server), f"{base}/picture/%2e%2e/ü?a=%20b&c=d#part")
        assert server.seen == ["/picture/%2e%2e/%C3%BC?a=%20b&c=d"]

    @pytest.mark.parametrize("host", ["LocalHost", "localhost."])
    def test_spellings_of_the_same_host(self, host: str, server: Server) -> None:
        assert fetch(fetcher(server), f"http://{host}:{server.server_port}/picture") == PICTURE

    def test_below_a_domain_but_not_the_domain(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        names = Names()
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        allowing = Fetcher(("*.example.com",))
        for host in (
            "example.com",
            "badexample.com",
            "a.example.com.evil.org",
            "xexample.com",
            "example.comx",
        ):
            assert refusal(allowing, f"http://{host}/a.jpg").code == "url_not_allowed"
        assert not names.asked, "a host that is not allowed is not even looked up"
        names.answers = {"a.b.example.com": [["10.0.0.1"]]}
        assert "not public" in refusal(allowing, "http://a.b.example.com/a.jpg").message

    @pytest.mark.parametrize(
        "path", ["/status/404", "/status/500", "/status/204", "/nowhere", "/nonsense", "/gzip"]
    )
    def test_answers_that_are_no_picture(self, path: str, server: Server, base: str) -> None:
        assert refusal(fetcher(server), base + path).code == "url_unreachable"

    def test_nobody_listens(self, server: Server) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            gone = fetcher(server, allowed_hosts=(f"localhost:{port}",))
            assert refusal(gone, f"http://localhost:{port}/picture").code == "url_unreachable"

    def test_a_host_without_address(self) -> None:
        long = "x" * 70
        for host in ("no-such-host.invalid", f"{long}.example.com"):
            assert refusal(Fetcher((host,)), f"http://{host}/a.jpg").code == "url_unreachable"


class TestNotAllowed:
    def test_off_by_default(self, server: Server, base: str) -> None:
        refused = refusal(Fetcher(), f"{base}/picture")
        assert (refused.code, refused.message) == ("url_not_allowed", "This server fetches no URLs.")
        assert not server.seen

    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1:{port}/picture", "http://127.1:{port}/picture", "http://2130706433:{port}/picture",
         "http://0:{port}/picture", "http://[::1]:{port}/picture", "http://[::ffff:127.0.0.1]:{port}/picture",
         "http://user@localhost:{port}/picture", "http://user:pass@localhost:{port}/picture",
         "http://localhost:{port}@evil.test/picture", "http://evil.test\\@localhost:{port}/picture",
         "ftp://localhost:{port}/picture", "file:///etc/passwd", "file://localhost/etc/passwd",
         "gopher://localhost:{port}/picture", "//localhost:{port}/picture", "/picture", "picture", "", "http://",
         "http://localhost/picture", "http://localhost:0/picture", "http://localhost:99999/picture",
         "http:localhost:{port}/picture", "http://localhost%2f:{port}/picture", "http://localhost:{port}\n/picture",
         "http://ｌocalhost..:{port}/picture", "http://localhost\ud800/", "http://localhost:{port}/\ud800"],
    )  # fmt: skip
    def test_urls_that_are_not_exactly_an_allowed_host(self, url: str, server: Server) -> None:
        assert refusal(fetcher(server), url.format(port=server.server_port)).code == "url_not_allowed"
        assert not server.seen

    def test_an_entry_with_a_port_allows_that_port_only_and_one_without_the_webs(
        self, server: Server
    ) -> None:
        port = server.server_port
        assert refusal(fetcher(server), "http://localhost/picture").code == "url_not_allowed"
        plain = fetcher(server, allowed_hosts=("localhost",))
        assert refusal(plain, f"http://localhost:{port}/picture").code == "url_not_allowed"
        for other in (0, 22):
            assert refusal(plain, f"http://localhost:{other}/picture").code == "url_not_allowed"
        assert not server.seen

    def test_private_addresses_need_both_the_host_in_full_and_the_address(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = server.server_port
        assert (
            refusal(fetcher(server, private_ok=()), f"http://localhost:{port}/picture").code
            == "url_not_allowed"
        )
        elsewhere = fetcher(server, private_ok=("10.0.0.0/8", "::/0"))
        assert refusal(elsewhere, f"http://localhost:{port}/picture").code == "url_not_allowed"
        monkeypatch.setattr(socket, "getaddrinfo", Names(img_store_local=[["127.0.0.1"]]).getaddrinfo)
        url = f"http://img.store.local:{port}/picture"
        by_pattern = fetcher(server, allowed_hosts=(f"*.store.local:{port}",))
        assert refusal(by_pattern, url).code == "url_not_allowed"
        assert not server.seen
        assert fetch(fetcher(server, allowed_hosts=(f"img.store.local:{port}",)), url) == PICTURE

    def test_refusals_name_no_private_address(self, server: Server, base: str) -> None:
        assert "127.0.0.1" not in str(refusal(fetcher(server, private_ok=()), f"{base}/picture"))

    @pytest.mark.parametrize(
        "entry",
        ["", "*", "*.com", "*.", "a.*.com", "http://a.com", "a.com/x", "a.com?x", "a.com#x", "u@a.com", "a.com:x",
         "a.com:0", "a.com:70000", "\ud800"],
    )  # fmt: skip
    def test_bad_entries_stop_the_start(self, entry: str) -> None:
        with pytest.raises(InputError) as caught:
            Fetcher((entry,))
        assert caught.value.code == "bad_allowed_host"

    def test_bad_private_addresses_stop_the_start(self) -> None:
        for entry in ("localhost", "10.1.2.3/8", ""):
            with pytest.raises(InputError) as caught:
                Fetcher(("a.com",), private_ok=(entry,))
            assert caught.value.code == "bad_private_address"


class TestNameServersThatLie:
    def test_the_address_that_was_checked_is_the_one_that_is_visited(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rebinding: the second answer leads to 127.0.0.1, where `server` waits on the same port."""
        names = Names(img_example_com=[["127.0.0.2"], ["127.0.0.1"]])
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        port = server.server_port
        with running(Server("127.0.0.2", port, "127.0.0.2")):
            visiting = fetcher(server, allowed_hosts=(f"img.example.com:{port}",), private_ok=("127.0.0.2",))
            url = f"http://img.example.com:{port}/name"
            assert fetch(visiting, url) == b"127.0.0.2"
            assert names.asked == ["img.example.com"]
            assert refusal(visiting, url).code == "url_not_allowed"
        assert not server.seen

    def test_one_bad_address_among_good_ones_refuses_the_host(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for answer in (["127.0.0.1", "169.254.169.254"], ["127.0.0.1", "::ffff:127.0.0.1"]):
            monkeypatch.setattr(socket, "getaddrinfo", Names(localhost=[answer]).getaddrinfo)
            refused = refusal(fetcher(server), f"http://localhost:{server.server_port}/picture")
            assert refused.code == "url_not_allowed"
        assert not server.seen

    def test_an_address_where_nobody_listens_gives_way_to_the_next(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = ["127.0.0.3", "127.0.0.1"]
        monkeypatch.setattr(socket, "getaddrinfo", Names(localhost=[answer]).getaddrinfo)
        both = fetcher(server, private_ok=answer)
        assert fetch(both, f"http://localhost:{server.server_port}/picture") == PICTURE

    def test_a_slow_name_server_is_within_the_deadline(
        self, server: Server, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
            time.sleep(1.5)
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        assert refusal(fetcher(server, timeout_s=0.3), f"{base}/picture").code == "too_slow"


class TestRedirects:
    def test_as_many_as_allowed_and_no_more(self, server: Server, base: str) -> None:
        three = fetcher(server, max_redirects=3)
        assert fetch(three, f"{base}/hops/2") == PICTURE
        assert refusal(three, f"{base}/hops/3").code == "url_unreachable"
        server.seen.clear()
        assert refusal(three, f"{base}/loop").code == "url_unreachable"
        assert len(server.seen) == 4
        assert refusal(fetcher(server, max_redirects=0), f"{base}/hops/0").code == "url_unreachable"

    @pytest.mark.parametrize(
        "location",
        ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:{port}/picture", "//127.0.0.1:{port}/picture",
         "http://localhost/picture", "https://localhost/picture", "file:///etc/passwd", "http://u:p@localhost:{port}/",
         "http://[::1]:{port}/picture", "data:image/png;base64,AAAA", "http://:{port}", "http://x:y/"],
    )  # fmt: skip
    def test_each_is_checked_like_the_first(self, location: str, server: Server, base: str) -> None:
        url = f"{base}/to/{location.format(port=server.server_port)}"
        assert refusal(fetcher(server), url).code == "url_not_allowed"
        assert len(server.seen) == 1

    def test_an_allowed_host_may_not_lead_to_a_private_address_by_name(
        self, server: Server, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = Names(localhost=[["127.0.0.1"]], meta_example_com=[["169.254.169.254"]])
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        both = fetcher(server, allowed_hosts=(f"localhost:{server.server_port}", "meta.example.com"))
        assert refusal(both, f"{base}/to/http://meta.example.com/latest").code == "url_not_allowed"
        assert names.asked == ["localhost", "meta.example.com"]


class TestCaps:
    def test_the_limit_is_the_last_size_that_is_fetched(self, server: Server, base: str) -> None:
        assert len(fetch(fetcher(server), f"{base}/size/{LIMIT}")) == LIMIT
        assert refusal(fetcher(server), f"{base}/size/{LIMIT + 1}").code == "file_too_large"

    def test_a_declared_size_is_believed_when_it_is_too_large_only(self, server: Server, base: str) -> None:
        assert refusal(fetcher(server), f"{base}/declares/{10**15}").code == "file_too_large"
        assert refusal(fetcher(server), f"{base}/declares/1000").code == "url_unreachable"

    def test_an_endless_body_is_cut_off(self, server: Server, base: str) -> None:
        assert refusal(fetcher(server), f"{base}/endless").code == "file_too_large"

    @pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/silent"])
    def test_the_deadline_is_over_all_and_not_over_each_read(
        self, path: str, server: Server, base: str
    ) -> None:
        started = time.monotonic()
        assert refusal(fetcher(server, timeout_s=0.4), base + path).code == "too_slow"
        assert time.monotonic() - started < 2

    def test_cancelling_is_no_slowness(self, server: Server, base: str) -> None:
        async def cancelled() -> None:
            task = asyncio.create_task(fetcher(server).get(f"{base}/drip"))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancelled())

    def test_many_at_once_and_in_one_event_loop_after_the_other(self, server: Server, base: str) -> None:
        visiting = fetcher(server)

        async def many() -> list[bytes]:
            return await asyncio.gather(*(visiting.get(f"{base}/picture") for _ in range(20)))

        for _ in range(2):
            assert asyncio.run(many()) == [PICTURE] * 20


class TestTls:
    @pytest.fixture(scope="class")
    def certificate(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        """A certificate that signs itself, for img.example.com."""
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("no openssl on the PATH")
        folder = tmp_path_factory.mktemp("tls")
        files = (folder / "cert.pem", folder / "key.pem")
        command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
        subprocess.run(
            [openssl, *command.split(), "-addext", "subjectAltName=DNS:img.example.com",
             "-out", files[0], "-keyout", files[1]],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return files

    @pytest.fixture
    def secure(self, certificate: tuple[Path, Path]) -> Iterator[tuple[Server, list[str | None]]]:
        """A server with that certificate, and the names that its visitors asked for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        asked: list[str | None] = []
        context.sni_callback = lambda _, name, __: asked.append(name)
        server = Server("127.0.0.1", name="secure")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with running(server):
            yield server, asked

    def test_the_certificate_is_checked_against_the_hosts_name(
        self,
        certificate: tuple[Path, Path],
        secure: tuple[Server, list[str | None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server, asked = secure
        port = server.server_port
        names = Names(img_example_com=[["127.0.0.1"]], other_example_com=[["127.0.0.1"]])
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        hosts = (f"img.example.com:{port}", f"other.example.com:{port}")
        url = f"https://img.example.com:{port}/headers"
        unknown = fetcher(server, allowed_hosts=hosts)
        assert refusal(unknown, url).code == "url_unreachable", "an unknown authority"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        trusting = fetcher(server, allowed_hosts=hosts)
        asked.clear()
        assert json.loads(fetch(trusting, url))["host"] == f"img.example.com:{port}"
        assert asked == ["img.example.com"]
        other = refusal(trusting, f"https://other.example.com:{port}/headers")
        assert other.code == "url_unreachable", "a certificate of another host"


class TestPublic:
    @pytest.mark.parametrize(
        "address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"]
    )
    def test_addresses_of_the_internet(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize(
        "address",
        ["0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
         "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.0.170", "192.0.2.1",
         "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
         "240.0.0.1", "255.255.255.255", "168.63.129.16",
         "::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b::7f00:1",
         "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1",
         "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1"],
    )  # fmt: skip
    def test_addresses_of_none_or_of_somebodys_own(self, address: str) -> None:
        assert not is_public(address)

    @given(st.ip_addresses(v=4))
    def test_no_ipv4_address_gets_through_in_the_guise_of_ipv6(self, address: IPv4Address) -> None:
        number = int(address)
        for prefix in ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::"):
            assert not is_public(str(IPv6Address(int(IPv6Address(prefix)) + number)))
        assert not is_public(str(IPv6Address((0x2002 << 112) + (number << 80) + 1)))


schemes = st.sampled_from(["http", "HTTP", "https", "ftp", "file", "", "http:http"])
before = st.sampled_from(
    ["", "user@", "user:pass@", "@", "evil.test\\@", "evil.test#@", "evil.test?@", "evil.test/@"]
)
hosts = st.sampled_from(
    ["localhost", "LOCALHOST", "localhost.", "localhost..", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0",
     "[::1]", "[::ffff:127.0.0.1]", "localhost\t", "localhost%00", "localhost#.evil.test", "ⓛocalhost", ""]
)  # fmt: skip
ports = st.sampled_from([":{port}", ":0{port}", ":{port}0", ":80", ":0", ":", "", ":-1", ":{port}@evil.test"])
urls = st.one_of(
    st.builds("{}://{}{}{}/picture".format, schemes, before, hosts, ports),
    st.builds("http://localhost:{{port}}{}".format, st.text(alphabet=st.characters(codec=None), max_size=20)),
    st.text(alphabet=st.characters(codec=None), max_size=40),
)


@pytest.fixture(scope="module")
def visiting(outer: Server) -> Fetcher:
    return fetcher(outer)


@given(url=urls)
@example(url="http://localhost:{port}/picture")
@example(url="http://localhost:{port} ")
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_picture_of_the_allowed_host_or_a_refusal(
    outer: Server, visiting: Fetcher, url: str
) -> None:
    url = url.replace("{port}", str(outer.server_port))
    outer.seen.clear()
    try:
        fetch(visiting, url)
    except InputError as error:
        str(error).encode()
    if outer.seen:
        visited = urlsplit(url)  # another parser than the one under test
        assert visited.hostname is not None
        port = int(visited.netloc.rpartition(":")[2])  # of httpx spaces around it are no part of it
        assert (visited.scheme, visited.hostname.rstrip("."), port) == (
            "http",
            "localhost",
            outer.server_port,
        )
        assert visited.username is None or not visited.username
