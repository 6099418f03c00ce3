"""What the monitor and the invariants cost over a million events: `python -m load.monitor` (EVENTS=1000000).

A hub of its own is filled by SQL: eight weeks of three sites, each event with its delivery, attempt, receipt and
action, the last hour busier than the rest. Then the run is timed as the function makes it, and the plans of what
took longest are printed.
"""

import os
import sys
import time
from typing import Any

import psycopg
from emulator.state import State
from support.hubs import Hub, running_hub

EVENTS = int(os.environ.get("EVENTS", "1000000"))
LIMIT_MS = 2000


def fill(hub: Hub) -> None:
    """As superuser, and as a replica does: without triggers, for what is planted has happened."""
    with psycopg.connect(State(hub.state).database_url("supabase_admin"), autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "insert into public.contacts (org_id, name) select organizations.id, 'Person ' || n"
            " from public.organizations, generate_series(1, 100000) as n"
        )
        connection.execute(
            "insert into public.leads (org_id, contact_id, home_id, site_id, source)"
            " select contacts.org_id, contacts.id, contacts.id, sites.id, 'site:' || sites.slug"
            " from public.contacts join public.sites on sites.number = 1"
        )
        connection.execute(
            "insert into public.contact_identifiers (org_id, contact_id, home_id, kind, value, strength)"
            " select org_id, id, id, 'email', id || '@example.com', 'strong' from public.contacts"
        )
        connection.execute(
            "create temp table people as select row_number() over () as place, id from public.contacts"
        )
        # Nine of ten over eight weeks, the rest within the last hour.
        connection.execute(f"""
            create temp table planted as
            select n, private.uuid_v7(at) as event, private.uuid_v7(at) as delivery, at,
                   sites.org_id, sites.id as site_id, sites.slug, people.id as contact
            from generate_series(1, {EVENTS}) as n
            cross join lateral (
              select now() - case when n % 10 = 0 then interval '59 minutes' else interval '56 days' end * (n::float / {EVENTS}) as at
            ) as time
            join public.sites on sites.number = 1 + n % 3
            join people on people.place = 1 + n % 100000""")
        connection.execute(
            "insert into public.events (id, org_id, site_id, type, contact_id, source, recorded_at, occurred_at)"
            " select event, org_id, site_id, 'form.submitted', contact, 'site:' || slug, at, at from planted"
        )
        connection.execute(
            "insert into public.deliveries (id, org_id, event_id, subscription_id, status, attempts, run_at, effects_applied_at)"
            " select delivery, planted.org_id, event, subscriptions.id, 'done', 1, at, at"
            " from planted join public.subscriptions on subscriptions.name = 'lead-qualifier'"
        )
        connection.execute(
            "insert into public.delivery_attempts (id, org_id, delivery_id, attempt, outcome, ended_at)"
            " select private.uuid_v7(at), org_id, delivery, 1, case when n % 20 = 0 then 'retry' else 'done' end, at from planted"
        )
        connection.execute(
            "insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at)"
            " select 'site:' || slug, 'key:' || n, org_id, 'x', event, at + interval '60 days' from planted"
        )
        connection.execute(
            "insert into public.agent_actions (org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, decision, outcome, trace_id)"
            " select planted.org_id, agents.id, agents.name, versions.id, delivery, event, contact, 'follow_up', 'self_resolved', md5(n::text)"
            " from planted join public.agents on agents.name = 'lead-qualifier'"
            " join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'"
        )
        connection.execute("vacuum analyze")


def timed(connection: psycopg.Connection, statement: str) -> tuple[float, Any]:
    began = time.perf_counter()
    row = connection.execute(statement).fetchone()
    return (time.perf_counter() - began) * 1000, row and row[0]


def plans(hub: Hub, statement: str, slower_than_ms: int) -> None:
    """The plans of every statement within this one that took so long."""
    with psycopg.connect(State(hub.state).database_url("supabase_admin"), autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: print(notice.message_primary))
        connection.execute("load 'auto_explain'")
        connection.execute(f"set auto_explain.log_min_duration = {slower_than_ms}")
        connection.execute(
            "set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;"
            " set auto_explain.log_timing = off; set client_min_messages = log"
        )
        connection.execute(statement)


def main() -> int:
    with running_hub() as hub:
        began = time.monotonic()
        fill(hub)
        print(f"{EVENTS:,} events planted in {time.monotonic() - began:.0f} s")
        with psycopg.connect(hub.env["ADMIN_DATABASE_URL"], autocommit=True) as connection:
            ms, rows = timed(connection, "select private.roll_up_site_hours()")
            print(f"first roll-up of eight weeks: {ms:.0f} ms, {rows} hours")
            run = "select private.run_checks(org_id, config, null) from public.agent_versions where config ? 'failure_min'"
            times = [timed(connection, run)[0] for _ in range(3)]
        hub.sql("select private.tick_monitors()")
        looked = "select duration_ms, decision from public.agent_actions where agent = 'data-monitor'"
        hub.until(lambda: bool(hub.rows(looked)))
        through_function, decision = hub.rows(looked)[0]
        print(
            f"monitor run: {', '.join(f'{ms:.0f}' for ms in times)} ms in SQL,"
            f" {through_function} ms through the function ({decision}); limit {LIMIT_MS} ms"
        )
        hub.sql("select private.run_invariant(name) from public.invariants")
        checked = hub.rows("select name, last_ms, last_error from public.invariants order by last_ms desc")
        for name, ms, error in checked:
            print(f"  {name:35} {ms:5} ms {error or ''}")
        invariants = sum(ms for _, ms, _ in checked)
        print(f"{len(checked)} invariants: {invariants} ms")
        plans(hub, run, slower_than_ms=50)
        plans(hub, "select private.run_invariant(name) from public.invariants", slower_than_ms=50)
        return int(max(*times, through_function, invariants) > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
