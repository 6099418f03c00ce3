"""Requests to URLs that somebody else has chosen, which must reach nothing that only we can reach.

A name is resolved at every connection, every address it has is checked, and one of those very addresses is
connected to: so a name that answers differently the next moment gains nothing. Redirects are not followed,
proxies of the environment are not used, and only the beginning of an answer is read.

The ranges are our own: Python's `is_global` lets addresses through that lead inward, such as 64:ff9b::7f00:1.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Self

import certifi
import httpcore

from shared import settings

TIMEOUT = 10.0
EXCERPT_BYTES = 1000

_CLOSED_V4 = [
    IPv4Network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    )
]
# IPv6 is open only where it is given out as global unicast, less the ranges that carry IPv4 or are for documents.
_OPEN_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = [IPv6Network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]

type Address = IPv4Address | IPv6Address
type Resolve = Callable[[str, int], Awaitable[list[str]]]


class Forbidden(Exception):
    """This URL leads where we may not go."""


class Unreachable(Exception):
    """Nobody answered, or not in HTTP, or not in time. Whether it was received is unknown."""


class TooMuch(Exception):
    """The answer is longer than it may be."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def excerpt(self) -> str:
        return self.body.decode(errors="replace")

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")


async def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, as the system knows it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable("the name has no address") from error
    return [str(entry[4][0]) for entry in found]


def is_open(address: Address) -> bool:
    """Whether anybody's packets may go there."""
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _CLOSED_V4)
    return address in _OPEN_V6 and not any(address in block for block in _CLOSED_V6)


class Client:
    """Connections to partners, for as long as it is open."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._may_be_local = settings.load(settings.Outgoing).may_be_local
        guard = _Guard(resolve, self._may_be_local)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(), network_backend=guard, max_connections=20, keepalive_expiry=5
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.__aexit__(kind, error, trace)

    async def post(
        self, url: str, content: bytes, headers: dict[str, str], seconds: float = TIMEOUT
    ) -> Answer:
        """Post; only the beginning of the answer's body is read."""
        return await self._ask(url, "POST", headers, content, seconds, EXCERPT_BYTES, is_excerpt=True)

    async def get(self, url: str, headers: dict[str, str], most: int, seconds: float = TIMEOUT) -> Answer:
        """Get the whole answer; TooMuch when its body is longer than `most`."""
        return await self._ask(url, "GET", headers, None, seconds, most, is_excerpt=False)

    async def _ask(
        self,
        url: str,
        method: str,
        headers: dict[str, str],
        content: bytes | None,
        seconds: float,
        most: int,
        *,
        is_excerpt: bool,
    ) -> Answer:
        if not url.startswith("https://") and not (self._may_be_local and url.startswith("http://")):
            raise Forbidden("the URL is not https")
        try:
            target = httpcore.URL(url.encode("ascii"))
            sent = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        except ValueError as error:
            raise Forbidden("the URL or a header cannot be written") from error
        try:
            async with asyncio.timeout(seconds):
                request = self._pool.stream(method, target, headers=sent, content=content)
                async with request as response:
                    body = bytearray()
                    async for chunk in response.aiter_stream():
                        body += chunk
                        if len(body) > most:
                            break  # the rest is not read, and the connection not used again
        except TimeoutError as error:
            raise Unreachable(f"no answer within {seconds:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise Unreachable(f"no answer: {type(error).__name__}") from error
        if len(body) > most and not is_excerpt:
            raise TooMuch
        found = {name.lower(): value for name, value in response.headers}
        return Answer(response.status, found, bytes(body[:most]))


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to no name."""

    def __init__(self, resolve: Resolve, may_be_local: bool) -> None:
        self._resolve = resolve
        self._may_be_local = may_be_local
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = Unreachable("the name has no address")
        for address in self._checked(await self._resolve(host, port)):
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except httpcore.ConnectError as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _checked(self, answers: list[str]) -> list[Address]:
        """All addresses, or none: a name with one of our addresses among others is an attack."""
        try:
            addresses = [ip_address(answer) for answer in answers]
        except ValueError as error:
            raise Forbidden("the name has an address that is none") from error
        for address in addresses:
            if not is_open(address) and not (self._may_be_local and address.is_loopback):
                raise Forbidden("the name leads to an address that is not public")
        return addresses


@cache
def _tls() -> SSLContext:
    return create_default_context(cafile=certifi.where())
