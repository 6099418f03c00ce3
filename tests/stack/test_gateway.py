"""The gateway: one way to read each request, limits before work, and an answer in JSON for whatever comes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from emulator import server
from emulator.intake import LARGEST_BODY
from emulator.state import State
from starlette.types import Receive, Scope, Send
from support.hubs import web
from support.serving import gateway, served

ROOT = Path(__file__).parents[2]
HEAD = b"POST /functions/v1/echo HTTP/1.1\r\nHost: hub\r\nContent-Type: text/plain\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in for the functions: says how many bytes it was given, after the time it was asked to take."""
    message = await receive()
    await asyncio.sleep(float(scope["query_string"] or 0))
    body = json.dumps({"bytes": len(message["body"]), "more": message["more_body"]}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def url(state: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "REQUEST_SECONDS", 1)
        patch.setattr(server, "LINGER_SECONDS", 0.5)
        with served(gateway(state, echo)) as url:
            yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


def connection(url: str, timeout: float = 5) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout)


def spoken(url: str, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """What is answered to these bytes: the status and the JSON of the first answer."""
    with connection(url) as wire:
        for piece in pieces:
            wire.sendall(piece)
        return heard(wire)


def heard(wire: socket.socket) -> tuple[int, dict[str, Any]]:
    (answer,) = all_heard(wire, 1)
    return answer


def all_heard(wire: socket.socket, count: int) -> list[tuple[int, dict[str, Any]]]:
    answers = []
    with wire.makefile("rb") as stream:
        for _ in range(count):
            status = int(stream.readline().split()[1])
            headers = dict(line.rstrip().lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
            answers.append((status, json.loads(stream.read(int(headers[b"content-length"])))))
    return answers


def closed(wire: socket.socket) -> bool:
    """Waits until the other side has closed."""
    try:
        while wire.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_the_parts_are_where_a_hosted_project_has_them(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/").json()["rest"] == "http://hub.test/rest/v1/"
    assert client.get("/auth/v1/health").json()["name"] == "GoTrue"
    assert client.post("/functions/v1/echo", content=b"four").json() == {"bytes": 4, "more": False}
    assert client.get("/rest/v1/anything").json()["message"] == "No API key found in request"


@pytest.mark.parametrize(
    ("path", "feature"),
    [
        ("/realtime/v1/websocket", "Realtime"),
        ("/storage/v1/object", "Storage"),
        ("/graphql/v1", "GraphQL"),
        ("/pg/tables", "The Postgres meta API"),
    ],
)
def test_what_is_not_there_is_refused_by_its_name(client: httpx.Client, path: str, feature: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_implemented")
    assert answer.json()["error"]["message"] == f"{feature} is not part of the local stack"


@pytest.mark.parametrize("path", ["/nothing", "/rest", "/rest/v1x", "/functions", "/functions/v1x", "/auth"])
def test_an_unknown_path_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nfour!",
        HEAD + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nfour",
        HEAD + b"Content-Length: 4, 4\r\n\r\nfour",
        HEAD + b"Content-Length: +4\r\n\r\nfour",
        HEAD + b"Content-Length: -4\r\n\r\nfour",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nfour\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\nfour\n0\n\n",
        HEAD + b"X-Folded: one\r\n two\r\nContent-Length: 4\r\n\r\nfour",
        b"POST /functions/v1/echo HTTP/1.1\nHost: hub\nContent-Length: 4\n\nfour",
        b"POST /functions/v1/echo HTTP/9.9\r\nHost: hub\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
    ],
    ids=[
        "length and chunked",
        "chunked and length",
        "two lengths",
        "the same length twice",
        "a list of lengths",
        "signed length",
        "negative length",
        "endless length",
        "gzip and chunked",
        "chunked is not last",
        "chunked twice",
        "space before the colon",
        "chunk size in words",
        "chunks with bare newlines",
        "folded header",
        "bare newlines",
        "unknown version",
        "TLS",
    ],
)
def test_framing_that_can_be_read_in_two_ways_is_refused(url: str, request_: bytes) -> None:
    with connection(url) as wire:
        wire.sendall(request_)
        status, answer = heard(wire)

        assert status == 400
        assert set(answer["error"]) == {"code", "message", "details"}
        assert closed(wire)


@pytest.mark.parametrize(
    "name",
    ["Authorization", "apikey", "x-webhook-secret", "Idempotency-Key", "Content-Type", "Host", "Origin"],
)
def test_a_header_that_decides_may_come_only_once(url: str, name: str) -> None:
    header = f"{name}: one\r\n{name.upper()}: two\r\n".encode()

    status, answer = spoken(url, HEAD + header + b"Content-Length: 0\r\n\r\n")

    assert (status, answer["error"]["code"]) == (400, "repeated_header")


def test_a_header_that_decides_nothing_may_be_repeated(url: str) -> None:
    assert spoken(url, HEAD + b"X-Seen: a\r\nX-Seen: b\r\nContent-Length: 0\r\n\r\n")[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "unheard-of"])
def test_a_compressed_body_is_refused(client: httpx.Client, encoding: str) -> None:
    answer = client.post("/functions/v1/echo", content=b"x", headers={"Content-Encoding": encoding})

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "encoding_not_supported")


def test_a_body_of_the_largest_size_arrives_in_one_piece(client: httpx.Client) -> None:
    answer = client.post("/functions/v1/echo", content=b"x" * LARGEST_BODY)

    assert answer.json() == {"bytes": LARGEST_BODY, "more": False}


@pytest.mark.parametrize("path", ["/functions/v1/echo", "/rest/v1/events", "/auth/v1/token"])
def test_a_larger_body_is_refused_before_it_is_read(url: str, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n"

    status, answer = spoken(url, head.encode())

    assert (status, answer["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_grows_too_large_on_the_way_is_refused(client: httpx.Client) -> None:
    pieces = (b"x" * 65536 for _ in range(LARGEST_BODY // 65536 + 1))

    answer = client.post("/functions/v1/echo", content=pieces)

    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (HEAD, b"X-More: " + b"x" * 4000 + b"\r\n"),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    ],
    ids=["a body past its limit", "headers past their limit", "a body in drops"],
)
def test_a_client_that_never_stops_sending_is_cut_off(url: str, beginning: bytes, piece: bytes) -> None:
    with connection(url) as wire:
        wire.sendall(beginning)

        assert is_cut_off(wire, piece)


def is_cut_off(wire: socket.socket, piece: bytes) -> bool:
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            wire.sendall(piece)
            time.sleep(0.005)
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(
    "beginning",
    [
        b"POST /functions",
        HEAD,
        HEAD + b"Content-Length: 10\r\n\r\nhalf",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfo",
    ],
    ids=["half a line", "half the headers", "half the body", "half a chunk"],
)
def test_a_request_that_does_not_arrive_is_ended(url: str, beginning: bytes) -> None:
    with connection(url) as wire:
        wire.sendall(beginning)
        status, answer = heard(wire)

        assert (status, answer["error"]["code"]) == (408, "request_timeout")
        assert closed(wire)


def test_a_connection_without_a_request_is_ended(url: str) -> None:
    with connection(url) as wire:
        assert closed(wire)


def test_an_idle_connection_is_kept_between_requests(url: str) -> None:
    request = HEAD + b"Content-Length: 4\r\n\r\nfour"
    with connection(url) as wire:
        for _ in range(2):
            wire.sendall(request)
            assert heard(wire) == (200, {"bytes": 4, "more": False})
            time.sleep(server.REQUEST_SECONDS * 1.5)


def test_half_sent_requests_hold_up_nobody(url: str, client: httpx.Client) -> None:
    with ExitStack() as open_connections:
        for _ in range(64):
            wire = open_connections.enter_context(connection(url))
            wire.sendall(HEAD + b"Content-Length: 1000\r\n\r\nhalf")
        began = time.monotonic()
        answers = [client.post("/functions/v1/echo", content=b"four") for _ in range(20)]
        seconds = time.monotonic() - began

    assert {answer.status_code for answer in answers} == {200}
    assert seconds < 3


def test_headers_that_are_too_large_are_refused(url: str) -> None:
    with connection(url) as wire:
        wire.sendall(HEAD + b"X-More: " + b"x" * server.LARGEST_HEAD)
        status, answer = heard(wire)

    assert (status, answer["error"]["code"]) == (431, "headers_too_large")


def test_a_client_that_expects_to_be_asked_is_asked(url: str) -> None:
    with connection(url) as wire:
        wire.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        asked = wire.recv(100)
        wire.sendall(b"four")

        assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert heard(wire)[1]["bytes"] == 4


@pytest.mark.parametrize("requests", [1, 3])
def test_a_client_that_only_listens_after_its_request_is_answered(url: str, requests: int) -> None:
    with connection(url) as wire:
        wire.sendall((HEAD.replace(b"echo", b"echo?0.2") + b"Content-Length: 4\r\n\r\nfour") * requests)
        wire.shutdown(socket.SHUT_WR)

        assert all_heard(wire, requests) == [(200, {"bytes": 4, "more": False})] * requests
        assert closed(wire)


def test_a_client_that_stops_in_the_middle_of_its_request_is_not_waited_for(url: str) -> None:
    with connection(url) as wire:
        wire.sendall(HEAD + b"Content-Length: 10\r\n\r\nhalf")
        wire.shutdown(socket.SHUT_WR)

        assert wire.recv(100) == b""


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
OFFERS = {"h2c": H2C, "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"}
BODY = b"DELETE /functions/v1/echo HTTP/1.1\r\nHost: hub\r\n\r\n"
FRAMED = {
    "length": (b"Content-Length: %d\r\n\r\n" % len(BODY), BODY),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", FRAMED)
def test_an_offer_of_another_protocol_loses_no_body(url: str, offer: str, framing: str) -> None:
    length, body = FRAMED[framing]
    with connection(url) as wire:
        wire.sendall(HEAD + OFFERS[offer] + length + body + HEAD + b"Content-Length: 4\r\n\r\nfour")

        assert [answer["bytes"] for _, answer in all_heard(wire, 2)] == [len(BODY), 4]


@pytest.mark.parametrize("framing", FRAMED)
def test_a_body_that_follows_an_offer_is_no_request_of_its_own(url: str, framing: str) -> None:
    length, body = FRAMED[framing]
    with connection(url) as wire:
        wire.sendall(HEAD)
        wire.sendall(b"Expect: 100-continue\r\n" + H2C + length)
        asked = wire.recv(100)
        wire.sendall(body)
        first = heard(wire)
        wire.sendall(HEAD + b"Content-Length: 4\r\n\r\nfour")

        assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert first == (200, {"bytes": len(BODY), "more": False})
        assert heard(wire) == (200, {"bytes": 4, "more": False})


UNUSUAL = ["TRACE", "PROPFIND", "QUERY", "M-SEARCH"]
PARTS = {
    "/rest/v1/events": 405,
    "/rest/v1/rpc/explain": 405,
    "/auth/v1/token": 405,
    "/auth/v1/health": 405,
    "/health": 405,
    "/": 405,
    "/functions/v1x": 404,
    "/nothing": 404,
    "/storage/v1/object": 501,
}


@pytest.mark.parametrize("method", UNUSUAL)
@pytest.mark.parametrize("path", PARTS)
def test_a_method_that_is_not_served_is_refused_as_everything_is(
    client: httpx.Client, method: str, path: str
) -> None:
    answer = client.request(method, path)

    assert answer.status_code == PARTS[path]
    assert set(answer.json()["error"]) == {"code", "message", "details"}
    if answer.status_code == 405:
        assert answer.json()["error"]["code"] == "method_not_allowed"
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "line", ["BREW /functions/v1/echo", "get /health", "CONNECT /health", "CONNECT hub:80"]
)
def test_a_method_that_nobody_knows_is_not_implemented(url: str, line: str) -> None:
    status, answer = spoken(url, f"{line} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())

    assert (status, answer["error"]["code"]) == (501, "method_not_implemented")


@pytest.mark.parametrize("path", ["/rest/v1/events", "/auth/v1/token?grant_type=password"])
def test_any_page_may_ask_rest_and_auth(client: httpx.Client, path: str) -> None:
    page = {"Origin": "https://console.example"}
    asking = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "apikey,authorization",
    }

    preflight = client.options(path, headers=page | asking)
    refusal = client.post(path, headers=page, json={})

    assert preflight.status_code == 204
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    assert preflight.headers["Access-Control-Allow-Headers"] == "apikey,authorization"
    for answer in (preflight, refusal):
        assert answer.headers.get_list("Access-Control-Allow-Origin") == ["*"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]


def test_even_what_is_refused_at_the_gate_can_be_read_by_a_page(client: httpx.Client) -> None:
    headers = {"Origin": "https://console.example", "Content-Encoding": "gzip"}

    answer = client.post("/rest/v1/events", content=b"x", headers=headers)

    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (415, "*")


def test_functions_decide_about_pages_themselves(client: httpx.Client) -> None:
    answer = client.options(
        "/functions/v1/echo",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )

    assert answer.json()["bytes"] == 0
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/auth/v1/token?grant_type=refresh_token", {"refresh_token": "x"}), ("/rest/v1/events", {})],
)
def test_without_its_database_the_hub_says_when_to_try_again(
    url: str, state: Path, path: str, body: dict[str, str]
) -> None:
    key = {"apikey": State(state).keys.publishable_key}

    answer = web.post(url + path, json=body, headers=key, timeout=20)

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_nothing_tells_which_server_this_is(client: httpx.Client) -> None:
    assert "server" not in client.get("/health").headers


def test_a_change_of_the_shared_code_ends_the_server(listening: socket.socket, tmp_path: Path) -> None:
    watched = tmp_path / "shared"
    watched.mkdir()
    running = server.Server(server.configured(gateway(tmp_path / "state", echo)), watched)
    thread = threading.Thread(target=running.run, args=([listening.dup()],))
    thread.start()

    (watched / "new.py").touch()
    thread.join(5)

    assert not thread.is_alive()


SERVE = """
import socket, sys
from pathlib import Path
sys.path[:0] = ["tests", "tests/stack"]
from emulator import server
from support.serving import UNCHANGING, gateway
from test_gateway import echo
server.run(gateway(Path(sys.argv[2]), echo), socket.socket(fileno=int(sys.argv[1])), UNCHANGING)
"""


type Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def start(listening: socket.socket, tmp_path: Path) -> Iterator[Start]:
    """Starts gateways as the supervisor does: each inherits the one listening socket."""
    with ExitStack() as started:

        def start() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(listening.fileno()), str(tmp_path)],
                pass_fds=[listening.fileno()],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'supabase'}:{ROOT}"},
                stderr=subprocess.DEVNULL,
            )
            started.callback(process.wait)
            started.callback(process.kill)
            return process

        yield start


def address(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_killed_gateway_refuses_nobody(listening: socket.socket, start: Start) -> None:
    url = address(listening)
    first = start()
    assert web.get(f"{url}/health", timeout=20).status_code == 200

    first.kill()
    first.wait()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(httpx.get, f"{url}/health", timeout=20)
        start()

    assert waiting.result().status_code == 200


def test_a_gateway_that_is_told_to_stop_finishes_what_it_began(
    listening: socket.socket, start: Start
) -> None:
    gateway = start()
    with connection(address(listening), timeout=20) as wire:
        wire.sendall(
            HEAD.replace(b"echo", b"echo?0.5") + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert b"100 Continue" in wire.recv(100)

        gateway.terminate()
        wire.sendall(b"four")

        assert heard(wire) == (200, {"bytes": 4, "more": False})
    assert gateway.wait(10) == -signal.SIGTERM
