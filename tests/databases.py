"""A database server without the rest of the hub: bootstrapped, no migrations, a fresh database for each test."""

import contextlib
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from emulator.postgres import Postgres, free_port
from emulator.state import State
from hubs import new_state
from psycopg import sql


@dataclass(frozen=True)
class Server:
    postgres: Postgres

    def fresh_database(self) -> "Database":
        """As a new project has it."""
        return self._create("postgres")

    def empty_database(self) -> "Database":
        """For a dump that brings everything, except the server's roles."""
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
