"""A hub for tests and benchmarks: started by the command that `make run` uses, reached as anybody reaches it."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import psycopg
from emulator.postgres import binaries, unprivileged_account
from emulator.scratch import new_state
from emulator.state import State

ROOT = Path(__file__).parents[2]


# One for all: to make a client costs more than its request. A kept connection may be one of before a kill.
web = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))


class Post(Protocol):
    """Sends a form of these fields, and answers what the hub said."""

    def __call__(self, **form: Any) -> dict[str, Any]: ...


@dataclass
class Hub:
    state: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    _idle: list[psycopg.Connection] = field(default_factory=list)
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.env["SUPABASE_URL"]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        """Run a statement as role postgres, and commit."""
        while True:
            is_fresh = not self._idle
            connection = (
                psycopg.connect(self.env["ADMIN_DATABASE_URL"], autocommit=True)
                if is_fresh
                else self._idle.pop()
            )
            try:
                cursor = connection.execute(query, named or values or None)
                return [] if cursor.description is None else cursor.fetchall()
            except psycopg.errors.DeadlockDetected:
                # With a job of the hub's own, which takes its tables in another order than a test that changes them.
                continue
            except psycopg.OperationalError:
                # An idle connection may be one of before the database was killed.
                if is_fresh or not connection.closed:
                    raise
            finally:
                if connection.closed:
                    connection.close()
                else:
                    self._idle.append(connection)

    def sql(self, statement: str, *values: Any, **named: Any) -> None:
        self.rows(statement, *values, **named)

    def as_superuser(self, statements: str) -> None:
        with psycopg.connect(State(self.state).database_url("supabase_admin"), autocommit=True) as connection:
            connection.execute(statements)

    def submit(self, site: str, form: dict[str, Any], **headers: str) -> dict[str, Any]:
        """Post a form as the site itself does; answers what the hub said."""
        secret = self.env[f"{site.upper()}_WEBHOOK_SECRET"]
        answer = web.post(
            f"{self.url}/functions/v1/ingest-{site}",
            json=form,
            headers={"x-webhook-secret": secret, **headers},
        )
        return dict(answer.raise_for_status().json())

    def token(self, who: str) -> str:
        """The access token of one of the users in hub.env, signed in once with their password."""
        if who in self._tokens:
            return self._tokens[who]
        answer = web.post(
            f"{self.url}/auth/v1/token?grant_type=password",
            json={"email": self.env[f"{who}_EMAIL"], "password": self.env[f"{who}_PASSWORD"]},
            headers={"apikey": self.env["SUPABASE_PUBLISHABLE_KEY"]},
        )
        self._tokens[who] = str(answer.raise_for_status().json()["access_token"])
        return self._tokens[who]

    def signed_in(self, who: str) -> dict[str, str]:
        """The headers of one of the users."""
        return {"apikey": self.env["SUPABASE_PUBLISHABLE_KEY"], "authorization": f"Bearer {self.token(who)}"}

    def rpc(self, function: str, who: str = "OPERATOR", **arguments: Any) -> httpx.Response:
        """Call a function over REST, as one of the users."""
        return web.post(f"{self.url}/rest/v1/rpc/{function}", json=arguments, headers=self.signed_in(who))

    def run_job(self, name: str) -> None:
        """Run a job of pg_cron as if it were time, and see it begin."""
        runs = "select count(*) from cron.job_run_details join cron.job on job.jobid = job_run_details.jobid where jobname = %s"
        before = self.rows(runs, name)
        for _ in range(10):
            self.sql("select cron.run_now(%s)", name)
            # Right after a start nobody listens yet.
            if self.until(lambda: self.rows(runs, name) != before, 2):
                return
        raise TimeoutError(f"the job {name} does not begin")

    def until(self, is_so: Callable[..., bool], seconds: float = 20) -> bool:
        """Whether it came true in time; a database that is away just now counts as not yet.

        A lambda in a loop may hold what it waits for as a default.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                if is_so():
                    return True
            time.sleep(0.02)
        return False

    def database_answers(self) -> bool:
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self.env["ADMIN_DATABASE_URL"], connect_timeout=1),
        ):
            return True
        return False

    def restart_database(self) -> None:
        """Kill the postmaster; the hub brings it back."""
        pid = self.process_of("postgres")
        os.kill(pid, signal.SIGKILL)
        assert self.until(lambda: not Path(f"/proc/{pid}").exists())
        assert self.until(self.database_answers)

    def process_of(self, name: str) -> int:
        """The process id of the hub's gateway, workers or postgres, as soon as there is one."""
        hub = int(self.env["HUB_PID"])
        while Path(f"/proc/{hub}").exists():
            for child in Path(f"/proc/{hub}/task/{hub}/children").read_text().split():
                with contextlib.suppress(FileNotFoundError):
                    if name in Path(f"/proc/{child}/cmdline").read_text():
                        return int(child)
            time.sleep(0.01)
        raise ProcessLookupError(name)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        while self._idle:
            self._idle.pop().close()
        self.process.send_signal(sign)
        self.process.wait(30)


def start_hub(state: Path, port: int = 0, root: Path = ROOT, **environment: str) -> Hub:
    """Started and ready; what it printed is in the exception when it does not come up."""
    # Whoever runs the tests may have a model configured, which they shall not ask.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    printed = state.with_name(state.name + ".printed")
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "emulator",
                "--port",
                str(port),
                "--state",
                str(state),
                "--parent",
                str(os.getpid()),
            ],
            cwd=root,
            # A test of targets that nothing kicks is not helped by the clock outside of the database.
            env={
                **inherited,
                "PYTHONPATH": f"{root / 'supabase'}:{root}",
                "HEARTBEAT_SECONDS": "3600",
                **environment,
            },
            stdout=output,
            stderr=output,
        )
    while "\nReady" not in printed.read_text():
        if process.poll() is not None:
            raise RuntimeError(f"the hub did not start:\n{printed.read_text()}")
        time.sleep(0.02)
    lines = (state / "hub.env").read_text().splitlines()
    env = {name: shlex.split(value)[0] for name, value in (line.split("=", 1) for line in lines)}
    return Hub(state, env, process)


def command(
    *arguments: str | Path, cwd: Path = ROOT, preexec_fn: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emulator", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'supabase'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=preexec_fn,
    )


@contextlib.contextmanager
def running_hub(prepared: Path | None = None, root: Path = ROOT, **environment: str) -> Iterator[Hub]:
    """A hub on a state of its own: a new one, or a copy of one that was prepared; of the code in `root`."""
    with new_state() as state:
        if prepared:
            subprocess.run(["cp", "-a", prepared, state], check=True)
        hub = start_hub(state, 0, root, **environment)
        try:
            yield hub
        finally:
            hub.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_binary(name: str) -> str:
    return str(binaries(unprivileged_account()) / "bin" / name)
