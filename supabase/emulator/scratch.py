"""A database server without the rest of the hub: bootstrapped, no migrations, a fresh database for each use."""

import contextlib
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from emulator.postgres import Postgres, free_port
from emulator.state import State


@dataclass(frozen=True)
class Server:
    postgres: Postgres

    @property
    def pg_dump(self) -> Path:
        return self.postgres.bin / "pg_dump"

    def fresh_database(self) -> "Database":
        """A database as a new project has it."""
        return self._create("postgres")

    def empty_database(self) -> "Database":
        """A database for a dump that brings everything, except the server's roles."""
        return self._create("template0")

    def _create(self, template: str) -> "Database":
        name = f"fresh_{uuid.uuid4().hex}"
        statement = sql.SQL("create database {} template {} owner postgres").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        Database(self.postgres.state, "template1").rows(statement, role="supabase_admin")
        return Database(self.postgres.state, name)


@dataclass(frozen=True)
class Database:
    state: State
    name: str

    def url(self, role: str = "postgres") -> str:
        return self.state.database_url(role, self.name)

    def rows(self, query: str | sql.Composed, *values: Any, role: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(role), autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return [] if cursor.description is None else cursor.fetchall()


@contextlib.contextmanager
def new_state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hub-", dir=_memory()) as folder:
        # A database server that has stepped down from root must be able to pass through.
        Path(folder).chmod(0o755)
        yield Path(folder) / "state"


def _memory() -> str | None:
    """A folder in memory, if there is much: to create a database's thousand files there takes a tenth of the time."""
    with contextlib.suppress(FileNotFoundError):
        if shutil.disk_usage("/dev/shm").free > 4e9:  # noqa: S108
            return "/dev/shm"  # noqa: S108
    return None


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    with new_state() as folder:
        state = State(folder)
        state.open()
        with running_postgres(Postgres(state, free_port(0))) as postgres:
            yield Server(postgres)


@contextlib.contextmanager
def running_postgres(postgres: Postgres) -> Iterator[Postgres]:
    postgres.state.port_file.write_text(str(postgres.port))
    postgres.prepare()
    postmaster = postgres.start()
    try:
        postgres.wait_until_ready(postmaster)
        postgres.bootstrap()
        yield postgres
    finally:
        # Nobody will read these files again, so they need not be written out.
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(30)
