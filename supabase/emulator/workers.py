"""The workers in one process: pg_net sends queued requests, pg_cron runs due jobs, a clock outside of both sweeps."""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psycopg
import uvloop

from emulator import cron, net
from emulator.state import State

RECONNECT_SECONDS = 0.05
WARNING_SECONDS = 5.0
# `supabase db reset` drops the extensions for a moment.
AWAY = (psycopg.OperationalError, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)

log = logging.getLogger("emulator.workers")


async def work(state: State) -> None:
    url = state.database_url("supabase_admin")
    async with asyncio.TaskGroup() as group:
        group.create_task(through_restarts(lambda: send_requests(url)))
        group.create_task(through_restarts(lambda: run_jobs(url)))
        group.create_task(sweep())


async def through_restarts(work: Callable[[], Awaitable[None]]) -> None:
    """Do the work, and begin again when a database that went away comes back."""
    warned = -math.inf
    while True:
        try:
            await work()
        except* AWAY as errors:
            if time.monotonic() - warned > WARNING_SECONDS:
                log.warning("no work without the database: %s", errors.exceptions[0])
                warned = time.monotonic()
        await asyncio.sleep(RECONNECT_SECONDS)


async def send_requests(url: str) -> None:
    async with await connect(url, net.APPLICATION) as connection:
        await net.send_requests(connection)


async def run_jobs(url: str) -> None:
    async with (
        await connect(url, cron.APPLICATION) as notified,
        await connect(url, cron.APPLICATION) as records,
        asyncio.TaskGroup() as runs,
    ):
        await cron.Scheduler(records, url).run(notified, runs)


async def sweep() -> None:
    """Call the function sweep without any help of the database, as Cloud Scheduler does, only oftener."""
    seconds = float(os.environ.get("HEARTBEAT_SECONDS", "10"))
    url, key = f"{os.environ['FUNCTIONS_URL']}/sweep", os.environ["HUB_INVOKE_SECRET"]
    async with httpx.AsyncClient(headers={"apikey": key}, timeout=60, trust_env=False) as client:
        while True:
            await asyncio.sleep(seconds)
            # The gateway may be starting again.
            with contextlib.suppress(httpx.TransportError):
                await client.post(url)


async def connect(url: str, application: str) -> net.Connection:
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, application_name=application, connect_timeout=5
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(work(State(Path(os.environ["STATE_DIR"]))))
