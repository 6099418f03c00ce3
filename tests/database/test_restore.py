"""Restore: a dump of a hub's database, put into an empty server, is that hub again."""

import os
import subprocess
from typing import Any

import psycopg
from emulator.scratch import Database, Server
from emulator.state import State
from support.hubs import Hub, postgres_binary, web

DESCRIBED = {
    "policies": "select schemaname, tablename, policyname, cmd, roles::text, qual, with_check from pg_policies",
    "grants": "select oid::regclass::text, relacl::text from pg_class where relnamespace::regnamespace::text in ('public', 'private')",
    "functions": "select oid::regprocedure::text, proacl::text, prosecdef from pg_proc"
    " where pronamespace::regnamespace::text in ('public', 'hub', 'private')",
    "triggers": "select tgrelid::regclass::text, tgname, tgfoid::regproc::text, tgenabled from pg_trigger where not tgisinternal",
    "constraints": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
    " where connamespace::regnamespace::text in ('public', 'private')",
    "indexes": "select indexname, indexdef from pg_indexes where schemaname in ('public', 'private')",
    "schedules": "select jobname, schedule, command, username, active from cron.job",
}


def described(rows: Any) -> dict[str, list[tuple[Any, ...]]]:
    tables = [name for (name,) in rows("select tablename from pg_tables where schemaname = 'public'")]
    counts = {
        name: rows(f"select count(*), md5(string_agg(t::text, '' order by t::text)) from public.{name} as t")
        for name in tables
    }
    return counts | {what: sorted(rows(query), key=str) for what, query in DESCRIBED.items()}


def test_a_dump_restored_into_an_empty_server_is_the_same_hub(own_hub: Hub, server: Server) -> None:
    headers = {"x-webhook-secret": own_hub.env["PRIME_WEBHOOK_SECRET"]}
    for number in range(5):
        form = {"email": f"person{number}@example.com", "message": "please call"}
        assert (
            web.post(f"{own_hub.url}/functions/v1/ingest-prime", json=form, headers=headers).status_code
            == 202
        )
    assert own_hub.until(
        lambda: own_hub.rows("select count(*) from public.deliveries where status = 'done'") == [(5,)]
    )
    target = server.empty_database()
    for role in ("hub_service login", "hub_reader bypassrls"):
        if not target.rows(
            f"select 1 from pg_roles where rolname = '{role.split()[0]}'", role="supabase_admin"
        ):
            target.rows(f"create role {role}", role="supabase_admin")
    source = State(own_hub.state).database_url("supabase_admin")

    own_hub.sql("select cron.alter_job(jobid, active => false) from cron.job")
    dump = subprocess.run(
        [postgres_binary("pg_dump"), source],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    restored = subprocess.run(
        [postgres_binary("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", target.url("supabase_admin")],
        input=dump.stdout,
        capture_output=True,
    )

    assert restored.returncode == 0, restored.stderr.decode()[-2000:]
    assert described(lambda query: target.rows(query, role="supabase_admin")) == described(
        lambda query: Database(State(own_hub.state), "postgres").rows(query, role="supabase_admin")
    )
    with psycopg.connect(target.url("postgres"), autocommit=True) as connection:
        connection.execute(
            "insert into public.events (org_id, type) select id, 'form.submitted' from public.organizations"
        )
        assert connection.execute(
            "select count(*) from public.deliveries where status = 'pending'"
        ).fetchone() == (1,)
