"""A partner's site as a real HTTP server: it lists its items page by page, and misbehaves as it is told to."""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "token-of-the-partner-0001"


@dataclass
class Reply:
    """What is sent instead of a page; `cut` sends less than it announces, `stall` says nothing for so long,
    `drip` sends byte by byte."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: float = 0
    drip: float = 0


type Query = dict[str, str]
type Page = dict[str, Any]


class Partner:
    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.asked: list[Query] = []
        self.at_once = self.most_at_once = 0
        # The next replies, one request each; None lets a page through.
        self.replies: deque[Reply | None] = deque()
        # Changes every page, as a bug of the partner's would.
        self.bent: Callable[[Query, Page], Page] = lambda _, page: page
        self.pause = 0.0
        self.url = ""
        self._counting = threading.Lock()

    def page(self, query: Query) -> Page:
        limit, start = int(query["limit"]), int(query.get("cursor", 0))
        if "since" in query:
            later = [item for item in self.items if item["occurred_at"] >= query["since"][:19]]
            return {"items": later[:limit]}
        end = min(start + limit, len(self.items))
        return {
            "items": self.items[start:end],
            "next_cursor": str(end),
            "has_more": end < len(self.items),
        }

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        with self._counting:
            self.asked.append(query)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            reply = self._reply(handler, query)
            time.sleep(reply.stall or self.pause)
            handler.send_response_only(reply.status)
            sent = {
                "Date": handler.date_time_string(),
                "Content-Length": str(len(reply.body)),
                **reply.headers,
            }
            for name, value in sent.items():
                handler.send_header(name, value)
            handler.end_headers()
            size = 1 if reply.drip else len(reply.body)
            for start in range(0, len(reply.body[: reply.cut]), size):
                handler.wfile.write(reply.body[: reply.cut][start : start + size])
                time.sleep(reply.drip)
        finally:
            with self._counting:
                self.at_once -= 1

    def _reply(self, handler: BaseHTTPRequestHandler, query: Query) -> Reply:
        if handler.headers["authorization"] != f"Bearer {TOKEN}":
            return Reply(401)
        reply = self.replies.popleft() if self.replies else None
        return reply or Reply(body=json.dumps(self.bent(query, self.page(query))).encode())


@contextlib.contextmanager
def serving(partner: Partner) -> Iterator[Partner]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                partner.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # A request that stalls must not keep the test from ending.
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    partner.url = f"http://127.0.0.1:{server.server_port}/submissions"
    try:
        yield partner
    finally:
        server.shutdown()
        server.server_close()


def item(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"item-{number}",
        "occurred_at": f"2026-11-{1 + number // 100:02}T{number // 60 % 24:02}:{number % 60:02}:00Z",
        "name": f"Person {number}",
        "email": f"person{number}@example.com",
        "message": "Please ring me about the switchboard.",
        **changes,
    }
