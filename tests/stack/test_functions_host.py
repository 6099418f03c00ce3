"""/functions/v1: many functions in one process, each as if it were alone and deployed."""

import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.serving import gateway, served

ECHO = """
    '''Says what it was asked.

    And more that nobody lists.
    '''
    from functions_framework import aio

    @aio.http
    async def echo(request):
        return {"url": str(request.url), "path": request.url.path, "body": (await request.body()).decode()}
"""


@dataclass
class Hosted:
    root: Path
    client: httpx.Client

    def write(self, name: str, code: str, **settings: object) -> None:
        """Put a function there, or put other code into it."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "main.py").write_text(textwrap.dedent(code))
        manifest = self.root / "manifest.toml"
        section = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        known = manifest.read_text() if manifest.exists() else ""
        if f"[{name}]" not in known:
            manifest.write_text(f"{known}[{name}]\n{section}\n")

    def answers(self, path: str, text: str, seconds: float = 3) -> bool:
        """Whether it comes to answer with this text."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if text in self.client.post(path).text:
                return True
            time.sleep(0.02)
        return False


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    root = tmp_path / "functions"
    root.mkdir()
    with (
        served(gateway(tmp_path / "state", root)) as url,
        httpx.Client(base_url=f"{url}/functions/v1/", timeout=10) as client,
    ):
        yield Hosted(root, client)


def saying(name: str, text: str) -> str:
    return f"""
        from functions_framework import aio

        @aio.http
        async def {name}(request):
            return "{text}"
    """


def test_a_function_sees_the_request_as_if_it_had_a_host_of_its_own(hosted: Hosted) -> None:
    hosted.write("echo", ECHO)

    top = hosted.client.post("echo", content="x").json()
    below = hosted.client.post("echo/a%20b/c?q=1", content="x").json()

    assert (top["path"], top["body"]) == ("/", "x")
    assert below["path"] == "/a b/c"
    assert below["url"].endswith("/a b/c?q=1")
    assert "functions/v1" not in below["url"]


def test_the_functions_name_has_hyphens_in_urls(hosted: Hosted) -> None:
    hosted.write("say_hello", saying("say_hello", "hello"))

    assert hosted.client.post("say-hello").text == "hello"
    assert hosted.client.post("say_hello").status_code == 404


def test_all_functions_are_listed_without_being_loaded(hosted: Hosted) -> None:
    hosted.write("echo", ECHO, caller="site")
    hosted.write("broken", "raise SystemExit", caller="hub", method="GET", purpose="Shows what breaks")

    listed = {each["name"]: each for each in hosted.client.get("").json()["functions"]}

    assert listed["echo"]["purpose"] == "Says what it was asked."
    assert (listed["echo"]["caller"], listed["echo"]["method"]) == ("site", "POST")
    assert listed["echo"]["url"] == "http://hub.test/functions/v1/echo"
    assert (listed["broken"]["purpose"], listed["broken"]["method"]) == ("Shows what breaks", "GET")


def test_an_unknown_function_is_named_in_the_answer(hosted: Hosted) -> None:
    hosted.write("echo", ECHO)

    answer = hosted.client.post("nothing-like-it")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "function_not_found"
    assert "nothing-like-it" in answer.json()["error"]["message"]


def test_functions_with_the_same_helper_names_keep_their_own(hosted: Hosted) -> None:
    for name in ("one", "two"):
        hosted.write(
            name,
            f"""
            from functions_framework import aio
            import words

            def helper():
                return words.WORD

            @aio.http
            async def {name}(request):
                return helper()
            """,
        )
        (hosted.root / name / "words.py").write_text(f"WORD = '{name}'")

    assert [hosted.client.post(name).text for name in ("one", "two", "one")] == ["one", "two", "one"]


def test_loading_a_function_leaves_the_process_as_it_was(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUNCTION_TARGET", raising=False)
    path = list(sys.path)

    hosted.write("echo", ECHO)
    hosted.client.post("echo")

    assert sys.path == path
    assert "main" not in sys.modules
    assert not {"FUNCTION_TARGET", "FUNCTION_SIGNATURE_TYPE"} & set(os.environ)


@pytest.mark.parametrize(
    "code",
    [
        "import nothing_of_this_name",
        "def echo(:",
        "raise SystemExit(1)",
        "x = 1",
        "async def echo(request): return 'not declared'",
        "from functions_framework import aio\n\n@aio.cloud_event\nasync def other(event): ...",
    ],
    ids=["import", "syntax", "exit", "no function", "not declared", "other name"],
)
def test_a_broken_function_says_so_and_harms_no_other(
    hosted: Hosted, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    hosted.write("echo", code)
    hosted.write("fine", saying("fine", "fine"))

    broken = hosted.client.post("echo")

    assert broken.status_code == 500
    assert broken.json()["error"]["code"] == "function_unavailable"
    assert "Traceback" not in broken.text
    assert "main.py" not in broken.text
    assert any(record.exc_info for record in caplog.records)
    assert hosted.client.post("fine").text == "fine"


def test_a_broken_function_recovers_when_it_is_mended(hosted: Hosted) -> None:
    hosted.write("echo", "import nothing_of_this_name")
    assert hosted.client.post("echo").status_code == 500

    hosted.write("echo", ECHO)

    assert hosted.answers("echo", "/")


def test_a_change_is_served_even_within_the_same_second_and_length(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    hosted.write("count", saying("count", "0"))
    hosted.client.post("count")

    for number in range(1, 5):
        hosted.write("count", saying("count", str(number)))
        assert hosted.answers("count", str(number))


def test_a_new_function_is_served_and_a_removed_one_is_not(hosted: Hosted) -> None:
    hosted.write("first", saying("first", "first"))
    assert hosted.client.post("first").text == "first"

    (hosted.root / "manifest.toml").unlink()
    hosted.write("second", saying("second", "second"))

    assert hosted.answers("second", "second")
    assert hosted.answers("first", "function_not_found")


def test_an_unreadable_manifest_is_an_error_and_not_the_end(hosted: Hosted) -> None:
    hosted.write("echo", ECHO)
    readable = (hosted.root / "manifest.toml").read_text()

    (hosted.root / "manifest.toml").write_text("[echo")
    unreadable = hosted.client.post("echo")
    (hosted.root / "manifest.toml").write_text(readable)

    assert (unreadable.status_code, unreadable.json()["error"]["code"]) == (500, "manifest_unreadable")
    assert hosted.answers("echo", "/")


def test_concurrent_first_requests_share_one_load(hosted: Hosted, tmp_path: Path) -> None:
    hosted.write("slow", _slow_to_load(tmp_path, seconds=0.3))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: hosted.client.post("slow").text, range(8)))

    assert answers == ["loaded"] * 8
    assert len(list(tmp_path.glob("load-*"))) == 1


def test_loading_one_function_does_not_hold_up_another(hosted: Hosted, tmp_path: Path) -> None:
    hosted.write("fine", saying("fine", "fine"))
    hosted.client.post("fine")
    hosted.write("slow", _slow_to_load(tmp_path, seconds=2))

    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(hosted.client.post, "slow")
        _until(lambda: any(tmp_path.glob("load-*")))
        fine = hosted.client.post("fine").text
        was_loading = not slow.done()

    assert (fine, was_loading) == ("fine", True)
    assert slow.result().text == "loaded"


def test_a_crash_is_answered_as_the_deployed_framework_answers_it(
    hosted: Hosted, caplog: pytest.LogCaptureFixture
) -> None:
    hosted.write(
        "crash",
        """
        from functions_framework import aio

        @aio.http
        async def crash(request):
            raise ValueError("the secret is 1234")
        """,
    )

    answer = hosted.client.post("crash")

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["X-Google-Status"] == "crash"
    assert "the secret is 1234" in caplog.text


def test_a_function_that_takes_too_long_is_stopped(hosted: Hosted, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    hosted.write(
        "sleepy",
        f"""
        import asyncio
        from functions_framework import aio

        @aio.http
        async def sleepy(request):
            try:
                await asyncio.sleep(30)
            finally:
                open({str(stopped)!r}, "w").close()
        """,
        timeout=0.5,
    )
    hosted.write("fine", saying("fine", "fine"))

    answer = hosted.client.post("sleepy")

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "function_timeout")
    assert stopped.exists()
    assert hosted.client.post("fine").text == "fine"


def test_an_answer_that_stops_halfway_looks_cut(hosted: Hosted) -> None:
    hosted.write(
        "halfway",
        """
        import asyncio
        from functions_framework import aio
        from starlette.responses import StreamingResponse

        async def parts():
            yield "half"
            await asyncio.sleep(30)

        @aio.http
        async def halfway(request):
            return StreamingResponse(parts())
        """,
        timeout=0.5,
    )

    with pytest.raises(httpx.RemoteProtocolError):
        hosted.client.post("halfway")


def _slow_to_load(marks: Path, seconds: float) -> str:
    """Leaves a mark each time it is loaded."""
    return textwrap.dedent(
        f"""
        import pathlib, time, uuid
        from functions_framework import aio

        (pathlib.Path({str(marks)!r}) / f"load-{{uuid.uuid4()}}").touch()
        time.sleep({seconds})

        @aio.http
        async def slow(request):
            return "loaded"
        """
    )


def _until(is_so: Callable[[], bool]) -> None:
    waited = threading.Event()
    while not is_so():
        waited.wait(0.01)
