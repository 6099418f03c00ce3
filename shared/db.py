"""The service's door to the database: one SQL function of schema `hub`, one transaction, one round trip.

Functions act for a user through `users.as_user`: the Data API, where row level security decides.

The driver is asyncpg. Measured per call, 16 at once: asyncpg 120 µs of CPU and one round trip with named
statements, 230 and two without, as a transaction pooler needs it; psycopg 190, and 150 ms more to import.
asyncpg's own pool adds 90, for it resets and wraps connections; one that only ever runs single statements
needs neither, so the pool is a list.
"""

import asyncio
import os
import random
import re
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import orjson

from shared import settings
from shared.errors import HubError, TooManyRequests, Unauthorized, Unavailable, Unprocessable

POOL_SIZE = 10
CHECKOUT_TIMEOUT = 2.0
CONNECT_TIMEOUT = 2.0
CALL_TIMEOUT = 4.5
ATTEMPTS = 5

_TRANSACTION_POOLER_PORT = 6543
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Postgres is starting, stopping, full, failing over or out of time: later it will work.
_UNAVAILABLE = re.compile(r"08...|53...|57...|55P03|58...|25006|XX000")


async def call(function: str, /, **named: object) -> Any:
    """Call `hub.<function>` with named arguments; lists and dictionaries travel as jsonb.

    A serialization failure or a deadlock repeats the whole call. Nothing else does: of any other failure only
    the caller knows whether it may be repeated.
    """
    sql = _statement(function, tuple(named))
    values = [
        orjson.dumps(value).decode() if isinstance(value, dict | list) else value for value in named.values()
    ]
    pool = _pool()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer = await pool.fetch_value(sql, values)
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
            if attempt == ATTEMPTS:
                raise Unavailable(code="database_busy") from error
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311
        except asyncpg.PostgresError as error:
            _raise_ours(error)
        else:
            return None if answer is None else orjson.loads(answer)
    raise AssertionError("unreachable")


async def close() -> None:
    """Close this loop's connections."""
    pool = _pools.pop(_here(), None)
    if pool:
        await pool.close()


@lru_cache(maxsize=256)
def _statement(function: str, arguments: tuple[str, ...]) -> str:
    for name in (function, *arguments):
        if not _IDENTIFIER.fullmatch(name):
            raise ValueError(f"not an SQL name of ours: {name!r}")
    named = ", ".join(f"{name} => ${position}" for position, name in enumerate(arguments, start=1))
    return f"select hub.{function}({named})"


def _raise_ours(error: asyncpg.PostgresError) -> NoReturn:
    """Translate what SQL said; `error` stays the cause, for the log."""
    state = error.sqlstate or ""
    if state.startswith("PT") and state[2:].isdigit():
        status = int(state[2:])
        if status == Unauthorized.status:
            raise Unauthorized from error
        if status == TooManyRequests.status:
            raise TooManyRequests(error.hint or "1") from error
        raise HubError(str(error.args[0]), status=status, code=error.detail or "refused") from error
    if state.startswith("23"):
        details = [{"constraint": error.constraint_name or error.column_name or "unnamed"}]
        raise Unprocessable("This would break a rule.", code="constraint_broken", details=details) from error
    if _UNAVAILABLE.fullmatch(state):
        raise Unavailable(code="database_unavailable") from error
    raise HubError from error


class Pool:
    """A few connections of one process and one event loop, opened when needed, the latest used first."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._slots = asyncio.Semaphore(POOL_SIZE)
        self._idle: list[asyncpg.Connection] = []
        # Through a transaction pooler the next statement may reach another server: no named statements.
        pooled = urlsplit(dsn).port == _TRANSACTION_POOLER_PORT
        self._statement_cache_size = 0 if pooled else 100

    async def fetch_value(self, sql: str, values: list[object]) -> Any:
        deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT
        await self._take_slot()
        try:
            connection = self._take_idle() or await self._connect()
            try:
                remaining = deadline - asyncio.get_running_loop().time()
                answer = await connection.fetchval(sql, *values, timeout=remaining)
            except asyncpg.PostgresError:
                # The statement failed, the connection did not, unless the server has closed it.
                self._keep(connection)
                raise
            except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                connection.terminate()
                if isinstance(error, ValueError):  # an argument of ours that fits no SQL type
                    raise
                raise Unavailable(code="database_unavailable") from error
            except BaseException:
                # Cancelled: an answer may still be on its way, and must not meet the next question.
                connection.terminate()
                raise
            self._keep(connection)
            return answer
        finally:
            self._slots.release()

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close(timeout=1)

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(CHECKOUT_TIMEOUT):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Unavailable(code="database_busy") from error

    def _take_idle(self) -> asyncpg.Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _keep(self, connection: asyncpg.Connection) -> None:
        if not connection.is_closed():
            self._idle.append(connection)

    async def _connect(self) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                self._dsn, timeout=CONNECT_TIMEOUT, statement_cache_size=self._statement_cache_size
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(code="database_unavailable") from error


type _Here = tuple[int, asyncio.AbstractEventLoop]

# Keyed by process: a fork must never touch its parent's sockets, not even to close them.
_pools: dict[_Here, Pool] = {}


def _here() -> _Here:
    return os.getpid(), asyncio.get_running_loop()


def _pool() -> Pool:
    here = _here()
    pool = _pools.get(here)
    if pool is None:
        pool = _pools[here] = Pool(settings.load(settings.Database).url)
    return pool
