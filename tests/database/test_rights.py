"""Rights in hub and private: users reach what a policy, a view or a function of public needs there, and nothing else."""

import re
from pathlib import Path

import pytest
from emulator import schemas
from emulator.scratch import Database, Server

PROJECT = Path(__file__).parents[2] / "supabase"
API_ROLES = ("anon", "authenticated", "service_role")
RELATIONS = """
  select c.oid::regclass::text, role
  from pg_class c cross join unnest(%s::text[]) as role
  where c.relnamespace in ('hub'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
    and case c.relkind when 'S' then has_sequence_privilege(role, c.oid, 'usage,select,update')
        else has_any_column_privilege(role, c.oid, 'select,insert,update,references')
             or has_table_privilege(role, c.oid, 'delete,truncate,trigger,maintain') end
"""
FUNCTIONS = """
  select p.pronamespace::regnamespace::text || '.' || p.proname, role, p.prosecdef, p.prosrc
  from pg_proc p cross join unnest(%s::text[]) as role
  where p.pronamespace in ('hub'::regnamespace, 'private'::regnamespace) and has_function_privilege(role, p.oid, 'execute')
"""
# What is read as the person who asks, or checked for what they write.
ASKED_AS_THE_CALLER = """
  select prosrc from pg_proc where pronamespace = 'public'::regnamespace and not prosecdef
  union all select definition from pg_views where schemaname = 'public'
  union all select coalesce(qual, '') || coalesce(with_check, '') from pg_policies where schemaname = 'public'
  union all select pg_get_constraintdef(oid) from pg_constraint where connamespace = 'public'::regnamespace
  union all select pg_get_expr(adbin, adrelid) from pg_attrdef
"""
NAMED = re.compile(r"\b(?:hub|private)\.\w+")
# A trigger's own function is not asked for a right, but what that calls as the caller is.
TRIGGERS = "select prosrc from pg_proc where prorettype = 'trigger'::regtype and not prosecdef and pronamespace = 'private'::regnamespace"
ASKS_WHO_MAY = re.compile(
    r"private\.(my_orgs|caller_orgs|permit|own_webhook|agent_named|my_assigned_contacts)\("
    r"|memberships\.user_id = \(select auth\.uid\(\)\)"
)


@pytest.fixture(scope="module")
def declared(server: Server) -> Database:
    database = server.fresh_database()
    schemas.load(database.url(), PROJECT)
    return database


def needless_rights(database: Database) -> set[tuple[str, str]]:
    """What an API role may use in hub or private, though nothing of public needs it."""
    granted = database.rows(FUNCTIONS, list(API_ROLES))
    bodies = {name: body for name, _, is_definer, body in granted if not is_definer}
    bodies |= dict(
        database.rows(
            "select schemaname || '.' || viewname, definition from pg_views where schemaname = 'private'"
        )
    )
    needed: set[str] = set()
    texts = [text for (text,) in database.rows(f"{ASKED_AS_THE_CALLER} union all {TRIGGERS}")]
    while texts:
        new = set(NAMED.findall(texts.pop())) - needed
        needed |= new
        # What runs as its owner asks for nothing in the caller's name.
        texts += [bodies[name] for name in new if name in bodies]
    may_use = {(name, role) for name, role, *_ in granted} | set(database.rows(RELATIONS, list(API_ROLES)))
    schemas_used = database.rows(
        "select schema, role from unnest('{hub,private}'::text[]) as schema, unnest(%s::text[]) as role"
        " where has_schema_privilege(role, schema, 'usage') and (schema, role) not in (('private', 'authenticated'), ('private', 'service_role'))",
        list(API_ROLES),
    )
    return {(name, role) for name, role in may_use if name not in needed or role == "anon"} | set(
        schemas_used
    )


def test_people_may_use_in_hub_and_private_what_public_needs_and_nothing_else(declared: Database) -> None:
    assert needless_rights(declared) == set()


def test_what_runs_as_its_owner_for_people_asks_who_they_are(declared: Database) -> None:
    unasked = {
        name
        for name, role, is_definer, body in declared.rows(FUNCTIONS, ["authenticated"])
        if is_definer and not ASKS_WHO_MAY.search(body)
    }

    assert unasked == set()


@pytest.mark.parametrize(
    "grant",
    [
        "grant execute on function private.merge_contacts to authenticated",
        "grant execute on function hub.record_submission to service_role",
        "grant execute on function private.new_site_secret to anon",
        "grant select on private.site_secrets to service_role",
        "grant update (poured) on private.site_turns to authenticated",
        "grant usage on sequence private.site_turns_aside_slot_seq to authenticated",
        "grant usage on schema hub to authenticated",
        "grant usage on schema private to anon",
    ],
)
def test_a_right_too_many_is_noticed(server: Server, grant: str) -> None:
    database = server.fresh_database()
    schemas.load(database.url(), PROJECT)
    database.rows(grant)

    assert len(needless_rights(database)) >= 1
