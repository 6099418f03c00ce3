"""A request as callers and handlers see it: its method, its headers, and nothing read from it twice."""

from collections.abc import Collection
from typing import Protocol

from shared.errors import BadRequest
from shared.settings import Settings

type RawHeaders = list[tuple[bytes, bytes]]


class Request:
    __slots__ = ("_headers", "_raw", "method")

    def __init__(self, method: str, raw_headers: RawHeaders) -> None:
        self.method = method
        self._raw = raw_headers
        self._headers = dict(raw_headers)

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

    def _is_repeated(self, name: bytes) -> bool:
        if len(self._headers) == len(self._raw):
            return False
        return sum(sent == name for sent, _ in self._raw) > 1


class Caller[Who](Protocol):
    """Who may call an endpoint. Called with the request, it answers who that is or raises Unauthorized."""

    kind: str
    needs: tuple[type[Settings], ...]

    async def __call__(self, request: Request) -> Who: ...

    async def allowed_origins(self) -> Collection[str]: ...
