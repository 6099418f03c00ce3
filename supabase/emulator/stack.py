"""The supervisor: one process tree that is up as long as this process, and down when it is gone.

Postgres, the gateway and the workers are children of this process. A child that dies is started again at
once; the listening socket stays open here meanwhile, so clients of a killed gateway wait instead of
being refused.
"""

import contextlib
import errno
import http.client
import math
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psycopg

from emulator import migrations
from emulator.postgres import Postgres, free_port, said
from emulator.process import Child, Process, die_with_parent, open_log
from emulator.screen import ready_screen
from emulator.state import State, email, secret_name, write_private

REPOSITORY = Path(__file__).resolve().parents[2]
SILENCE_SECONDS = 10.0
PORT = 54321
PORT_OFFSET = 10000


class StackFailed(Exception):
    """The hub cannot run; the message says why, in a sentence for its operator."""


def say(text: str) -> None:
    # The starter of the hub may have stopped reading.
    with contextlib.suppress(OSError):
        print(text, flush=True)


def listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A hub that was killed a moment ago may still hold the port.
    for pause in [0.05] * 20 + [None]:
        try:
            listening.bind(("127.0.0.1", port))
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StackFailed(
                    f"Port {port} cannot be used: {error.strerror}. Choose another: make run PORT={PORT}"
                ) from error
            if pause is None:
                other = port + 1 if port < 65535 else port - 1
                raise StackFailed(f"Port {port} is in use. Choose another: make run PORT={other}") from error
            time.sleep(pause)
    listening.listen(2048)
    return listening


class Stack:
    def __init__(self, state: State, listening: socket.socket) -> None:
        self.state = state
        self.listening = listening
        self.port: int = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.postgres = Postgres(state, free_port(self.port + PORT_OFFSET))
        logs = state.logs
        self.database = Child("Postgres", self.postgres.start, logs / "postgres.log", say)
        self.gateway = Child("gateway", self._start_gateway, logs / "gateway.log", say)
        self.workers = Child("workers", self._start_workers, logs / "workers.log", say)
        self.watchdog = Watchdog(self.port)

    def run(self) -> None:
        """Run until Ctrl-C, SIGTERM or SIGHUP."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, _interrupt)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, _interrupt)
        try:
            self._come_up()
            self._stay_up()
        except KeyboardInterrupt:
            say("\nstopping")
        except psycopg.Error as error:
            # A connection that breaks does not say why; Postgres does, in its log.
            why = error.sqlstate is None and self.postgres.last_words()
            raise StackFailed(f"The hub cannot run: {why or said(error)}") from error
        finally:
            self._go_down()

    def _come_up(self) -> None:
        began = time.monotonic()
        self.state.environment.unlink(missing_ok=True)
        write_private(self.state.port_file, str(self.postgres.port))
        # The gateway takes as long to import as Postgres to start, and needs no database before its first request.
        self.gateway.start()
        self._bring_up_database()
        unfinished = {"sync": self.postgres.sync()} if self.postgres.is_new else {}
        url = self.state.database_url("postgres")
        seeding = None if migrations.has_users(url) else self._start_seeding()
        self.workers.start()
        invoke_secret = self.state.keys.hub_invoke_secret
        secrets = {"FUNCTIONS_URL": f"{self.url}/functions/v1", "HUB_INVOKE_SECRET": invoke_secret}
        migrations.migrate(url, REPOSITORY / "supabase", os.environ | secrets, say)
        if seeding is not None and seeding.stdin is not None:
            seeding.stdin.close()
            unfinished["seeding"] = seeding
        say(ready_screen(self.state, self.url))
        self._await_gateway()
        self._await(unfinished)
        write_private(self.state.environment, self._environment_file())
        say(f"Ready at {self.url} after {time.monotonic() - began:.1f} s. Ctrl-C stops it.")

    def _bring_up_database(self) -> None:
        self.postgres.prepare()
        if self.postgres.is_new:
            say("Made a new database.")
        self.database.start()
        assert self.database.process is not None
        self.postgres.wait_until_ready(self.database.process)
        self.postgres.bootstrap()
        self.postgres.refuse_unsafe_settings()

    def _stay_up(self) -> None:
        with woken_by_children() as wakeup:
            while True:
                select.select([wakeup], [], [], 0.25)
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(4096)
                for child in (self.database, self.gateway, self.workers):
                    child.keep()
                self._watch_gateway()

    def _watch_gateway(self) -> None:
        silent_for = min(self.watchdog.silence(), self.gateway.age)
        if silent_for > SILENCE_SECONDS and self.gateway.process is not None:
            say(f"The gateway has not answered for {silent_for:.0f} s, killing it")
            self.gateway.process.kill()
            self.gateway.process.wait()

    def _go_down(self) -> None:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_IGN)
        self.listening.close()
        with contextlib.suppress(OSError):
            self.state.environment.unlink(missing_ok=True)
        for child in (self.gateway, self.workers):
            if child.process is not None:
                child.process.terminate()
        for child in (self.gateway, self.workers):
            child.end(signal.SIGTERM, 7) or child.end(signal.SIGKILL, 5)
        (
            self.database.end(signal.SIGINT, 30)  # fast shutdown: sessions end, everything is written
            or self.database.end(signal.SIGQUIT, 5)
            or self.database.end(signal.SIGKILL, 5)
        )
        say("stopped")

    # The other processes --------------------------------------------------------------------------------------

    def _start_gateway(self) -> Process:
        descriptor = self.listening.fileno()
        return self._python(
            "emulator.gateway", "--fd", str(descriptor), log="gateway.log", pass_fds=(descriptor,)
        )

    def _start_workers(self) -> Process:
        return self._python("emulator.workers", log="workers.log")

    def _start_seeding(self) -> Process:
        return self._python("emulator.seeding", stdin=subprocess.PIPE)

    def _python(
        self,
        module: str,
        *arguments: str,
        log: str | None = None,
        pass_fds: tuple[int, ...] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> Process:
        """Start a Python process; the output of one without a log is read when it has ended."""
        with open_log(self.state.logs / log) if log else contextlib.nullcontext(subprocess.PIPE) as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPOSITORY,
                env=self._environment(),
                stdin=stdin,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def _environment(self) -> dict[str, str]:
        keys = self.state.keys
        return os.environ | {
            "PYTHONPATH": f"{REPOSITORY / 'supabase'}:{REPOSITORY}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "",  # a restart is quick because of it
            "SUPABASE_URL": self.url,
            "SUPABASE_PUBLISHABLE_KEY": keys.publishable_key,
            "DATABASE_URL": self.state.database_url("hub_service"),
            "HUB_INVOKE_SECRET": keys.hub_invoke_secret,
            "TRUSTED_PROXIES": "0",
            "FUNCTIONS_URL": f"{self.url}/functions/v1",
            "PARTNERS_MAY_BE_LOCAL": "1",
            "STATE_DIR": str(self.state.folder),
        }

    # Readiness ------------------------------------------------------------------------------------------------

    def _await_gateway(self) -> None:
        deadline = time.monotonic() + 60
        while not _answers(self.port):
            for child in (self.gateway, self.workers):
                assert child.process is not None
                if child.process.poll() is not None:
                    raise StackFailed(
                        f"{child.name} did not start. The end of {child.log}:\n{child.log_tail()}"
                    )
            if time.monotonic() > deadline:
                raise StackFailed(
                    f"The gateway does not answer. The end of {self.gateway.log}:\n{self.gateway.log_tail()}"
                )
            time.sleep(0.01)

    def _await(self, unfinished: dict[str, Process]) -> None:
        for name, process in unfinished.items():
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired as error:
                raise StackFailed(f"The hub cannot run: {name} has not ended after 60 s.") from error
            if code != 0:
                why = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
                raise StackFailed(f"The hub cannot run: {name} failed: {why or f'exit code {code}'}")

    def _environment_file(self) -> str:
        keys = self.state.keys
        values = {
            "SUPABASE_URL": self.url,
            "SUPABASE_PUBLISHABLE_KEY": keys.publishable_key,
            "SUPABASE_SECRET_KEY": keys.secret_key,
            "DATABASE_URL": self.state.database_url("hub_service"),
            "ADMIN_DATABASE_URL": self.state.database_url("postgres"),
            "HUB_INVOKE_SECRET": keys.hub_invoke_secret,
            "TRUSTED_PROXIES": "0",
        }
        for site, secret in keys.site_secrets.items():
            values[secret_name(site)] = secret
        for role, password in keys.passwords.items():
            values[f"{role.upper()}_EMAIL"] = email(role)
            values[f"{role.upper()}_PASSWORD"] = password
        values["HUB_PID"] = str(os.getpid())
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


class Watchdog:
    """Asks the gateway for a sign of life every second, and never waits for the answer."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._question: socket.socket | None = None
        self._asked = -math.inf
        self._unanswered_since: float | None = None

    def silence(self) -> float:
        """Seconds since the first question that the gateway has left open; none when it answered the last one."""
        if self._question is None:
            if time.monotonic() - self._asked > 1:
                self._ask()
        else:
            self._listen(self._question)
        return 0 if self._unanswered_since is None else time.monotonic() - self._unanswered_since

    def _ask(self) -> None:
        self._asked = time.monotonic()
        if self._unanswered_since is None:
            self._unanswered_since = self._asked
        with contextlib.suppress(OSError):
            self._question = socket.create_connection(self._address, timeout=0.2)
            self._question.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            self._question.setblocking(False)

    def _listen(self, question: socket.socket) -> None:
        try:
            answer = question.recv(64)
        except BlockingIOError:
            if time.monotonic() - self._asked < SILENCE_SECONDS:
                return
            answer = b""
        except OSError:
            answer = b""
        if b" 200 " in answer:
            self._unanswered_since = None
        question.close()
        self._question = None


@contextlib.contextmanager
def woken_by_children() -> Iterator[socket.socket]:
    """A socket that becomes readable when a child ends."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        reader.close()
        writer.close()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
