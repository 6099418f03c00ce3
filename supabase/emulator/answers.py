"""JSON answers straight over ASGI, in the error shape that every endpoint of the hub has."""

import json
from collections.abc import Iterable

from starlette.types import Send

Header = tuple[bytes, bytes]

NO_SNIFFING: Header = (b"x-content-type-options", b"nosniff")
CLOSE: Header = (b"connection", b"close")


class Rejected(Exception):
    """A refusal that answers a request."""

    def __init__(self, status: int, code: str, message: str, *headers: Header) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


def wrong_method(method: str, served: bytes) -> Rejected:
    return Rejected(405, "method_not_allowed", f"{method} is not served here", (b"allow", served))


async def answer(send: Send, status: int, body: object, headers: Iterable[Header] = ()) -> None:
    payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    start: list[Header] = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", str(len(payload)).encode()),
        NO_SNIFFING,
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": payload})


async def reject(send: Send, rejected: Rejected) -> None:
    error = {"code": rejected.code, "message": rejected.message, "details": []}
    await answer(send, rejected.status, {"error": error}, rejected.headers)
