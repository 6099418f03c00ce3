"""Keeps the catalog: read once, again on NOTIFY pgrst, and when a request misses a name."""

import asyncio
import time

from emulator.rest.catalog import Catalog
from emulator.rest.database import Database
from emulator.rest.introspection import TIMEZONES, read_catalog

REREAD_SECONDS = 1.0


class SchemaCache:
    def __init__(self, database: Database, schemas: tuple[str, ...]) -> None:
        self._database = database
        self._schemas = schemas
        self._catalog: Catalog | None = None
        self._is_stale = True
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._timezones: frozenset[str] | None = None

    async def current(self) -> Catalog:
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        if self._catalog is not None and not self._is_stale:
            return self._catalog
        async with self._reading:
            if self._catalog is None or self._is_stale:
                self._catalog = await self._read()
            return self._catalog

    async def newer_than(self, seen: Catalog) -> Catalog:
        """The catalog as the database has it now, for a request that missed a name; read at most once a second."""
        async with self._reading:
            if self._catalog is seen and time.monotonic() - self._read_at >= REREAD_SECONDS:
                self._catalog = await self._read()
            return self._catalog or seen

    async def _read(self) -> Catalog:
        self._is_stale = False
        try:
            async with self._database.connection() as connection:
                catalog = await read_catalog(connection, self._schemas)
        except BaseException:
            self._is_stale = True
            raise
        self._read_at = time.monotonic()
        return catalog

    async def timezones(self) -> frozenset[str]:
        if self._timezones is None:
            async with self._database.connection() as connection:
                cursor = await connection.execute(TIMEZONES)
                self._timezones = frozenset(row[0] for row in await cursor.fetchall())
        return self._timezones

    async def _listen(self) -> None:
        async for message in self._database.notifications():
            if message in ("", "reload schema", "reload config"):
                self._is_stale = True

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
