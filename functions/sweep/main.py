"""Kick each target that the database could not: called by a clock outside of it, once a minute.

The database kicks functions itself, by pg_net when something happens and by its sweep every five seconds. When pg_net
or pg_cron stands still, this function finds each target whose deliveries have been due for ten seconds and kicks it.
On a hosted project the clock is Cloud Scheduler; the local stack has one.
"""

import asyncio
from typing import Any

import orjson

from shared import db, log, settings
from shared.callers.hub import hub
from shared.outbound.client import Client, Forbidden, Unreachable
from shared.web.endpoint import Instance, endpoint

# A target drains the deliveries that wait for it before it answers.
SECONDS = 50.0


@endpoint(
    caller=hub,
    needs=(settings.Database, settings.Functions),
    instance=Instance(timeout=60, concurrency=10),
)
async def sweep(_caller: None) -> dict[str, Any]:
    targets: list[str] = await db.call("overdue_targets")
    if not targets:
        return {"overdue": 0, "kicked": 0}
    base = settings.load(settings.Functions).functions_url.rstrip("/")
    key = settings.load(settings.Hub).invoke_secrets[0]
    async with Client() as client:
        kicked = await asyncio.gather(*(_kick(client, base, key, target) for target in targets))
    return {"overdue": len(targets), "kicked": sum(kicked)}


async def _kick(client: Client, base: str, key: str, target: str) -> bool:
    headers = {"apikey": key, "content-type": "application/json"}
    try:
        answer = await client.post(f"{base}/{target}", orjson.dumps({"target": target}), headers, SECONDS)
    except (Unreachable, Forbidden) as error:
        log.line("not_kicked", target=target, error=str(error))
        return False
    return answer.status == 200
