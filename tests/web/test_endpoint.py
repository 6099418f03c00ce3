"""endpoint: what every function does before and after its handler, seen over HTTP."""

import contextlib
import json
import socket
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from functions_framework import aio
from functions_framework.exceptions import MissingTargetException
from support.hubs import web
from support.serving import served

from shared.settings import BadSetting
from shared.web import endpoint, requests

ROOT = Path(__file__).parents[2]
SECRETS = {
    "HUB_INVOKE_SECRET": "first-secret,second-secret",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "TRUSTED_PROXIES": "1",
}
SECRET = {"apikey": "first-secret"}
JSON = {"content-type": "application/json"}
URLENCODED = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
ECHO = """
from typing import Any

from pydantic import BaseModel, ConfigDict
from shared import db
from shared.callers.hub import hub
from shared.web.endpoint import endpoint


class Note(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str = ""
    count: int = 0


@endpoint(caller=hub, body=Note, max_body=20_000)
async def echo(_caller: None, note: Note) -> tuple[Note, int]:
    if note.text == "break":
        raise RuntimeError("the secret of " + note.text)
    if note.text == "ask":
        await db.call("anything")
    return note, 201
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    source = tmp_path_factory.mktemp("echo") / "main.py"
    source.write_text(ECHO)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SECRETS, "FUNCTION_TARGET": "echo", "FUNCTION_SIGNATURE_TYPE": "http"}.items():
            patch.setenv(name, value)
        with served(aio.create_asgi_app("echo", str(source))) as url:
            yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=SECRET) as client:
        yield client


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def fields(answer: httpx.Response) -> list[str]:
    return [detail["field"] for detail in answer.json()["error"]["details"]]


def test_a_body_becomes_the_model_and_the_result_the_answer(http: httpx.Client) -> None:
    answer = http.post("/", json={"text": "kia ora", "count": 2, "other": [1, {"deep": None}]})

    assert answer.status_code == 201
    assert answer.json() == {"text": "kia ora", "count": 2, "other": [1, {"deep": None}]}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"text": "a b&c", "box": ["1", "2"]}},
        {"files": [("text", (None, "a b&c")), ("box", (None, "1")), ("box", (None, "2"))]},
    ],
)
def test_both_kinds_of_form_are_read(http: httpx.Client, form: dict[str, Any]) -> None:
    answer = http.post("/", **form)

    assert answer.json() == {"text": "a b&c", "count": 0, "box": ["1", "2"]}


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "M-SEARCH"])
@pytest.mark.parametrize("path", ["/", "/any/where"])
def test_another_method_is_told_which_one_is_served(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)

    assert error(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == http.head(path).headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [b""],
        [b"wrong"],
        [b"first-secret,second-secret"],
        [b"\xff\xfe"],
        [b"first-secret", b"first-secret"],
    ],
)
def test_without_exactly_one_valid_credential_the_body_is_not_looked_at(url: str, keys: list[bytes]) -> None:
    answer = web.post(url, content=b"not json", headers=[(b"apikey", key) for key in keys])

    assert error(answer) == (401, "unauthorized")


@pytest.mark.parametrize("key", ["first-secret", "second-secret"])
def test_two_secrets_are_valid_at_once(url: str, key: str) -> None:
    assert web.post(url, json={}, headers={"apikey": key}).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'{"count": NaN}', 400, "invalid_json"),
        (b'{"count": -Infinity}', 400, "invalid_json"),
        (b'{"x": 1e999}', 422, "number_too_large"),
        (b'{"x": ' + b"9" * 5000 + b"}", 422, "number_too_large"),
        (b'{"text": "\xff"}', 400, "invalid_utf8"),
        (b"[" * 9_000 + b"]" * 9_000, 422, "too_deep"),
        (b"[" * 9_000, 422, "too_deep"),
        (b"[" * 9_000 + b"NaN", 422, "too_deep"),
        (b"[" * 33, 422, "too_deep"),
        (b"[" * 32, 400, "invalid_json"),
        (b"[" * 32 + b"]" * 32, 422, "validation_failed"),
        (b'{"x":' * 40 + b"1" + b"}" * 40, 422, "too_deep"),
        (b"[]", 422, "validation_failed"),
        (b"null", 422, "validation_failed"),
        (b"[null, null]", 422, "validation_failed"),
    ],
)
def test_what_is_no_storable_json_is_refused(http: httpx.Client, body: bytes, status: int, code: str) -> None:
    assert error(http.post("/", content=body, headers=JSON)) == (status, code)


@pytest.mark.parametrize("text", ["[" * 40, '\\"' + "{" * 40, "\\\\", '\\u005b"' * 40, "]}" * 40])
def test_brackets_in_a_text_nest_nothing(http: httpx.Client, text: str) -> None:
    assert http.post("/", json={"text": text, "lists": [[]] * 40}).json()["text"] == text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"text": "a", "text": "b"}', "text"),
        (b'{"text": "a\\u0000b"}', "text"),
        (b'{"a": [{"b": "\\ud800"}]}', "a.0.b"),
        (b'{"a\\u0000": 1}', "a?"),
        (b'{"count": "many"}', "count"),
        (b'{"text": ["no"]}', "text"),
    ],
)
def test_a_field_that_is_refused_is_named_and_not_repeated(
    http: httpx.Client, body: bytes, field: str
) -> None:
    answer = http.post("/", content=body, headers=JSON)

    assert error(answer) == (422, "validation_failed")
    assert fields(answer) == [field]
    assert "many" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/xml"},
        {"content-type": ""},
        {**JSON, "content-encoding": "gzip"},
    ],
)
def test_another_content_type_is_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    assert error(http.post("/", content=b"{}", headers=headers)) == (415, "unsupported_media_type")


@pytest.mark.parametrize("content", [b" " * 20_001, [b" " * 11_000] * 2])
def test_a_body_over_the_limit_is_refused_with_and_without_a_length(http: httpx.Client, content: Any) -> None:
    body = content if isinstance(content, bytes) else iter(content)

    assert error(http.post("/", content=body, headers=JSON)) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"data": {f"f{n}": "x" for n in range(201)}}, 422),
        ({"data": {"text": "a\0b"}}, 422),
        ({"files": {"text": ("cv.pdf", b"%PDF", "application/pdf")}}, 422),
        ({"content": b"text=%ff", "headers": URLENCODED}, 400),
        ({"content": b"--x\r\nnonsense", "headers": MULTIPART}, 400),
        ({"content": b"--x--", "headers": {"content-type": "multipart/form-data"}}, 400),
    ],
)
def test_a_form_with_too_much_or_with_files_is_refused(
    http: httpx.Client, form: dict[str, Any], status: int
) -> None:
    assert http.post("/", **form).status_code == status


def test_a_file_input_that_was_left_empty_is_no_file(http: httpx.Client) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    body = part % (b"text", b"", b"hi") + part % (b"plan", b'; filename=""', b"") + b"--x--\r\n"

    answer = http.post("/", content=body, headers=MULTIPART)

    assert answer.json() == {"text": "hi", "count": 0}


def test_an_unknown_error_tells_its_trace_and_nothing_else(
    http: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = http.post("/", json={"text": "break"})

    trace = answer.headers["x-trace-id"]
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {
            "code": "internal_error",
            "message": "Something went wrong on our side.",
            "details": [{"trace_id": trace}],
        }
    }
    logged = capfd.readouterr().out
    assert "RuntimeError" in logged
    assert "the secret" not in logged


def test_without_a_database_the_answer_is_503_and_when_to_come_back(http: httpx.Client) -> None:
    answer = http.post("/", json={"text": "ask"})

    assert error(answer) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "2"


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "sent", [f"00-{TRACE}-b7ad6b7169203331-01", f"cc-{TRACE}-b7ad6b7169203331-00-what-ever"]
)
def test_the_callers_trace_goes_on_under_a_span_of_ours(http: httpx.Client, sent: str) -> None:
    answer = http.post("/", json={}, headers={"traceparent": sent})

    assert answer.headers["x-trace-id"] == TRACE
    version, trace, span, flags = answer.headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, sent[53:55])
    assert span != "b7ad6b7169203331"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
        f"00-{TRACE}-b7ad6b7169203331-1",
    ],
)
def test_what_is_no_traceparent_starts_a_trace(http: httpx.Client, sent: str) -> None:
    answer = http.post("/", json={}, headers={"traceparent": sent})

    assert answer.headers["x-trace-id"] not in (TRACE, "0" * 32)
    assert len(answer.headers["x-trace-id"]) == 32


def test_one_line_is_logged_for_a_request_and_holds_nothing_personal(
    http: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = http.post("/", json={"text": "ann@example.com 021 123 4567"})

    lines = [json.loads(it) for it in capfd.readouterr().out.splitlines() if it.startswith("{")]
    (line,) = [it for it in lines if it["trace_id"] == answer.headers["x-trace-id"]]
    assert (line["function"], line["caller"], line["status"]) == ("echo", "hub", 201)
    assert not {"ann@example.com", "first-secret", "021"} & set(json.dumps(line).replace('"', " ").split())


def test_a_browser_hears_of_no_origin_that_no_site_lists(http: httpx.Client) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    answer = http.options("/", headers=headers)

    assert answer.status_code == 204
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_client_that_leaves_in_the_middle_harms_nobody(url: str, http: httpx.Client) -> None:
    host, port = url.removeprefix("http://").split(":")
    for _ in range(20):
        with contextlib.closing(socket.create_connection((host, int(port)))) as connection:
            connection.sendall(
                b"POST / HTTP/1.1\r\nhost: x\r\napikey: first-secret\r\ncontent-length: 50\r\n\r\n{"
            )

    assert http.post("/", json={}).status_code == 201


@pytest.mark.parametrize("sent", [b"", b"{"], ids=["no body", "half a body"])
def test_a_body_that_does_not_arrive_is_not_waited_for_without_end(
    url: str, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(requests, "READ_TIMEOUT", 0.2)
    host, port = url.removeprefix("http://").split(":")
    with contextlib.closing(socket.create_connection((host, int(port)), timeout=5)) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\napikey: first-secret\r\n"
            b"content-type: application/json\r\ncontent-length: 50\r\n\r\n" + sent
        )
        answer = connection.recv(10_000)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"body_timeout"' in answer
    assert http.post("/", json={}).status_code == 201


def test_a_body_that_comes_late_is_read_to_its_end(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with contextlib.closing(socket.create_connection((host, int(port)), timeout=5)) as connection:
        for piece in (
            b"POST / HTTP/1.1\r\nhost: x\r\napikey: first-secret\r\ncontent-type: application/json\r\n",
            b"expect: 100-continue\r\ncontent-length: 15\r\n\r\n",
        ):
            connection.sendall(piece)
        # The function has begun to wait when it asks for the body.
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"text":')
        connection.sendall(b'"late"}')
        answer = connection.recv(10_000)

    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("value", [None, "", "   "])
def test_a_missing_setting_stops_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    (tmp_path / "main.py").write_text(ECHO)
    monkeypatch.setenv("FUNCTION_TARGET", "echo")
    monkeypatch.setenv("FUNCTION_SIGNATURE_TYPE", "http")
    monkeypatch.delenv("HUB_INVOKE_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("HUB_INVOKE_SECRET", value)

    with pytest.raises(BadSetting, match="HUB_INVOKE_SECRET"):
        aio.create_asgi_app("echo", str(tmp_path / "main.py"))


def manifest() -> dict[str, dict[str, Any]]:
    return tomllib.loads((ROOT / "functions/manifest.toml").read_text())


@pytest.mark.parametrize("name", manifest())
def test_every_function_starts_with_the_settings_of_the_manifest(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FUNCTION_TARGET", name)
    monkeypatch.setenv("FUNCTION_SIGNATURE_TYPE", "http")
    for setting in manifest()[name]["settings"]:
        monkeypatch.setenv(setting, SECRETS.get(setting, "https://project.example"))

    aio.create_asgi_app(name, str(ROOT / "functions" / name / "main.py"))

    assert name in endpoint.declared


def test_settings_of_which_only_a_part_is_there_stop_the_function_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUNCTION_TARGET", "lead_qualifier")
    monkeypatch.setenv("FUNCTION_SIGNATURE_TYPE", "http")
    for name, value in {**SECRETS, "LLM_BASE_URL": "https://model.example/v1", "LLM_MODEL": " "}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LLM_API_KEY", raising=False)

    with pytest.raises(BadSetting, match=r"LLM_API_KEY.*LLM_MODEL"):
        aio.create_asgi_app("lead_qualifier", str(ROOT / "functions" / "lead_qualifier" / "main.py"))


def test_a_function_is_found_by_its_folders_name_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUNCTION_TARGET", "other")
    (tmp_path / "main.py").write_text(textwrap.dedent("x = 1"))

    with pytest.raises(MissingTargetException):
        aio.create_asgi_app("other", str(tmp_path / "main.py"))
