"""A database of its own for the REST conformance tests, and the REST app serving it."""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from conformance.callers import USER, Rows, Serve, authenticate, client, token
from emulator.rest import Rest, create_app
from postgrest import SyncPostgrestClient
from psycopg.conninfo import make_conninfo

SCHEMA = Path(__file__).with_name("rest.sql")


@pytest.fixture(scope="session")
def rest_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of a fresh database with the conformance schema."""
    server = os.environ.get("REST_TEST_DSN") or request.getfixturevalue("hub").env["ADMIN_DATABASE_URL"]
    database = f"rest_conformance_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {database}")
        connection_string = make_conninfo(server, dbname=database)
        with psycopg.connect(connection_string) as fresh:
            fresh.execute(SCHEMA.read_text())
        yield connection_string
        connection.execute(f"drop database {database} with (force)")


class Server(uvicorn.Server):
    def __init__(self, app: Rest) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", ws="none", lifespan="on"))
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Serves an app on a free port until the session ends."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(app: Rest) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        server = Server(app)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread))
        assert server.ready.wait(10)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def rest_url(rest_database: str, serve: Serve) -> str:
    app = create_app(
        rest_database, authenticate, schemas=("public", "personal"), plan_enabled=True, tx_end_override=True
    )
    return serve(app)


@pytest.fixture(scope="session")
def anon(rest_url: str) -> Iterator[httpx.Client]:
    with client(rest_url) as http:
        yield http


@pytest.fixture(scope="session")
def user(rest_url: str) -> Iterator[httpx.Client]:
    with client(rest_url, token("authenticated", sub=USER)) as http:
        yield http


@pytest.fixture(scope="session")
def service(rest_url: str) -> Iterator[httpx.Client]:
    with client(rest_url, token("service_role")) as http:
        yield http


@pytest.fixture(scope="session")
def postgrest(rest_url: str) -> Iterator[SyncPostgrestClient]:
    """The real client, signed in."""
    with httpx.Client(base_url=rest_url, timeout=10) as http:
        made = SyncPostgrestClient(rest_url, http_client=http)
        made.auth(token("authenticated", sub=USER))
        yield made


@pytest.fixture
def rows(rest_database: str) -> Iterator[Rows]:
    """Runs SQL as the database's owner."""
    with psycopg.connect(rest_database, autocommit=True) as connection:

        def run(query: str, *values: Any) -> list[Any]:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def things(rows: Rows) -> Rows:
    """The tables to write into, as they stand in rest.sql."""
    rows("select private.refill()")
    return rows
