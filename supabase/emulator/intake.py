"""Taking a request in: refuse it if it is ambiguous or too large, else read it whole.

`server.Protocol` limits the time in which a request arrives.
"""

from starlette.types import Message, Receive, Scope

from emulator.answers import CLOSE, Header, Rejected

LARGEST_BODY = 10 * 1024 * 1024

ONCE_ONLY = frozenset(
    b"host origin content-type authorization apikey x-webhook-secret idempotency-key".split()
)


class ClientGone(Exception):
    pass


async def whole(scope: Scope, receive: Receive) -> Receive:
    """A `receive` that answers with the whole body at once."""
    headers: list[Header] = scope["headers"]
    fields = dict(headers)
    if len(fields) != len(headers):
        _refuse_repeated(headers)
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Rejected(
            415,
            "encoding_not_supported",
            "Send the body as it is, not compressed",
            (b"accept-encoding", b"identity"),
        )
    length = fields.get(b"content-length")
    transfer = fields.get(b"transfer-encoding")
    if transfer is not None and (length is not None or transfer.lower() != b"chunked"):
        raise Rejected(
            400, "ambiguous_framing", "A body has a Content-Length or is chunked, nothing else", CLOSE
        )
    if transfer is None and (length is None or length == b"0"):
        return receive
    if length is not None and int(length) > LARGEST_BODY:
        raise _too_large()
    message = await receive()
    if message.get("more_body", True):
        message = await _read_on(message, receive)
    return _again(message, receive)


async def _read_on(message: Message, receive: Receive) -> Message:
    body = bytearray()
    while message["type"] == "http.request":
        body += message["body"]
        if len(body) > LARGEST_BODY:
            raise _too_large()
        if not message["more_body"]:
            return {"type": "http.request", "body": bytes(body), "more_body": False}
        message = await receive()
    raise ClientGone


def _again(message: Message, receive: Receive) -> Receive:
    unread = True

    async def receive_again() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return message
        return await receive()

    return receive_again


def _too_large() -> Rejected:
    return Rejected(413, "body_too_large", f"The body is larger than {LARGEST_BODY} bytes")


def _refuse_repeated(headers: list[Header]) -> None:
    names = [name for name, _ in headers if name in ONCE_ONLY]
    for name in names:
        if names.count(name) > 1:
            raise Rejected(400, "repeated_header", f"The header {name.decode()} may be sent only once")
