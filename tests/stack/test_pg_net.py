"""pg_net's stand-in: sent after the commit, in parallel, answers stored, and faults on demand."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from support.hubs import Hub


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Receiver:
    """An HTTP server outside of the hub, with one behaviour per path."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    # Answers nobody before all are there.
    fifty: threading.Barrier = field(default_factory=lambda: threading.Barrier(50, timeout=20))

    def paths(self) -> list[str]:
        return [request.path for request in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            at = time.monotonic()
            receiver.received.append(Received(self.command, self.path, dict(self.headers), body, at))
            match self.path.split("?")[0].strip("/").split("/"):
                case ["slow", seconds]:
                    time.sleep(float(seconds))
                case ["together"]:
                    receiver.fifty.wait()
                case ["moved"]:
                    self.send_response(302)
                    self.send_header("Location", "/there")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                case ["hangs-up"]:
                    self.close_connection = True
                    return
            content = {"/together": b"all 50", "/empty": b"", "/zero": b"a\0b", "/latin": b"\xe9"}.get(
                self.path, b'{"ok": true}'
            )
            self.send_response(418 if self.path == "/teapot" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def faults(hub: Hub, receiver: Receiver) -> Iterator[str]:
    """The pattern of this test's receiver, so that nobody else's requests are lost."""
    yield f"{receiver.url}/%"
    hub.sql("select net.clear_faults()")


def answer_to(hub: Hub, request: int) -> dict[str, Any]:
    def find() -> list[tuple[Any, ...]]:
        return hub.rows(
            "select to_jsonb(response) from net._http_response as response where id = %s", request
        )

    assert hub.until(lambda: bool(find()))
    [(answer,)] = find()
    return dict(answer)


def get(hub: Hub, url: str, **arguments: Any) -> int:
    [(request,)] = hub.rows(
        "select net.http_get(%(url)s, timeout_milliseconds => %(timeout)s)",
        url=url,
        timeout=arguments.get("timeout", 5000),
    )
    return int(request)


def test_a_post_arrives_as_it_was_written(hub: Hub, receiver: Receiver) -> None:
    [(request,)] = hub.rows(
        'select net.http_post(%s, \'{"n": [1, "ü"]}\', \'{"q": "a b&ü"}\', \'{"X-Mine": "yes"}\')',
        f"{receiver.url}/in",
    )

    answer = answer_to(hub, request)

    [sent] = receiver.received
    assert (sent.method, sent.path, json.loads(sent.body)) == (
        "POST",
        "/in?q=a%20b%26%C3%BC",
        {"n": [1, "ü"]},
    )
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["X-Mine"] == "yes"
    assert sent.headers["User-Agent"] == "pg_net/0.20.4"
    assert (answer["status_code"], answer["content"], answer["timed_out"], answer["error_msg"]) == (
        200, '{"ok": true}', False, None
    )  # fmt: skip
    assert answer["content_type"] == "application/json"
    assert answer["headers"]["content-length"] == "12"


def test_get_and_delete_are_sent_too(hub: Hub, receiver: Receiver) -> None:
    get(hub, f"{receiver.url}/get")
    hub.sql("select net.http_delete(%s, body => '{\"a\": 1}')", f"{receiver.url}/delete")

    assert hub.until(lambda: len(receiver.received) == 2)
    assert {(sent.method, sent.path, sent.body) for sent in receiver.received} == {
        ("GET", "/get", b""),
        ("DELETE", "/delete", b'{"a": 1}'),
    }


def test_nothing_is_sent_before_the_commit_or_after_a_rollback(hub: Hub, receiver: Receiver) -> None:
    with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute("select net.http_get(%s)", [f"{receiver.url}/rolled-back"])
        connection.rollback()
        connection.execute("select net.http_get(%s)", [f"{receiver.url}/committed"])
        get(hub, f"{receiver.url}/other")
        assert hub.until(lambda: receiver.paths() == ["/other"])
        connection.commit()

    assert hub.until(lambda: receiver.paths() == ["/other", "/committed"])


def test_a_commit_reaches_its_target_at_once(hub: Hub, receiver: Receiver) -> None:
    took = []
    for _ in range(10):
        committed = time.monotonic()
        answer_to(hub, get(hub, f"{receiver.url}/kick"))
        took.append(receiver.received[-1].at - committed)

    # On an idle machine it is 4 ms; a worker that only polls would need 500.
    assert sorted(took)[len(took) // 2] < 0.1, took


def test_requests_of_one_batch_go_out_together(hub: Hub, receiver: Receiver) -> None:
    hub.sql(
        "select net.http_get(%s || '/together', timeout_milliseconds => 20000) from generate_series(1, 50)",
        receiver.url,
    )

    answered = "select count(*) from net._http_response where content = 'all 50'"
    assert hub.until(lambda: hub.rows(answered) == [(50,)])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/teapot", {"status_code": 418, "error_msg": None}),
        ("/empty", {"status_code": 200, "content": None}),
        ("/zero", {"status_code": 200, "content": "a"}),
        ("/latin", {"status_code": 200, "content": "\ufffd"}),
        ("/moved", {"status_code": 200, "content": '{"ok": true}'}),
        (
            "/hangs-up",
            {
                "status_code": None,
                "timed_out": False,
                "error_msg": "Server returned nothing (no headers, no data)",
            },
        ),
    ],
)
def test_what_comes_back_is_stored(hub: Hub, receiver: Receiver, path: str, expected: dict[str, Any]) -> None:
    answer = answer_to(hub, get(hub, receiver.url + path))

    assert {name: answer[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/", "Couldn't connect to server"),
        ("ftp://127.0.0.1/", "Unsupported protocol"),
        ("http://127.0.0.1:port/", "URL using bad/illegal format or missing URL"),
    ],
)
def test_a_transport_failure_is_an_answer_without_a_status(hub: Hub, url: str, message: str) -> None:
    answer = answer_to(hub, get(hub, url))

    assert (answer["status_code"], answer["timed_out"], answer["error_msg"]) == (None, False, message)


def test_a_slow_receiver_is_given_up_in_time(hub: Hub, receiver: Receiver) -> None:
    answer = answer_to(hub, get(hub, f"{receiver.url}/slow/1", timeout=100))

    assert answer["timed_out"] is True
    assert answer["error_msg"].startswith("Timeout of 100 ms reached.")


def test_one_bad_request_does_not_harm_its_batch(hub: Hub, receiver: Receiver) -> None:
    with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute("select net.http_get('http://x/', headers => '{\"bad\\nname\": \"v\"}')")
        connection.execute("select net.http_get(%s)", [f"{receiver.url}/good"])

    assert hub.until(lambda: receiver.paths() == ["/good"])


def test_old_answers_expire(hub: Hub, receiver: Receiver) -> None:
    hub.sql("insert into net._http_response (id, created) values (-1, now() - interval '7 hours')")

    get(hub, f"{receiver.url}/wake")

    assert hub.until(lambda: hub.rows("select from net._http_response where id = -1") == [])


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "select net.http_post('http://x', headers => '{\"content-type\": \"text/plain\"}')",
            'must be "application/json"',
        ),
        (
            "insert into net.http_request_queue (method, url, timeout_milliseconds) values ('PUT', 'http://x', 1)",
            "http_method",
        ),
    ],
)
def test_what_the_original_refuses_is_refused(hub: Hub, statement: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message):
        hub.sql(statement)


# Faults ---------------------------------------------------------------------------------------------------------------


def test_told_to_lose_requests_it_loses_them(hub: Hub, receiver: Receiver, faults: str) -> None:
    hub.sql("select net.set_faults(lose => 1, url_pattern => %s)", faults)
    lost = get(hub, f"{receiver.url}/lost")
    assert hub.until(lambda: hub.rows("select from net.http_request_queue where id = %s", lost) == [])

    hub.sql("select net.clear_faults()")
    answer_to(hub, get(hub, f"{receiver.url}/kept"))

    assert receiver.paths() == ["/kept"]
    assert hub.rows("select from net._http_response where id = %s", lost) == []


def test_told_to_repeat_requests_it_repeats_them(hub: Hub, receiver: Receiver, faults: str) -> None:
    hub.sql("select net.set_faults(repeat => 50, url_pattern => %s)", faults)

    answer_to(hub, get(hub, f"{receiver.url}/again"))

    assert hub.until(lambda: receiver.paths() == ["/again"] * 50)


def test_told_to_delay_requests_it_delays_them(hub: Hub, receiver: Receiver, faults: str) -> None:
    hub.sql("select net.set_faults(delay_ms => 300, url_pattern => %s)", faults)

    committed = time.monotonic()
    answer_to(hub, get(hub, f"{receiver.url}/late"))

    assert receiver.received[0].at - committed >= 0.3
