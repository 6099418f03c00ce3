"""A request as callers and handlers see it: its method, its headers, its body, and nothing read from it twice."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from shared.errors import BadRequest, BodyTimeout, BodyTooLarge

type RawHeaders = list[tuple[bytes, bytes]]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]

READ_TIMEOUT = 10


async def _nothing() -> Message:
    return {"type": "http.request"}


class Request:
    __slots__ = ("_body", "_headers", "_limit", "_raw", "_receive", "_scope", "method")

    def __init__(
        self,
        method: str,
        raw_headers: RawHeaders,
        receive: Receive = _nothing,
        limit: int = 0,
        scope: MutableMapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self._raw = raw_headers
        self._headers = dict(raw_headers)
        self._receive = receive
        self._limit = limit
        self._scope = scope or {}
        self._body: bytes | None = None

    def header(self, name: bytes) -> bytes | None:
        """The header's value, None when it is absent. Sent twice it has no one value: 400."""
        value = self._headers.get(name)
        if value is not None and self._is_repeated(name):
            raise BadRequest(f"The header {name.decode()} may be sent once.", code="repeated_header")
        return value

    def credential(self, name: bytes) -> bytes:
        """The value of a header sent exactly once, else b"": nothing that could equal a secret."""
        value = self._headers.get(name, b"")
        return b"" if value and self._is_repeated(name) else value

    def has(self, name: bytes) -> bool:
        return name in self._headers

    def query(self, name: str) -> str:
        """The parameter of the URL, "" unless it is there exactly once."""
        values = parse_qs(self._scope.get("query_string", b"").decode("latin-1")).get(name, [])
        return values[0] if len(values) == 1 else ""

    async def body(self) -> bytes:
        """The whole body as it was sent, within the limit and the time; a server has already checked its framing."""
        if self._body is None:
            self._body = await self._read()
        return self._body

    def address(self, proxies: int) -> str:
        """The client's address, behind so many proxies of ours; for IPv6 its network, since a household has one.

        Each proxy adds, at the end, the address that it heard from. The client may have written all before that.
        """
        heard_from = self._peer()
        if proxies:
            forwarded = b",".join(value for name, value in self._raw if name == b"x-forwarded-for").split(
                b","
            )
            heard_from = forwarded[-proxies].decode("latin-1") if len(forwarded) >= proxies else ""
        try:
            address = ipaddress.ip_address(heard_from.strip())
        except ValueError:
            return "unknown"
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is None:
                return str(ipaddress.IPv6Network((int(address), 64), strict=False))
            return str(address.ipv4_mapped)
        return str(address)

    async def _read(self) -> bytes:
        declared = self.header(b"content-length")
        if declared is not None and int(declared) > self._limit:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        has_more = True
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                while has_more and size <= self._limit:
                    message = await self._receive()
                    chunks.append(_chunk(message))
                    size += len(chunks[-1])
                    has_more = message.get("more_body", False)
        except TimeoutError:
            raise BodyTimeout from None
        if size > self._limit:
            raise self._too_large()
        return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(details=[{"limit": f"{self._limit} bytes"}])

    def _peer(self) -> str:
        client = self._scope.get("client")
        return str(client[0]) if client else ""

    def _is_repeated(self, name: bytes) -> bool:
        if len(self._headers) == len(self._raw):
            return False
        return sum(sent == name for sent, _ in self._raw) > 1


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise BadRequest("The connection ended before the body did.", code="body_incomplete")
    body: bytes = message.get("body", b"")
    return body
