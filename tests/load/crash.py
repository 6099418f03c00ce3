"""Submissions under fire: every process of the hub is killed again and again while forms arrive, each sent twice.

`bombard` sends and kills, `violations` compares what was answered with what the database holds. Whatever was
answered 2xx must be there, once, with the id that every copy got, and handled once.
"""

import asyncio
import json
import os
import random
import signal
import time
from dataclasses import dataclass, field

from support.hubs import Hub

from load.client import Connection

PATH = "/functions/v1/ingest-prime"


@dataclass
class History:
    """What the senders saw."""

    event_ids: dict[int, list[str]] = field(default_factory=dict)
    contact_ids: dict[int, set[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    database_back_after: list[float] = field(default_factory=list)
    seconds: float = 0.0


def submission(number: int) -> bytes:
    return json.dumps(
        {
            "name": f"Person {number}",
            "email": f"person{number}@example.com",
            "message": "The switchboard smells burnt, please come today.",
            "service": "switchboard",
        }
    ).encode()


async def send(hub: Hub, work: asyncio.Queue[int], history: History) -> None:
    connection = Connection("127.0.0.1", hub.port)
    while True:
        try:
            number = work.get_nowait()
        except asyncio.QueueEmpty:
            connection.close()
            return
        headers = {
            "content-type": "application/json",
            "x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"],
            "idempotency-key": f"crash-{number}",
        }
        for _ in range(400):
            try:
                status, answer = await asyncio.wait_for(
                    connection.post(PATH, headers, submission(number)), 10
                )
            except (ConnectionError, TimeoutError):
                connection.close()
                await asyncio.sleep(0.02)
                continue
            if status == 202:
                history.event_ids.setdefault(number, []).append(answer["event_id"])
                history.contact_ids.setdefault(number, set()).add(answer["contact_id"])
                break
            if status < 500:
                history.refused.append(f"{number}: {status} {answer}")
                break
            await asyncio.sleep(0.05)
        else:
            history.refused.append(f"{number}: never answered")


async def kill(hub: Hub, names: list[str], every: float, history: History, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(every * chance.uniform(0.5, 1.5))
        name = chance.choice(names)
        try:
            os.kill(hub.process_of(name), signal.SIGKILL)
        except ProcessLookupError:
            continue  # it is just being started again
        history.kills[name] = history.kills.get(name, 0) + 1
        if name == "postgres":
            killed = time.monotonic()
            while not hub.database_answers():
                await asyncio.sleep(0.01)
            history.database_back_after.append(time.monotonic() - killed)


async def bombard(
    hub: Hub, submissions: int, names: list[str], every: float = 2.0, connections: int = 16, seed: int = 1
) -> History:
    history = History()
    chance = random.Random(seed)
    numbers = [number for number in range(submissions) for _ in range(2)]
    chance.shuffle(numbers)
    work: asyncio.Queue[int] = asyncio.Queue()
    for number in numbers:
        work.put_nowait(number)
    started = time.monotonic()
    killer = asyncio.create_task(kill(hub, names, every, history, chance))
    await asyncio.gather(*(send(hub, work, history) for _ in range(connections)))
    history.seconds = time.monotonic() - started
    killer.cancel()
    await asyncio.gather(killer, return_exceptions=True)
    return history


UNFINISHED = "select count(*) from public.deliveries where status in ('pending', 'running', 'failed')"


def wait_until_still(hub: Hub, seconds: float = 60) -> bool:
    return bool(hub.until(lambda: hub.rows(UNFINISHED) == [(0,)], seconds))


def violations(hub: Hub, history: History, submissions: int) -> list[str]:
    """Everything that is not as it was answered."""
    found = list(history.refused)

    def check(is_true: bool, what: str) -> None:
        if not is_true:
            found.append(what)

    answered = {number: set(ids) for number, ids in history.event_ids.items()}
    check(len(answered) == submissions, f"{len(answered)} of {submissions} submissions were accepted")
    check(all(len(ids) == 1 for ids in answered.values()), "copies of one submission got different ids")
    check(
        all(len(ids) == 1 for ids in history.contact_ids.values()),
        "copies of one submission got different contacts",
    )

    stored = {str(row[0]) for row in hub.rows("select id from public.events where type = 'form.submitted'")}
    promised = {event for ids in answered.values() for event in ids}
    check(promised <= stored, f"{len(promised - stored)} events were answered and are missing")
    check(stored <= promised, f"{len(stored - promised)} events are stored and nobody was told")

    counts = {
        "contacts": "select count(*) from public.contacts",
        "leads that were scored": "select count(*) from public.leads where score is not null",
        "actions": "select count(*) from public.agent_actions",
        "events acted upon": "select count(distinct event_id) from public.agent_actions",
        "lead.qualified events": "select count(*) from public.events where type = 'lead.qualified'",
        "deliveries done": "select count(*) from public.deliveries where status = 'done'",
    }
    for what, query in counts.items():
        count = hub.rows(query)[0][0]
        check(count == submissions, f"{count} {what} instead of {submissions}")
    return found
