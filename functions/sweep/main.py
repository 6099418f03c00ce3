"""Wake what the database could not: called by a clock outside of it, once a minute.

The database wakes functions itself, by pg_net when something happens and by its sweep every five seconds. Should pg_net
or pg_cron stand still, this still finds each target whose deliveries have been due for ten seconds, and calls it as they
would. In production the clock is Cloud Scheduler; the local stack has one.
"""

import asyncio
from typing import Any

import orjson

from shared import db, log, settings
from shared.callers.hub import hub
from shared.outbound.client import Client, Forbidden, Unreachable
from shared.web.endpoint import Instance, endpoint

# A target drains what waits for it before it answers.
SECONDS = 50.0


@endpoint(
    caller=hub,
    needs=(settings.Database, settings.Functions),
    instance=Instance(timeout=60, concurrency=10),
)
async def sweep(_caller: None) -> dict[str, Any]:
    targets: list[str] = await db.call("overdue_targets")
    if not targets:
        return {"overdue": 0, "woken": 0}
    base = settings.load(settings.Functions).functions_url.rstrip("/")
    key = settings.load(settings.Hub).invoke_secret.split(",")[0].strip()
    async with Client() as client:
        woken = await asyncio.gather(*(_wake(client, base, key, target) for target in targets))
    return {"overdue": len(targets), "woken": sum(woken)}


async def _wake(client: Client, base: str, key: str, target: str) -> bool:
    headers = {"apikey": key, "content-type": "application/json"}
    try:
        answer = await client.post(f"{base}/{target}", orjson.dumps({"target": target}), headers, SECONDS)
    except (Unreachable, Forbidden) as error:
        log.line("not_woken", target=target, error=str(error))
        return False
    return answer.status == 200
