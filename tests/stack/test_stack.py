"""`make run`: one process tree that comes back from any kill, and goes down as a whole."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from emulator.postgres import Postgres, PostgresUnavailable, free_port, remove, unprivileged_account
from emulator.process import Child
from emulator.scratch import Database, Server, running_postgres
from emulator.stack import Watchdog
from emulator.state import State
from support.hubs import ROOT, Hub, command, running_hub, start_hub, web

NAMES = """
  SUPABASE_URL SUPABASE_PUBLISHABLE_KEY SUPABASE_SECRET_KEY DATABASE_URL ADMIN_DATABASE_URL HUB_INVOKE_SECRET TRUSTED_PROXIES
  PRIME_WEBHOOK_SECRET AKF_WEBHOOK_SECRET CLEANJET_WEBHOOK_SECRET
  ADMIN_EMAIL ADMIN_PASSWORD OPERATOR_EMAIL OPERATOR_PASSWORD CLOSER_EMAIL CLOSER_PASSWORD VIEWER_EMAIL VIEWER_PASSWORD
  HUB_PID
"""
PROCESSES = ("postgres", "emulator.gateway", "emulator.workers")


def family(hub: Hub) -> dict[int, str]:
    """Every process below the hub's supervisor, with its command line."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            parents[int(entry.name)] = (
                int((entry / "stat").read_text().rpartition(")")[2].split()[1]),
                command,
            )
        except OSError:
            continue
    members = {hub.process.pid}
    while more := {pid for pid, (parent, _) in parents.items() if parent in members} - members:
        members |= more
    return {pid: parents[pid][1] for pid in members if pid in parents}


def child(hub: Hub, name: str) -> int:
    return next(
        pid for pid, command in family(hub).items() if f"{name} -D" in command or f"-m {name}" in command
    )


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# What it leaves for scripts and people ---------------------------------------------------------------------------


def test_the_environment_file_is_private_and_complete(hub: Hub) -> None:
    file = hub.state / "hub.env"

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((hub.state / "keys.json").stat().st_mode) == 0o600
    assert list(hub.env) == NAMES.split()
    assert hub.env["HUB_PID"] == str(hub.process.pid)
    assert "" not in hub.env.values()


def test_a_shell_can_source_it(hub: Hub) -> None:
    sourced = subprocess.run(
        ["sh", "-euc", f'. "{hub.state}/hub.env"; printf %s "$ADMIN_DATABASE_URL"'],
        capture_output=True,
        text=True,
    )

    assert sourced.stdout == hub.env["ADMIN_DATABASE_URL"]


def test_no_text_of_a_statement_holds_a_secret(own_hub: Hub) -> None:
    keys = State(own_hub.state).keys
    secrets = {
        *(keys.secret_key, keys.hub_invoke_secret, keys.vault_key, keys.signing_key["d"]),
        *(*keys.site_secrets.values(), *keys.role_passwords.values(), *keys.passwords.values()),
    }

    with psycopg.connect(State(own_hub.state).database_url("supabase_admin")) as superuser:
        rows = superuser.execute("select query from extensions.pg_stat_statements").fetchall()
    texts = [text for (text,) in rows]

    assert len([text for text in texts if "SCRAM-SHA-256$" in text]) == len(keys.role_passwords) - 1
    assert [text for text in texts if any(secret in text for secret in secrets)] == []


def test_it_listens_on_loopback_only(hub: Hub) -> None:
    sockets = {
        link.readlink().name
        for pid in family(hub)
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if str(link.readlink()).startswith("socket:")
    }
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.add(fields[1].split(":")[0])

    assert listening == {"0100007F"}


def test_only_postgres_runs_as_somebody_else(hub: Hub) -> None:
    account = unprivileged_account()
    owner = Path(f"/proc/{child(hub, 'postgres')}").stat().st_uid

    assert owner == (account.uid if account else os.getuid())
    assert owner != 0


def test_nothing_but_caches_and_rate_limits_is_unlogged(hub: Hub) -> None:
    unlogged = hub.rows(
        "select relnamespace::regnamespace::text, relname from pg_class where relpersistence = 'u' and relkind = 'r'"
    )

    assert set(unlogged) == {
        ("net", "http_request_queue"),
        ("net", "_http_response"),
        ("private", "site_turns"),
        ("private", "site_turns_aside"),
    }


@pytest.fixture(scope="module")
def battered(prepared_state: Path) -> Iterator[Hub]:
    """One hub for the kills that it is meant to come back from."""
    with running_hub(prepared_state) as hub:
        yield hub


# Kills -------------------------------------------------------------------------------------------------------------


def test_a_killed_postmaster_is_back_within_a_second(battered: Hub) -> None:
    took = []
    for _ in range(3):
        before = child(battered, "postgres")
        os.kill(before, signal.SIGKILL)
        killed = time.monotonic()
        assert battered.until(lambda before=before: not is_running(before) and battered.database_answers())
        took.append(time.monotonic() - killed)

    assert min(took) < 1, took


def test_no_request_is_refused_while_the_gateway_is_killed(battered: Hub) -> None:
    for _ in range(2):
        os.kill(child(battered, "emulator.gateway"), signal.SIGKILL)
        with httpx.Client(timeout=20, trust_env=False) as client:
            assert client.get(f"{battered.url}/health").status_code == 200


def test_a_gateway_that_hangs_is_replaced(battered: Hub) -> None:
    hanging = child(battered, "emulator.gateway")
    os.kill(hanging, signal.SIGSTOP)

    assert battered.until(lambda: not is_running(hanging), 20)
    assert web.get(f"{battered.url}/health", timeout=20).status_code == 200


def test_a_gateway_is_silent_from_the_first_question_that_it_leaves_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        watchdog = Watchdog(gateway.getsockname()[1])
        time.sleep(1.1)  # a long start, in which it asks nothing

        at_first = watchdog.silence()
        question, _ = gateway.accept()
        time.sleep(0.1)
        left_open = watchdog.silence()
        question.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        answered = watchdog.silence()
        question.close()

    assert at_first < 1
    assert left_open >= 0.1
    assert answered == 0


def test_killed_workers_go_on_with_what_is_queued(battered: Hub) -> None:
    os.kill(child(battered, "emulator.workers"), signal.SIGKILL)
    [(request,)] = battered.rows("select net.http_get(%s)", f"{battered.url}/health")

    assert battered.until(
        lambda: battered.rows("select status_code from net._http_response where id = %s", request) == [(200,)]
    )


@pytest.mark.parametrize("victim", ["supervisor", "everything"])
def test_after_a_kill_of_it_all_the_next_start_has_lost_nothing(own_hub: Hub, victim: str) -> None:
    own_hub.sql("create table public.kept (n int)")
    own_hub.sql("insert into public.kept select generate_series(1, 1000)")
    members = family(own_hub)

    for pid in members if victim == "everything" else [own_hub.process.pid]:
        # The kernel may have been faster: everything dies with the supervisor.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    own_hub.process.wait()
    again = start_hub(own_hub.state, own_hub.port)

    try:
        assert not [command for pid, command in members.items() if is_running(pid)]
        assert again.rows("select count(*) from public.kept") == [(1000,)]
        assert again.env == own_hub.env | {"HUB_PID": again.env["HUB_PID"]}
    finally:
        again.stop()


def test_a_killed_make_takes_its_hub_along(own_hub: Hub) -> None:
    own_hub.stop()
    make = subprocess.Popen(
        [
            "sh",
            "-c",
            f'"{sys.executable}" -m emulator --port {own_hub.port} --state "{own_hub.state}" --parent $$; true',
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'supabase'}:{ROOT}"},
        stdout=subprocess.DEVNULL,
    )
    environment = own_hub.state / "hub.env"
    assert own_hub.until(environment.exists)
    hub_pid = int(environment.read_text().partition("HUB_PID=")[2])

    make.kill()
    make.wait()

    assert own_hub.until(lambda: not is_running(hub_pid))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_leaves_nothing_behind(own_hub: Hub, sign: signal.Signals) -> None:
    members = family(own_hub)
    assert len(members) > len(PROCESSES)

    own_hub.stop(sign)

    assert own_hub.process.returncode == 0
    assert not [command for pid, command in members.items() if is_running(pid)]
    assert not (own_hub.state / "hub.env").exists()
    log = (own_hub.state / "logs" / "postgres.log").read_text()
    assert log.splitlines()[-1].endswith("database system is shut down")


# Logs that cannot be written ------------------------------------------------------------------------------------------


def full_disk(log: Path) -> Callable[[], None]:
    log.symlink_to("/dev/full")
    return lambda: None


def closed_pipe(log: Path) -> Callable[[], None]:
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    return lambda: os.close(reader)


@pytest.mark.parametrize("trouble", [full_disk, closed_pipe])
def test_a_log_that_cannot_be_written_costs_lines_and_no_answer(
    own_state: Path, trouble: Callable[[Path], Callable[[], None]]
) -> None:
    for name in ("gateway.log", "workers.log"):
        (own_state / "logs" / name).unlink()
    end = trouble(own_state / "logs" / "gateway.log")
    (own_state / "logs" / "workers.log").symlink_to("/dev/full")
    hub = start_hub(own_state)
    end()

    try:
        assert hub.submit("prime", {"email": "ada@example.com"})["duplicate"] is False
        assert hub.rows("select count(*) from public.events where type = 'form.submitted'") == [(1,)]
        assert web.get(f"{hub.url}/functions/v1/ready").status_code == 200
        assert web.get(f"{hub.url}/functions/v1/nothing").status_code == 404
        assert hub.until(lambda: hub.rows("select from public.deliveries where status <> 'done'") == [])
    finally:
        hub.stop()


def test_a_hub_whose_logs_were_removed_still_comes_back_from_a_kill(own_hub: Hub) -> None:
    shutil.rmtree(own_hub.state / "logs")

    for name in PROCESSES:
        os.kill(child(own_hub, name), signal.SIGKILL)

    assert own_hub.until(lambda: web.get(f"{own_hub.url}/functions/v1/ready").status_code == 200)
    assert own_hub.process.poll() is None


# Refusals: a sentence, never a traceback -------------------------------------------------------------------------------


def test_a_second_hub_on_the_same_state_is_refused(hub: Hub) -> None:
    refused = command("--port", "0", "--state", hub.state)

    assert refused.returncode == 1
    assert refused.stderr.startswith("A hub already runs on ")
    assert "Traceback" not in refused.stderr


def test_a_port_in_use_is_refused(hub: Hub, folder: Path) -> None:
    refused = command("--port", str(hub.port), "--state", folder)

    assert refused.returncode == 1
    assert refused.stderr == f"Port {hub.port} is in use. Choose another: make run PORT={hub.port + 1}\n"


@pytest.mark.parametrize(
    ("switch", "named"),
    [
        ("alter system set fsync = off", "fsync is switched off in "),
        ("alter system set synchronous_commit = off", "synchronous_commit is switched off in "),
        ("alter system set full_page_writes = off", "full_page_writes is switched off in "),
        (
            "alter role anon set synchronous_commit = 'OFF'",
            "synchronous_commit is switched off for role anon",
        ),
        (
            "alter database postgres set synchronous_commit = off",
            "synchronous_commit is switched off for database postgres",
        ),
    ],
)
def test_a_database_that_could_lose_answers_is_refused(
    server: Server, database: Database, switch: str, named: str
) -> None:
    database.rows(switch, role="supabase_admin")
    database.rows("select pg_reload_conf()", role="supabase_admin")
    undo = switch.split(" = ")[0].replace(" set ", " reset ")

    try:
        with pytest.raises(PostgresUnavailable, match=named) as refusal:
            refuse_until(server.postgres)
        assert undo in str(refusal.value)
    finally:
        database.rows(undo, role="supabase_admin")
        database.rows("select pg_reload_conf()", role="supabase_admin")


def refuse_until(postgres: Postgres) -> None:
    """A reload takes a moment to arrive."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        postgres.refuse_unsafe_settings()


def test_what_cannot_start_is_said_with_the_end_of_its_log(tmp_path: Path) -> None:
    said: list[str] = []
    log = tmp_path / "gateway.log"
    log.write_text("ModuleNotFoundError: No module named 'typo'\n")
    broken = Child("gateway", lambda: subprocess.Popen(["false"]), log, said.append)
    broken.start()

    deadline = time.monotonic() + 10
    while len(said) < 4 and time.monotonic() < deadline:
        broken.keep()
        time.sleep(0.01)

    assert said[0] == "gateway: ended with exit code 1, starting again"
    assert said[2].endswith("typo'")
    assert "starting again in 0.4 s" in said[1]
    broken.end(signal.SIGKILL, 1)


# Places -----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down; run the tests as root to see it")
def test_root_runs_postgres_where_its_account_cannot_look(folder: Path) -> None:
    (folder / "home").mkdir(mode=0o700)
    state = State(folder / "home" / "state")
    state.open()

    with running_postgres(Postgres(state, free_port(0))) as first, first.connect("postgres") as connection:
        connection.execute("create table public.kept ()")
    with running_postgres(Postgres(state, free_port(0))) as second, second.connect("postgres") as connection:
        kept = connection.execute("select to_regclass('public.kept') is not null").fetchone()
    remove(state.folder)
    state.open()
    with running_postgres(Postgres(state, free_port(0))) as third, third.connect("postgres") as connection:
        after_removal = connection.execute("select to_regclass('public.kept') is not null").fetchone()

    assert (state.folder / "postgres").is_symlink()
    assert (kept, after_removal) == ((True,), (False,))
    remove((state.folder / "postgres").resolve())
