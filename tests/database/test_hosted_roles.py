"""The new database is as strict as a hosted project: what fails there fails here."""

import psycopg
import pytest
from emulator.scratch import Database

API_ROLES = ("anon", "authenticated", "service_role")


def test_postgres_is_no_superuser_and_bypasses_row_security(database: Database) -> None:
    assert database.rows(
        "select rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication from pg_roles where rolname = 'postgres'"
    ) == [(False, True, True, True, True)]


@pytest.mark.parametrize(
    "statement",
    [
        "create table auth.mine (id int)",
        "alter table auth.users add column mine int",
        "create index on auth.users (email)",
        "drop table storage.objects",
        "create event trigger mine on ddl_command_end execute function extensions.pgrst_ddl_watch()",
        "alter system set fsync = off",
        "set role supabase_admin",
        "set session_replication_role = replica",
        "create role mine superuser",
        "create publication mine for all tables",
        "copy (select 1) to '/tmp/mine'",
        "create extension dblink",
    ],
)
def test_what_postgres_may_not_do_on_hosted_it_may_not_do_here(database: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.rows(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "create table public.mine (id uuid references auth.users (id) on delete cascade)",
        "create role mine_bypass bypassrls; drop role mine_bypass",
        "alter role anon set statement_timeout = '3s'",
        "create schema mine",
        "create extension citext with schema extensions",
        "create publication mine",
        "create extension pg_net with schema extensions",
        "create extension pg_cron with schema extensions",
        "create extension if not exists supabase_vault cascade",
    ],
)
def test_what_a_migration_may_do_on_hosted_it_may_do_here(database: Database, statement: str) -> None:
    database.rows(statement)


def test_new_tables_come_without_rights_to_their_rows(database: Database) -> None:
    database.rows("create table public.fresh (id serial)")

    for role in API_ROLES:
        rights = database.rows(
            "select right_ from unnest('{select,insert,update,delete,truncate,references,trigger,maintain}'::text[]) right_"
            " where has_table_privilege(%s, 'public.fresh', right_)",
            role,
        )
        # What the change of 2026 has left behind, and row level security does not limit.
        assert [right for (right,) in rights] == ["truncate", "references", "trigger", "maintain"]
        assert database.rows(
            "select has_sequence_privilege(%s, 'public.fresh_id_seq', 'usage'),"
            " has_sequence_privilege(%s, 'public.fresh_id_seq', 'update')",
            role,
            role,
        ) == [(False, True)]


def test_new_functions_are_open_to_everybody_until_somebody_revokes(database: Database) -> None:
    database.rows("create function public.fresh() returns int language sql as 'select 1'")

    assert database.rows("select has_function_privilege('anon', 'public.fresh()', 'execute')") == [(True,)]


@pytest.mark.parametrize(
    ("role", "setting"),
    [
        ("anon", "statement_timeout=3s"),
        ("authenticated", "statement_timeout=8s"),
        ("authenticator", "lock_timeout=8s"),
    ],
)
def test_roles_of_the_api_have_their_limits(database: Database, role: str, setting: str) -> None:
    [(settings,)] = database.rows("select rolconfig from pg_roles where rolname = %s", role)

    assert setting in settings


def test_claims_are_read_from_the_request(database: Database) -> None:
    with psycopg.connect(database.url()) as connection:
        claims = '{"sub": "00000000-0000-7000-8000-000000000001", "role": "authenticated", "email": "a@example.com"}'
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        seen = connection.execute(
            "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'role'"
        ).fetchone()
        connection.rollback()
        # A setting that was local to an earlier transaction reads as an empty string.
        after = connection.execute("select auth.uid(), auth.role(), auth.jwt()").fetchone()

    assert seen == ("00000000-0000-7000-8000-000000000001", "authenticated", "a@example.com", "authenticated")
    assert after == (None, None, None)


def test_a_broadcast_is_a_row_and_its_failure_only_a_warning(database: Database) -> None:
    database.rows("select realtime.send('{\"n\": 1}', 'made', 'room:1')")
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("set role anon")
        connection.execute("select realtime.send('{}', 'made', 'room:1')")

    assert database.rows("select topic, event, private, payload ->> 'n' from realtime.messages") == [
        ("room:1", "made", True, "1")
    ]


def test_stored_objects_are_not_deleted_by_sql(database: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Use the Storage API"):
        database.rows("delete from storage.objects")
