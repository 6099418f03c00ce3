"""What a replay costs: ten thousand done deliveries go back in line and one function instance takes them all.

The subscriber does nothing, so this is the price of the claim, the lease, the settling and the attempt's row.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from support.hubs import Hub, running_hub

from shared import db
from shared.work.drain import LINGER, drain
from shared.work.envelopes import Delivery
from shared.work.outcomes import Done

ROOT = Path(__file__).parents[2]
EVENTS = 10_000


async def do_nothing(_delivery: Delivery) -> Done:
    return Done()


async def work() -> None:
    """The function's part, in a process of its own: its log goes where a deployed one's goes."""
    done = 0
    started = time.perf_counter()
    while done < EVENTS:
        done += (await drain("nothing", do_nothing))["done"]
    print(time.perf_counter() - started - sum(LINGER), file=sys.stderr)
    await db.close()


def plant(hub: Hub) -> None:
    """Events for a subscriber that the hub itself cannot reach, so that whoever drains has them all."""
    hub.sql("select net.set_faults(lose => 1.0)")
    hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target)"
        " select id, 'nothing', '{bench.happened}', 'nothing' from public.organizations"
    )
    hub.sql(
        "insert into public.contacts (org_id, name) select id, 'P' from public.organizations, generate_series(1, 2000)"
    )
    hub.sql(
        "insert into public.events (org_id, type, contact_id, data) select org_id, 'bench.happened', id, '{\"message\": \"as usual\"}'"
        " from public.contacts, generate_series(1, %s / 2000)",
        EVENTS,
    )
    hub.sql("update public.deliveries set status = 'done' where status <> 'done'")
    hub.sql("vacuum analyze public.deliveries")


def measure(hub: Hub) -> str:
    plant(hub)
    replay = (
        "select private.replay_deliveries(id, '{\"statuses\": [\"done\"]}', 'nothing', false)"
        " from public.organizations"
    )
    started = time.perf_counter()
    matched = 0
    while matched < EVENTS:
        [(replayed,)] = hub.rows(replay)
        matched += replayed["matched"]
    back_in_line = time.perf_counter() - started
    instance = subprocess.run(
        [sys.executable, "-c", "import uvloop; from load import replay; uvloop.run(replay.work())"],
        env={
            **os.environ,
            "DATABASE_URL": hub.env["DATABASE_URL"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'supabase'}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = float(instance.stderr)
    assert hub.rows("select count(*) from public.deliveries where status <> 'done'") == [(0,)]
    return (
        f"replay of {EVENTS:,}: back in line in {back_in_line:.2f} s, done in {seconds:.2f} s,"
        f" {EVENTS / seconds:,.0f} deliveries/s through one instance"
    )


if __name__ == "__main__":
    with running_hub() as hub:
        print(measure(hub))
