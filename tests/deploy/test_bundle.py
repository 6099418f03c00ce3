"""Bundles: each holds what its function needs and nothing else, and serves from a clean environment."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import uuid
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from deploy import bundle
from load.client import Connection
from support.hubs import Hub, free_port, running_hub, web

MANIFEST = tomllib.loads((bundle.FUNCTIONS / "manifest.toml").read_text())
LOCK = bundle.Lock(bundle.LOCK.read_text())
SERVED = ("ingest_prime", "lead_qualifier")
UNREACHABLE = re.compile("Failed to establish a new connection|Max retries exceeded|Read timed out")


def test_only_what_is_imported_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {
        "functions/greet/main.py": "import json\nfrom shared import greetings\n",
        "functions/greet/page.html": "hello",
        "functions/greet/requirements.txt": "",
        "shared/__init__.py": "",
        "shared/greetings.py": "def greet():\n    import httpx\n    from shared.words.english import hello\n",
        "shared/words/__init__.py": "if TYPE_CHECKING:\n    import psycopg\n",
        "shared/words/english.py": "from shared import greetings\nhello = 'hello'\n",
        "shared/words/german.py": "import pydantic\n",
        "shared/unrelated.py": "",
    }
    for name, text in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setattr(bundle, "FUNCTIONS", tmp_path / "functions")

    folder = bundle.write("greet", LOCK, tmp_path / "dist")

    assert contents(folder).keys() == {
        "main.py",
        "page.html",
        "requirements.txt",
        "shared/__init__.py",
        "shared/greetings.py",
        "shared/words/__init__.py",
        "shared/words/english.py",
    }
    assert bundle.packages("greet") == ["httpx"]
    pinned = re.findall(r"^[\w.-]+", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert {"httpx", "httpcore", "h11", "anyio", "idna"} <= set(pinned)
    assert {"psycopg", "pydantic"}.isdisjoint(pinned)


def test_what_the_lock_does_not_pin_is_refused_by_name() -> None:
    with pytest.raises(bundle.NotBundled, match="httpx"):
        bundle.Lock("anyio==4.0 \\\n    --hash=sha256:00\n    # via httpx\n").pinned(["httpx"])


def test_bundling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    program = "import sys; from deploy import bundle; bundle.DIST = bundle.Path(sys.argv[1]); bundle.main()"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(bundle.ROOT / "supabase")}
        subprocess.run([sys.executable, "-c", program, tmp_path / seed], env=environment, check=True)

    first, second = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert first == second
    assert {f"{function}/main.py" for function in MANIFEST} <= first.keys()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@dataclass
class Installed:
    """A bundle, and the environment that was made for it alone."""

    function: str
    folder: Path
    environment: Path

    def install(self) -> str:
        """What pip said when it failed, else nothing."""
        venv.create(self.environment, symlinks=True)
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", self.environment / "bin" / "python"]
        # That nothing is missing `pip check` tells as well, and sooner than resolving it all again.
        install: list[str | Path] = [
            "install",
            "--no-deps",
            "--no-compile",
            "--require-hashes",
            "-r",
            self.folder / "requirements.txt",
        ]
        for command in (install, ["check"]):
            done = subprocess.run([*pip, *command], capture_output=True, text=True)
            if done.returncode:
                return done.stdout + done.stderr
        return ""

    @contextlib.contextmanager
    def served(self, hub: Hub, **environment: str) -> Iterator["Server"]:
        """Behind the functions-framework command, knowing what the manifest says and nothing else."""
        settings = {name: hub.env[name] for name in MANIFEST[self.function]["settings"]}
        port = free_port()
        server = subprocess.Popen(
            [self.environment / "bin" / "functions-framework", "--target", self.function],
            cwd=self.folder,
            env={"PATH": os.defpath, "HOST": "127.0.0.1", "PORT": str(port), **settings, **environment},
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            wait_for(port, server)
            yield Server(port, server.pid)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@dataclass
class Server:
    port: int
    pid: int

    def post(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        return web.post(f"http://127.0.0.1:{self.port}", json=body, headers=headers, timeout=30)

    def workers(self) -> list[str]:
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise TimeoutError("the server does not listen")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Installed]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [
        Installed(function, bundle.write(function, LOCK, folder / "dist"), folder / "environments" / function)
        for function in SERVED
    ]
    with ThreadPoolExecutor() as pool:
        failures = [failure for failure in pool.map(Installed.install, bundles) if failure]
    for failure in failures:
        if UNREACHABLE.search(failure):
            pytest.skip(f"NOT TESTED: the package registry cannot be reached:\n{failure}")
        pytest.fail(failure)
    return {bundle.function: bundle for bundle in bundles}


@pytest.fixture(scope="module")
def silent_hub() -> Iterator[Hub]:
    """A hub that kicks nobody: what waits is left to the functions served here."""
    with running_hub() as hub:
        hub.sql("select net.set_faults(lose => 1.0)")
        yield hub


@pytest.fixture
def form() -> dict[str, Any]:
    return {"name": "Jo Smith", "email": f"jo-{uuid.uuid4().hex[:10]}@example.com", "service": "switchboard"}


@pytest.mark.timeout(600)
def test_a_served_ingest_bundle_records_a_form(
    installed: dict[str, Installed], silent_hub: Hub, form: dict[str, Any]
) -> None:
    with installed["ingest_prime"].served(silent_hub) as server:
        answer = server.post(form, **{"x-webhook-secret": silent_hub.env["PRIME_WEBHOOK_SECRET"]})
        refused = server.post(form, **{"x-webhook-secret": silent_hub.env["AKF_WEBHOOK_SECRET"]})

    assert (answer.status_code, refused.status_code) == (202, 401)
    events = silent_hub.rows(
        "select data -> 'form' from public.events where id = %s", answer.json()["event_id"]
    )
    assert events == [(form,)]


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("headers", "half_closes"), [(b"", True), (H2C, False)], ids=["half-closed", "h2c"])
def test_a_served_bundle_answers_the_clients_that_uvicorn_would_not(
    installed: dict[str, Installed], silent_hub: Hub, form: dict[str, Any], headers: bytes, half_closes: bool
) -> None:
    secret, body = silent_hub.env["PRIME_WEBHOOK_SECRET"], json.dumps(form)
    head = f"POST / HTTP/1.1\r\nHost: x\r\nx-webhook-secret: {secret}\r\nContent-Type: application/json\r\n"
    with (
        installed["ingest_prime"].served(silent_hub) as server,
        socket.create_connection(("127.0.0.1", server.port), 30) as wire,
    ):
        wire.sendall(head.encode() + headers + f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        if half_closes:
            wire.shutdown(socket.SHUT_WR)
        answer = wire.recv(100_000)

    assert answer.startswith(b"HTTP/1.1 202 ")
    assert silent_hub.rows(
        "select count(*) from public.events where data -> 'form' = %s", json.dumps(form)
    ) == [(1,)]


@pytest.mark.timeout(600)
def test_a_served_bundle_refuses_in_json_whatever_the_method(
    installed: dict[str, Installed], silent_hub: Hub
) -> None:
    methods = ("GET", "TRACE", "PROPFIND", "BREW", "CONNECT")
    with installed["ingest_prime"].served(silent_hub) as server:
        answers = [web.request(method, f"http://127.0.0.1:{server.port}/") for method in methods]

    assert [answer.status_code for answer in answers] == [405, 405, 405, 501, 501]
    assert [set(answer.json()["error"]) for answer in answers] == [{"code", "message", "details"}] * 5


@pytest.mark.timeout(600)
def test_a_served_qualifier_bundle_handles_what_waits(
    installed: dict[str, Installed], silent_hub: Hub, form: dict[str, Any]
) -> None:
    submitted = web.post(
        f"{silent_hub.url}/functions/v1/ingest-prime",
        json=form,
        headers={"x-webhook-secret": silent_hub.env["PRIME_WEBHOOK_SECRET"]},
    )
    event = submitted.json()["event_id"]
    actions = "select agent, outcome from public.agent_actions where event_id = %s"
    assert silent_hub.rows(actions, event) == []

    with installed["lead_qualifier"].served(silent_hub) as server:
        kicked = server.post({"target": "lead-qualifier"}, apikey=silent_hub.env["HUB_INVOKE_SECRET"])
        refused = server.post({"target": "lead-qualifier"}, apikey="wrong")

    assert (kicked.status_code, refused.status_code) == (200, 401)
    assert [agent for agent, _ in silent_hub.rows(actions, event)] == ["lead-qualifier"]


@pytest.mark.timeout(600)
def test_a_function_told_to_stop_gives_back_what_it_holds(
    installed: dict[str, Installed], silent_hub: Hub
) -> None:
    silent_hub.sql(
        "insert into public.events (org_id, site_id, type, data)"
        " select org_id, id, 'form.submitted', '{}' from public.sites, generate_series(1, 3000) where slug = 'prime'"
    )
    statuses = "select status::text, count(*) from public.deliveries group by status"

    with installed["lead_qualifier"].served(silent_hub) as server, ThreadPoolExecutor() as pool:
        kicked = pool.submit(
            server.post, {"target": "lead-qualifier"}, apikey=silent_hub.env["HUB_INVOKE_SECRET"]
        )
        assert silent_hub.until(lambda: dict(silent_hub.rows(statuses)).get("done", 0) > 100)
        os.kill(server.pid, signal.SIGTERM)
        answer = kicked.result()

    assert answer.status_code == 200
    left = dict(silent_hub.rows(statuses))
    assert left["pending"] > 0
    assert left.keys() == {"pending", "done"}


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.skipif(
    FAKETIME is None, reason="NOT TESTED: a function's clock is moved by libfaketime (apt install faketime)"
)
@pytest.mark.parametrize("moved", ["-1h", "+1h"])
@pytest.mark.timeout(600)
def test_functions_with_a_wrong_clock_leave_right_times(
    installed: dict[str, Installed], silent_hub: Hub, form: dict[str, Any], moved: str
) -> None:
    clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": moved, "FAKETIME_NO_CACHE": "1"}
    # What waits already must not be put before or behind by the clock of who takes it.
    with installed["ingest_prime"].served(silent_hub, **clock) as server:
        answer = server.post(form, **{"x-webhook-secret": silent_hub.env["PRIME_WEBHOOK_SECRET"]})
    with installed["lead_qualifier"].served(silent_hub, **clock) as server:
        kicked = server.post({"target": "lead-qualifier"}, apikey=silent_hub.env["HUB_INVOKE_SECRET"])

    assert (answer.status_code, kicked.status_code) == (202, 200)
    assert silent_hub.rows(
        "select max(abs(extract(epoch from now() - at))) < 60, count(*) from public.events"
        " join public.deliveries on deliveries.event_id = events.id"
        " join public.agent_actions on agent_actions.delivery_id = deliveries.id"
        " cross join lateral unnest(array[events.recorded_at, events.occurred_at, deliveries.run_at, deliveries.claimed_at,"
        " agent_actions.created_at]) as at where events.id = %s",
        answer.json()["event_id"],
    ) == [(True, 5)]


@pytest.mark.timeout(600)
def test_two_workers_give_each_of_2400_callers_its_own_answer(
    installed: dict[str, Installed], silent_hub: Hub
) -> None:
    secret = silent_hub.env["PRIME_WEBHOOK_SECRET"]
    headers = {"content-type": "application/json", "x-webhook-secret": secret}
    run = uuid.uuid4().hex[:10]
    waiting = iter(range(2_400))
    answered: dict[str, str] = {}

    async def send(connection: Connection) -> None:
        for number in waiting:
            form = {"run": run, "number": str(number), "email": f"{run}-{number}@example.com"}
            # Who is told that the database is busy asks again, as every site does.
            while True:
                status, answer = await connection.post("/", headers, json.dumps(form).encode())
                if status != 503:
                    break
            assert status == 202, answer
            answered[form["number"]] = answer["event_id"]
        connection.close()

    async def send_all(port: int) -> None:
        await asyncio.gather(*(send(Connection("127.0.0.1", port)) for _ in range(64)))

    with installed["ingest_prime"].served(silent_hub, WORKERS="2") as server:
        asyncio.run(send_all(server.port))
        assert len(server.workers()) == 2

    own = "select data #>> '{form,number}', id::text from public.events where data #>> '{form,run}' = %s"
    rows = silent_hub.rows(own, run)
    assert len(rows) == 2_400
    assert answered == dict(rows)
