"""Pictures from URLs, for `image_url`: off unless hosts are allowed, and never a way into the operator's network.

What a caller may name is an address of ours to visit, so nothing in it is trusted, nor in the answers of name servers
and web servers. A host must be on the list; every address that it resolves to must be a public one; the connection goes
to the very address that was checked, under the host's own name (Host, SNI and certificate), so that a second answer of
the name server changes nothing. Each redirect is a new URL to check. No cookies, no proxies of the environment, no
compression, no connection kept for the next caller; one deadline over everything and a limit on the bytes that come in.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from data_jobs.errors import InputError
from serve_app import contract

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

WEB_PORTS = frozenset({80, 443})
_DEFAULT_PORT = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "catalens",
}

_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
"""Global unicast. Outside it lie the mapped, translated (NAT64), site-local and multicast addresses, some of which
`is_global` lets pass."""
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments, which older Pythons call global
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's metadata server
        "2002::/16",  # 6to4: any IPv4 address in IPv6
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """Whether anybody on the internet could visit this IP address; so it is no way into a private network."""
    found = ipaddress.ip_address(address)
    if found.version == 6 and found not in _PUBLIC_V6:
        return False
    if any(found in network for network in _NOT_PUBLIC):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


@dataclass(frozen=True)
class AllowedHost:
    """An entry of the allow-list: `img.example.com`, `img.example.com:8443`, `*.example.com` (below it, not itself)."""

    name: str
    below: bool
    ports: frozenset[int]

    @classmethod
    def of(cls, entry: str) -> "AllowedHost":
        """Without a port, 80 and 443 are allowed; with one, only that. Raises InputError (bad_allowed_host)."""
        below = entry.startswith("*.")
        try:
            url = httpx.URL("//" + entry.removeprefix("*."))
        except (httpx.InvalidURL, ValueError):
            url = httpx.URL()
        name, port = _host(url), url.port
        broad = "*" in name or (below and "." not in name)
        more = url.userinfo or url.fragment or url.raw_path != b"/"
        if not name or broad or more or not (port is None or 1 <= port <= 65535):
            raise InputError(
                "bad_allowed_host",
                f"{entry!r} in the list of allowed hosts is neither a host, host:port nor *.domain.tld.",
                "Write img.example.com, img.example.com:8443 or *.example.com, without http://.",
            )
        return cls(name, below, WEB_PORTS if port is None else frozenset({port}))

    def matches(self, host: str, port: int) -> bool:
        named = host.endswith("." + self.name) if self.below else host == self.name
        return named and port in self.ports


class Fetcher:
    """Fetches pictures from allowed hosts; without any, it refuses every URL.

    `private_ok` is for an image store in a private network: IP addresses or networks (`10.1.2.0/24`) that need not be
    public, and even they only for hosts that the list names in full, not by `*.`. One `get` holds up to `max_bytes` in
    memory, so the caller bounds how many run at once.
    """

    def __init__(
        self,
        allowed_hosts: Iterable[str] = (),
        max_bytes: int = contract.MAX_FILE_BYTES,
        timeout_s: float = 10.0,
        max_redirects: int = 3,
        private_ok: Iterable[str] = frozenset(),
    ) -> None:
        """Raises InputError (bad_allowed_host, bad_private_address)."""
        self.allowed = tuple(AllowedHost.of(entry) for entry in allowed_hosts)
        self.max_bytes, self.timeout_s, self.max_redirects = max_bytes, timeout_s, max_redirects
        self.private_ok = tuple(_network(entry) for entry in private_ok)
        self._tls = httpx.create_ssl_context()  # certifi's authorities, or those of SSL_CERT_FILE

    async def get(self, url: str) -> bytes:
        """What is at `url`. Raises InputError: url_not_allowed, url_unreachable, file_too_large, too_slow."""
        if not self.allowed:
            raise _not_allowed("This server fetches no URLs.")
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._follow(url)
        except TimeoutError as error:
            raise InputError(
                "too_slow",
                f"The picture did not arrive within {self.timeout_s:g} s, the limit.",
                "Try again, or send the picture as base64.",
            ) from error

    async def _follow(self, address: str) -> bytes:
        url = _parsed(httpx.URL(), address)
        for _ in range(self.max_redirects + 1):
            answer = await self._ask(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise _unreachable(_host(url), f"is where more than {self.max_redirects} redirects lead")

    async def _ask(self, url: httpx.URL) -> bytes | httpx.URL:
        """The bytes at `url`, or where it redirects to."""
        host = _host(url)
        addresses = await self._addresses(url, host)
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            try:
                response = await self._connect(transport, url, host, addresses)
                try:
                    if response.status_code in _REDIRECTS and "location" in response.headers:
                        return _parsed(url, response.headers["location"])
                    return await self._body(response, host)
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                raise _unreachable(host, f"does not answer as it should ({type(error).__name__})") from error

    async def _addresses(self, url: httpx.URL, host: str) -> Sequence[str]:
        """The IP addresses of an allowed host, each of them checked."""
        if url.scheme not in _DEFAULT_PORT:
            raise _not_allowed("Pictures are fetched from http:// and https:// addresses only.")
        if url.userinfo:
            raise _not_allowed("URLs with a user name or password are not fetched.")
        port = _DEFAULT_PORT[url.scheme] if url.port is None else url.port
        entries = [entry for entry in self.allowed if entry.matches(host, port)]
        if not entries:
            raise _not_allowed(f"The host {host[:100]!r}, port {port}, is not on this server's list.")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long for a name server
            raise _unreachable(host, "has no address") from error
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        in_full = any(not entry.below for entry in entries)
        for address in addresses:
            if not is_public(address) and not (in_full and self._private_ok(address)):
                raise _not_allowed(f"The host {host!r} has an address that is not public.")
        return addresses

    def _private_ok(self, address: str) -> bool:
        found = ipaddress.ip_address(address)
        return any(found in network for network in self.private_ok)

    async def _connect(
        self, transport: httpx.AsyncHTTPTransport, url: httpx.URL, host: str, addresses: Sequence[str]
    ) -> httpx.Response:
        """The answer of the first address that answers; each has its share of the time to let us in."""
        for address in addresses:
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode("ascii"), **_HEADERS},
                extensions={
                    "sni_hostname": host,
                    "timeout": {"connect": self.timeout_s / len(addresses)},
                },
            )
            try:
                return await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise _unreachable(host, "has no address")

    async def _body(self, response: httpx.Response, host: str) -> bytes:
        if response.status_code != 200:
            raise _unreachable(host, f"answered with status {response.status_code}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise _unreachable(host, "answered with compressed bytes, which it was asked not to do")
        declared = response.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large(host)
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > self.max_bytes:
                raise self._too_large(host)
        return bytes(data)

    def _too_large(self, host: str) -> InputError:
        return InputError(
            "file_too_large",
            f"The file at {host!r} has more than {self.max_bytes:,} bytes, the limit.",
            "Use a smaller file.",
        )


def _host(url: httpx.URL) -> str:
    """In ASCII and lower case, without the dot that may end it."""
    return url.raw_host.decode("ascii").lower().removesuffix(".")


def _parsed(base: httpx.URL, address: str) -> httpx.URL:
    """`address` as seen from `base`; the one parser for what is checked and for what is visited."""
    try:
        return base.join(address)
    except (httpx.InvalidURL, ValueError) as error:  # ValueError: half of a surrogate pair
        raise _not_allowed(f"{address[:100]!r} is not a URL.") from error


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        raise InputError(
            "bad_private_address", f"{entry!r} is neither an IP address nor a network.", "Write 10.1.2.0/24."
        ) from error


def _not_allowed(message: str) -> InputError:
    return InputError("url_not_allowed", message, "Use an allowed address, or send the picture as base64.")


def _unreachable(host: str, why: str) -> InputError:
    return InputError(
        "url_unreachable", f"The host {host!r} {why}.", "Check the URL, or send the picture as base64."
    )
