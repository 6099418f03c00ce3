"""Connections to Postgres, and the transaction that each request runs in.

A connection that broke is thrown away and the next request opens a fresh one, so a database that comes back
is used at once. Nothing waits for a database that is not there.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq import TransactionStatus

from emulator.rest.errors import RETRY_AFTER, Fault, pool_exhausted
from emulator.rest.sql import Sql, joined, sql, value

Connection = AsyncConnection[Any]
Settings = Iterable[tuple[str, str]]

CONNECT_SECONDS = 3
WAIT_SECONDS = 10
LISTEN_AGAIN_SECONDS = 0.5

ISOLATION = {
    "serializable": "isolation level serializable",
    "repeatable read": "isolation level repeatable read",
}


class Database:
    def __init__(self, url: str, size: int = 10) -> None:
        self._url = url
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(size)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of its own, outside the pool."""
        connection = await self._connect()
        try:
            yield connection
        finally:
            await _abandon(connection)

    @asynccontextmanager
    async def transaction(
        self, settings: Settings, *, read_only: bool, isolation: str | None
    ) -> AsyncIterator["Transaction"]:
        async with self._place():
            connection = await self._begun(settings, read_only=read_only, isolation=isolation)
            transaction = Transaction(connection)
            try:
                yield transaction
                await connection.execute("rollback" if transaction.is_undone else "commit")
            except BaseException:
                await self._take_back(connection)
                raise
            self._idle.append(connection)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError as error:
            raise pool_exhausted() from error
        try:
            yield
        finally:
            self._places.release()

    async def _begun(self, settings: Settings, *, read_only: bool, isolation: str | None) -> Connection:
        """A connection with its transaction open; one that had gone stale in the meantime is passed over."""
        pairs = list(settings)
        while True:
            is_fresh = not self._idle
            connection = await self._connect() if is_fresh else self._idle.pop()
            try:
                await _begin(connection, pairs, read_only=read_only, isolation=isolation)
                return connection
            except psycopg.OperationalError:
                await self._take_back(connection)
                if is_fresh or not connection.closed:
                    raise
            except BaseException:
                await self._take_back(connection)
                raise

    async def _connect(self) -> Connection:
        try:
            return await AsyncConnection.connect(
                self._url,
                autocommit=True,
                prepare_threshold=None,
                cursor_factory=AsyncRawCursor,
                connect_timeout=CONNECT_SECONDS,
                application_name="rest",
            )
        except psycopg.Error as error:
            message = "Database connection error. Retrying the connection."
            raise Fault(503, "PGRST000", message, str(error), headers=RETRY_AFTER) from error

    async def _take_back(self, connection: Connection) -> None:
        """Take a connection back after a failed statement; a cancelled task leaves none to reuse."""
        task = asyncio.current_task()
        try:
            if connection.closed or (task is not None and task.cancelling()):
                raise psycopg.OperationalError
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.execute("rollback")
        except BaseException as error:
            await _abandon(connection)
            if not isinstance(error, psycopg.Error):
                raise
        else:
            self._idle.append(connection)

    async def notifications(self) -> AsyncIterator[str]:
        """The notifications on the channel; an empty text whenever one may have been missed."""
        while True:
            with suppress(psycopg.Error, Fault):
                async with self.connection() as connection:
                    await connection.execute("listen pgrst")
                    yield ""
                    async for notification in connection.notifies():
                        yield notification.payload
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class Transaction:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.is_undone = False

    async def rows(self, statement: Sql) -> list[Any]:
        cursor = await self._connection.execute(statement.numbered().encode(), statement.values)
        return await cursor.fetchall()

    def undo(self) -> None:
        self.is_undone = True


async def _begin(
    connection: Connection, settings: list[tuple[str, str]], *, read_only: bool, isolation: str | None
) -> None:
    access = "read only" if read_only else "read write"
    calls = [sql("set_config({}, {}, true)", value(key), value(content)) for key, content in settings]
    statement = sql("select {}", joined(", ", calls))
    await connection.execute(f"begin {ISOLATION.get(isolation or '', '')} {access}".encode())
    await connection.execute(statement.numbered().encode(), statement.values)


async def _abandon(connection: Connection) -> None:
    with suppress(psycopg.Error):
        await connection.close()
