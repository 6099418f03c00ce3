"""A partner's server: it keeps what it was sent, and answers as a test says."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Partner:
    url: str
    received: list[Received] = field(default_factory=list)
    # Taken one after the other; the last one stays. A status with headers, or None to hang until the test is over.
    answers: list[tuple[int, dict[str, str]] | None] = field(default_factory=lambda: [(200, {})])
    text: bytes = b"thanks"
    is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.received]


@contextlib.contextmanager
def running_partner() -> Iterator[Partner]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            partner.received.append(Received(self.path, headers, body))
            answer = partner.answers.pop(0) if len(partner.answers) > 1 else partner.answers[0]
            if answer is None:
                partner.is_over.wait()
                self.close_connection = True
                return
            status, headers = answer
            self.send_response(status)
            for name, value in {"content-length": str(len(partner.text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(partner.text)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    partner = Partner(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield partner
    finally:
        partner.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()
