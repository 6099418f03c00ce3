"""REST and Auth for any web page, as hosted: a token protects them, never a cookie."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emulator.answers import NO_SNIFFING, Header

ANY_ORIGIN: Header = (b"access-control-allow-origin", b"*")
METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
READABLE = b"Content-Location, Content-Range, Location, Range-Unit, X-Sb-Error-Code, X-Supabase-Api-Version"
ADDED = frozenset({b"x-content-type-options", b"access-control-allow-origin"})
PREFLIGHT_SECONDS = b"3600"


def open_to_pages(app: ASGIApp, scope: Scope, send: Send) -> tuple[ASGIApp, Send]:
    """The app to answer with, and the `send` that adds the headers by which a browser lets its page read."""
    fields = dict(scope["headers"])
    if scope["method"] == "OPTIONS" and b"access-control-request-method" in fields:
        app = _preflight
    return app, _with_headers(send, b"origin" in fields)


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    asked_for = dict(scope["headers"]).get(b"access-control-request-headers", b"")
    headers = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", asked_for),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body"})


def _with_headers(send: Send, from_a_page: bool) -> Send:
    added = [NO_SNIFFING]
    if from_a_page:
        added += [ANY_ORIGIN, (b"access-control-expose-headers", READABLE)]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [header for header in message["headers"] if header[0] not in ADDED]
            message = {**message, "headers": given + added}
        await send(message)

    return send_with_headers
