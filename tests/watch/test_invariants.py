"""Invariants: what must always be so is asked twice a minute, and what is not so is an alert until it is."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.hubs import Hub, running_hub, web

REPLICA = "set session_replication_role = replica; "
OF_TRADES = "(select id from public.organizations where slug = 'trades')"
MONITOR = "(select id from public.agents where name = 'data-monitor')"
FORM = "(select id from public.events where type = 'form.submitted')"

# How each is broken and mended again, in a hub in which one form was sent and qualified.
BREAKS = {
    "events_have_deliveries": (
        f"insert into public.events (org_id, type, source) values ({OF_TRADES}, 'form.submitted', 'planted')",
        "delete from public.events where source = 'planted'",
    ),
    "leases_end": (
        "update public.deliveries set status = 'running', lease_token = gen_random_uuid(), leased_until = now() - interval '3 minutes'",
        "update public.deliveries set status = 'done', lease_token = null",
    ),
    "nothing_waits_for_hours": (
        "update public.deliveries set status = 'failed', run_at = now() - interval '3 hours'",
        "update public.deliveries set status = 'done', lease_token = null",
    ),
    "actions_have_causes": (
        "update public.deliveries set effects_applied_at = null",
        "update public.deliveries set effects_applied_at = now()",
    ),
    "scores_have_causes": (
        "update public.leads set scored_by = gen_random_uuid()",
        f"update public.leads set scored_by = {FORM}",
    ),
    "memories_have_causes": (
        "update public.agent_memory set source_event_id = gen_random_uuid()",
        f"update public.agent_memory set source_event_id = {FORM}",
    ),
    "deliveries_agree_with_events": (
        "insert into public.deliveries (org_id, event_id, subscription_id, status, last_error)"
        " select org_id, gen_random_uuid(), id, 'done', 'planted' from public.subscriptions limit 1",
        "delete from public.deliveries where last_error = 'planted'",
    ),
    "receipts_point_to_events": (
        "update public.receipts set event_id = gen_random_uuid()",
        f"update public.receipts set event_id = {FORM}",
    ),
    "enquiries_have_leads": (
        "update public.leads set site_id = (select id from public.sites where slug = 'akf')",
        "update public.leads set site_id = (select id from public.sites where slug = 'prime')",
    ),
    "what_moves_is_with_its_contact": (
        f"with other as (insert into public.contacts (org_id) values ({OF_TRADES}) returning id)"
        " update public.contact_identifiers set contact_id = other.id from other",
        "update public.contact_identifiers set contact_id = home_id",
    ),
    "subscribed_agents_are_published": (
        f"update public.agent_versions set status = 'archived' where agent_id = {MONITOR}",
        f"update public.agent_versions set status = 'published' where agent_id = {MONITOR}",
    ),
    "audit_log_ends_at_its_head": (
        "update private.audit_heads set number = number + 1",
        "update private.audit_heads set number = number - 1",
    ),
    "monitors_run": (
        "create or replace function private.last_monitored(org_id uuid default null) returns timestamptz language sql"
        " as $$ select now() - interval '21 minutes' $$",
        "create or replace function private.last_monitored(org_id uuid default null) returns timestamptz language sql"
        " as $$ select now() $$",
    ),
}


@pytest.fixture(scope="module")
def kept_hub(prepared_state: Path) -> Iterator[Hub]:
    """With a form that was qualified, and a clock that stands: only what a test does happens."""
    with running_hub(prepared_state) as hub:
        hub.submit("prime", {"name": "Jo", "email": "jo@example.com", "message": "A switchboard, please."})
        assert hub.until(lambda: hub.rows("select count(*) from public.agent_memory")[0][0] > 0)
        hub.sql("select cron.alter_job(jobid, active => false) from cron.job")
        assert hub.until(
            lambda: (
                hub.rows("select count(*) from cron.job_run_details where status in ('starting', 'running')")
                == [(0,)]
            )
        )
        # An event is asked about only of subscriptions that were there a minute before.
        hub.as_superuser(REPLICA + "update public.subscriptions set updated_at = now() - interval '1 hour'")
        yield hub


def run(hub: Hub, name: str) -> int:
    return int(hub.rows("select private.run_invariant(%s)", name)[0][0])


def is_open(hub: Hub, name: str, kind: str = "invariant") -> bool:
    rows = hub.rows(
        "select organizations.slug from public.alerts join public.organizations on organizations.id = org_id"
        " where kind = %s and subject = %s and alerts.closed_at is null",
        kind,
        name,
    )
    assert rows in ([], [("trades",)])
    return bool(rows)


def add(hub: Hub, name: str, sql: str, pauses: str | None = None) -> None:
    hub.sql(
        "insert into public.invariants (name, description, sql, pauses) values (%s, 'Made up.', %s, %s)",
        name,
        sql,
        pauses,
    )


def test_every_invariant_that_is_shipped_is_broken_here(kept_hub: Hub) -> None:
    shipped = kept_hub.rows("select name from public.invariants")

    assert {name for (name,) in shipped} == set(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_an_alert_until_it_is_mended(kept_hub: Hub, name: str) -> None:
    breaks, mends = BREAKS[name]
    assert (run(kept_hub, name), is_open(kept_hub, name)) == (0, False)

    kept_hub.as_superuser(REPLICA + breaks)
    found = run(kept_hub, name)
    was_open = is_open(kept_hub, name)
    kept_hub.as_superuser(REPLICA + mends)

    assert (found > 0, was_open) == (True, True)
    assert (run(kept_hub, name), is_open(kept_hub, name)) == (0, False)


def test_a_merge_and_its_undoing_break_none(own_hub: Hub) -> None:
    for domain in ("com", "org"):
        own_hub.submit("prime", {"name": "Jo", "email": f"jo@example.{domain}"})
    jo, also_jo = own_hub.rows(
        "select contact_id from public.contact_identifiers where value like 'jo@%' order by id"
    )

    merged = own_hub.rpc("merge_contacts", winner=str(jo[0]), loser=str(also_jo[0]), reason="Rang them.")
    after_merge = [run(own_hub, name) for name in BREAKS]
    undone = own_hub.rpc("unmerge_contacts", merge_id=merged.json()["merge_id"])
    after_undoing = [run(own_hub, name) for name in BREAKS]

    assert (merged.status_code, undone.status_code) == (200, 200)
    assert (sum(after_merge), sum(after_undoing)) == (0, 0)


def test_a_false_invariant_is_an_alert_within_a_minute(own_hub: Hub) -> None:
    add(own_hub, "pigs_fly", f"select {OF_TRADES} as org_id, 'a pig stands' as found")

    assert own_hub.rows("select schedule from cron.job where jobname = 'run_invariants'") == [("30 seconds",)]
    own_hub.run_job("run_invariants")

    assert own_hub.until(lambda: is_open(own_hub, "pigs_fly"), 30)
    told = own_hub.rows("select data ->> 'message' from public.events where type = 'alert.opened'")
    assert told == [("Made up. Not so: a pig stands.",)]
    assert own_hub.rows("select count(*) from public.invariants where last_error is not null") == [(0,)]

    own_hub.sql("update public.invariants set enabled = false where name = 'pigs_fly'")

    assert not is_open(own_hub, "pigs_fly")
    command = own_hub.rows("select command from cron.job where jobname = 'run_invariants'")[0][0]
    assert "pigs_fly" not in command


def test_one_that_fails_or_takes_too_long_stops_no_other(own_hub: Hub) -> None:
    add(own_hub, "a_slow", "select null::uuid as org_id, pg_sleep(60)::text as found")
    add(own_hub, "b_wrong", "select null::uuid as org_id, (1 / 0)::text as found")
    add(own_hub, "c_after", f"select {OF_TRADES} as org_id, 'so' as found")

    own_hub.run_job("run_invariants")

    assert own_hub.until(lambda: is_open(own_hub, "c_after"), 30)
    assert is_open(own_hub, "a_slow", "invariant_unchecked")
    assert is_open(own_hub, "b_wrong", "invariant_unchecked")
    errors = own_hub.rows(
        "select name, last_error from public.invariants where last_error is not null order by 1"
    )
    assert errors == [("a_slow", "it took too long"), ("b_wrong", "22012 division by zero")]


def test_it_pauses_the_agent_it_names_once(kept_hub: Hub) -> None:
    add(kept_hub, "never_so", f"select {OF_TRADES} as org_id, 'so' as found", pauses="lead-qualifier")
    status = "select status::text from public.agents where name = 'lead-qualifier'"
    try:
        run(kept_hub, "never_so")
        assert kept_hub.rows(status) == [("paused",)]

        # A person has looked at it and lets it run.
        kept_hub.sql("update public.agents set status = 'idle' where name = 'lead-qualifier'")
        run(kept_hub, "never_so")
        assert kept_hub.rows(status) == [("idle",)]
        said = "The agent lead-qualifier was paused; to let it run again, set its status to idle in agents."
        assert (
            kept_hub.rows(
                "select message from public.alerts where subject = 'never_so' union all"
                " select data ->> 'message' from public.events where data ->> 'subject' = 'never_so'"
            )
            == [(f"Made up. Not so: so. {said}",)] * 2
        )
    finally:
        kept_hub.sql("delete from public.invariants where name = 'never_so'")
    assert not is_open(kept_hub, "never_so")


def test_a_violation_is_of_its_organization_or_of_all(kept_hub: Hub) -> None:
    other = kept_hub.rows(
        "insert into public.organizations (slug, name) values ('other', 'Other') returning id"
    )[0][0]
    opened = "select slug from public.alerts join public.organizations on organizations.id = org_id where subject = %s order by 1"
    try:
        add(kept_hub, "of_one", f"select '{other}'::uuid as org_id, 'so' as found")
        add(kept_hub, "of_all", "select null::uuid as org_id, 'so' as found")
        run(kept_hub, "of_one")
        run(kept_hub, "of_all")

        assert kept_hub.rows(opened, "of_one") == [("other",)]
        assert kept_hub.rows(opened, "of_all") == [("other",), ("trades",)]
    finally:
        kept_hub.sql("delete from public.invariants where name in ('of_one', 'of_all')")


@pytest.mark.parametrize(
    "attempt",
    [
        "select null::uuid as org_id, net.http_post('http://127.0.0.1:1')::text as found",
        "select null::uuid as org_id, nextval('private.site_turns_aside_slot_seq')::text as found",
        "select null::uuid as org_id, vault.create_secret('x')::text as found",
        "select null::uuid as org_id, decrypted_secret as found from vault.decrypted_secrets",
        "select null::uuid as org_id, encode(sha256, 'hex') as found from private.site_secrets",
        "select id as org_id, email as found from auth.users",
        "with gone as (delete from public.leads returning org_id) select org_id, 'x' as found from gone",
        "select null::uuid as org_id, set_config('role', 'postgres', false) || private.add_webhook_secret(gen_random_uuid()) as found",
        "select null::uuid as org_id, set_config('transaction_read_only', 'off', true) as found",
        "select null::uuid as org_id, 'x' as found) as a; delete from public.leads; select from (select 1",
    ],
)
def test_it_reads_and_can_do_nothing_else(kept_hub: Hub, attempt: str) -> None:
    leads = "select count(*), (select count(*) from vault.secrets), (select count(*) from net.http_request_queue) from public.leads"
    before = kept_hub.rows(leads)
    add(kept_hub, "attempt", attempt)
    try:
        kept_hub.sql("select private.run_invariant('attempt')")
        error = kept_hub.rows("select last_error from public.invariants where name = 'attempt'")[0][0]
    finally:
        kept_hub.sql("delete from public.invariants where name = 'attempt'")

    assert error is not None
    assert error.split()[0] in ("42501", "25006", "25001", "0A000", "42601"), error
    assert kept_hub.rows(leads) == before
    with psycopg.connect(kept_hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute("select private.run_invariant('leases_end')")
        assert connection.execute(
            "select current_user, current_setting('transaction_read_only')"
        ).fetchone() == (
            "postgres",
            "off",
        )


@pytest.mark.parametrize("who", ["ADMIN", "service_role"])
def test_nobody_writes_one_through_rest(kept_hub: Hub, who: str) -> None:
    key = kept_hub.env["SUPABASE_SECRET_KEY" if who == "service_role" else "SUPABASE_PUBLISHABLE_KEY"]
    headers = {"apikey": key}
    if who != "service_role":
        headers["authorization"] = f"Bearer {kept_hub.token(who)}"
    url = f"{kept_hub.url}/rest/v1/invariants"
    row = {"name": "mine", "description": "x", "sql": "select 1"}

    answers = [
        web.post(url, json=row, headers=headers),
        web.patch(f"{url}?name=eq.leases_end", json={"sql": "select 1"}, headers=headers),
        web.delete(f"{url}?name=eq.leases_end", headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert len(web.get(url, headers=headers).json()) == len(BREAKS)
