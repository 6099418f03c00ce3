"""Tenancy: every table, every role, every verb, over REST, with a second organization to reach for."""

import json
import uuid
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import pytest
from emulator.state import State
from emulator.tokens import Tokens
from support.hubs import Hub
from support.recorded import submission

MEMBERS = {"admin", "operator", "closer", "viewer"}
STAFF = {"admin", "operator", "viewer"}

# Who of an organization sees rows of its tables; nobody ever sees another organization's.
READERS = {
    "organizations": MEMBERS,
    "memberships": MEMBERS,
    "role_permissions": MEMBERS,
    "event_types": MEMBERS,
    "system_controls": MEMBERS,
    "sites": MEMBERS,
    "agents": MEMBERS,
    "agent_versions": MEMBERS,
    "agent_deployments": MEMBERS,
    "agent_memory": STAFF,
    "credit_accounts": STAFF,
    "decision_credits": STAFF,
    "outcomes": STAFF,
    "agent_scorecards": MEMBERS,
    "agent_actions": MEMBERS,  # a closer: those of the leads assigned to them
    "contacts": MEMBERS,
    "contact_identifiers": MEMBERS,
    "leads": MEMBERS,
    "events": MEMBERS,
    "contact_facts": MEMBERS,
    "golden_contacts": MEMBERS,
    "customers": MEMBERS,
    "cross_sell_events": MEMBERS,
    "suppressions": MEMBERS,
    "merge_candidates": STAFF,
    "merge_queue": STAFF,
    "contact_merges": STAFF,
    "receipts": STAFF,
    "refusals": STAFF,
    "subscriptions": STAFF,
    "deliveries": STAFF,
    "delivery_attempts": STAFF,
    "replays": STAFF,
    "alerts": STAFF,
    "invariants": STAFF,
    "pull_sources": STAFF,
    "pull_failures": STAFF,
    "audit_log": {"admin"},
}
SHARED = {"role_permissions", "event_types", "system_controls", "invariants"}

# Who may change which columns; nobody inserts or deletes through REST.
WRITERS = {
    "organizations": (
        {"admin"},
        {"name", "time_zone", "locale", "phone_region", "paused", "settings", "alert_every"},
    ),
    "sites": (
        {"admin"},
        {
            "name",
            "url",
            "purpose",
            "data_types",
            "connection_method",
            "trigger",
            "time_zone",
            "business_hours",
        }
        | {"phone_region", "allowed_origins", "quiet_alert_after", "enabled"}
        | {"max_per_second", "max_per_second_from_pages", "max_per_minute_per_address"},
    ),
    "contacts": ({"admin", "operator"}, {"name", "language", "time_zone"}),
    "leads": ({"admin", "operator", "closer"}, {"stage", "assigned_to", "next_step"}),
    "agents": ({"admin", "operator"}, {"status", "autonomy"}),
    "subscriptions": ({"admin"}, {"event_types", "paused", "max_attempts", "retry_base"}),
    "pull_sources": ({"admin"}, {"every", "enabled"}),
    "pull_failures": ({"admin", "operator"}, {"status"}),
}

FILL = """
with person as (
  insert into auth.users (id, email)
  select gen_random_uuid(), role || '@' || %(org)s || '.example' from unnest(enum_range(null::public.member_role)) as role
  returning id, split_part(email, '@', 1) as role
), org as (
  insert into public.organizations (slug, name) values (%(org)s, %(org)s) returning id
), site as (
  insert into public.sites (org_id, number, slug, name, url)
  select id, 1, %(org)s, 'Rival', 'https://rival.example' from org returning org_id, id
), agent as (
  insert into public.agents (org_id, kind, name)
  select id, 'lead_qualifier', 'qualifier' from org returning org_id, id
), version as (
  insert into public.agent_versions (org_id, agent_id, version, config)
  select org_id, id, 1, '{}' from agent
), subscription as (
  insert into public.subscriptions (org_id, name, event_types, target, agent_id)
  select org_id, 'qualifier', '{form.submitted}', %(org)s || '-qualifier', id from agent
), pulled as (
  insert into public.pull_sources (org_id, site_id, name, url, enabled)
  select org_id, id, 'list', 'https://rival.example/list', false from site returning org_id, id
), unread as (
  insert into public.pull_failures (org_id, source_id, key, item, reason)
  select org_id, id, '1', '{}', 'no address' from pulled
)
insert into public.memberships (org_id, user_id, role)
select org.id, person.id, person.role::public.member_role from org cross join person
"""


FOLLOWED = """
with contact as (select contact_id as id from public.leads where org_id = %(org)s and assigned_to = %(closer)s),
other as (insert into public.contacts (org_id, name) values (%(org)s, 'Jo') returning id),
site as (
  insert into public.sites (org_id, number, slug, name, url) values (%(org)s, 2, %(slug)s, 'Rival', 'https://rival.example') returning id),
lead as (
  insert into public.leads (org_id, contact_id, home_id, site_id, source, stage, assigned_to)
  select %(org)s, contact.id, contact.id, site.id, 'test', 'won', %(closer)s from contact cross join site),
opt_out as (
  insert into public.suppressions (org_id, contact_id, reason) select %(org)s, contact.id, 'STOP' from contact)
insert into public.contact_merges (org_id, winner_id, loser_id, reason, undone_at)
select %(org)s, contact.id, other.id, 'test', now() from contact cross join other
"""


class Tenant:
    """An organization with rows in every table, and its people's tokens."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.name = name
        hub.sql(FILL, org=name)
        self.id = hub.rows("select id from public.organizations where slug = %s", name)[0][0]
        hub.sql("select private.publish_version(id, 1) from public.agents where org_id = %s", self.id)
        secret = hub.rows("select private.set_site_secret(%s, %s)", name, f"{name}-secret-0123456789")[0][0]
        hub.sql("select hub.count_refusals(%s)", json.dumps([{"site": name, "reason": "secret", "count": 1}]))
        for person in ("Jo", "Al"):
            hub.sql(
                "select hub.record_submission(%s, %s)",
                secret,
                submission({"name": person, "phone": "+64211112222"}),
            )
        effects = {
            "action": {"decision": "score", "outcome": "self_resolved"},
            "lead": {"score": 80, "reasons": ["asked"], "next_step": "ring"},
            "memory": [{"key": "service", "value": "wiring"}],
        }
        hub.sql(
            "select hub.settle_deliveries(jsonb_agg(jsonb_build_object('id', held ->> 'id', 'lease_token', held ->> 'lease_token',"
            " 'outcome', 'done', 'effects', %s::jsonb)))"
            " from jsonb_array_elements(hub.claim_deliveries(%s, 1, 30)) as held",
            json.dumps(effects),
            f"{name}-qualifier",
        )
        hub.sql(
            "select private.mark_dead(id, 'test') from public.deliveries where org_id = %s and status = 'pending'",
            self.id,
        )
        hub.sql("select private.rehearse_events(%s, '{}', 'qualifier', 1, false)", self.id)
        hub.sql(
            "insert into public.decision_credits (org_id, amount, reason) values (%s, 10, 'test')", self.id
        )
        hub.sql("update public.leads set stage = 'won' where org_id = %s and score is not null", self.id)
        people = dict(
            hub.rows("select role::text, user_id from public.memberships where org_id = %s", self.id)
        )
        hub.sql(
            "update public.leads set assigned_to = %s where org_id = %s and score is not null",
            people["closer"],
            self.id,
        )
        keys = State(hub.state).keys
        tokens = Tokens(keys, hub.url)
        # The closer's contact becomes a customer known at two sites, who opted out and took another contact in.
        hub.sql(FOLLOWED, org=self.id, slug=f"{name}-2", closer=people["closer"])
        self.headers = {
            role: {
                "apikey": keys.publishable_key,
                "authorization": "Bearer " + tokens.issue({"sub": str(user), "role": "authenticated"}),
            }
            for role, user in people.items()
        }


@pytest.fixture(scope="module")
def tenants(hub: Hub) -> Iterator[tuple[Tenant, Tenant]]:
    # What changes here shall be what somebody changed.
    switch = "select cron.alter_job(jobid, active => %s) from cron.job where jobname in ('tick_monitors', 'watch', 'run_invariants')"
    hub.sql(switch, False)
    yield Tenant(hub, "rivals-a"), Tenant(hub, "rivals-b")
    hub.sql(switch, True)


@pytest.fixture(scope="module")
def rest(hub: Hub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{hub.url}/rest/v1", timeout=30) as client:
        yield client


def organization_of(table: str, row: dict[str, Any]) -> str:
    return str(row["id"] if table == "organizations" else row["org_id"])


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code in (400, 401, 403)


def fingerprint(hub: Hub) -> dict[str, Any]:
    """What stands in every table, so that no attempt leaves a trace unseen."""
    return {
        table: hub.rows(
            f"select count(*), md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from public.{table} as t"
        )
        for table in READERS
    }


def test_the_matrix_names_every_table(hub: Hub) -> None:
    tables = hub.rows(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')"
    )

    assert {name for (name,) in tables} == set(READERS)


def test_every_table_has_forced_row_level_security(hub: Hub) -> None:
    open_tables = hub.rows(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
        " and not (relrowsecurity and relforcerowsecurity)"
    )

    assert open_tables == []


@pytest.mark.parametrize("table", sorted(READERS))
def test_nobody_reads_another_organizations_rows(
    rest: httpx.Client, tenants: tuple[Tenant, Tenant], table: str
) -> None:
    for tenant in tenants:
        for role, headers in tenant.headers.items():
            answer = rest.get(f"/{table}", params={"select": "*"}, headers=headers)

            assert answer.status_code == 200, answer.text
            assert bool(answer.json()) == (role in READERS[table]), (tenant.name, role)
            if table not in SHARED:
                assert {organization_of(table, row) for row in answer.json()} <= {str(tenant.id)}


@pytest.mark.parametrize("table", sorted(READERS))
def test_anonymous_callers_reach_nothing(
    hub: Hub, rest: httpx.Client, tenants: tuple[Tenant, Tenant], table: str
) -> None:
    headers = {"apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"]}
    before = fingerprint(hub)

    answers = [
        rest.get(f"/{table}", headers=headers),
        rest.post(f"/{table}", json={}, headers=headers),
        rest.patch(f"/{table}", params={"org_id": "not.is.null"}, json={"org_id": None}, headers=headers),
        rest.delete(f"/{table}", params={"org_id": "not.is.null"}, headers=headers),
    ]

    assert all(is_refused(answer) for answer in answers), [answer.text for answer in answers]
    assert answers[0].status_code == 401
    assert fingerprint(hub) == before


@pytest.mark.parametrize("table", sorted(READERS))
def test_nobody_writes_what_is_not_theirs(
    hub: Hub, rest: httpx.Client, tenants: tuple[Tenant, Tenant], table: str
) -> None:
    ours, theirs = tenants
    key = (
        "id"
        if table == "organizations"
        else "name"
        if table in ("event_types", "system_controls", "invariants")
        else "role"
        if table == "role_permissions"
        else "org_id"
    )
    foreign = {
        "event_types": "form.submitted",
        "system_controls": "global_pause",
        "invariants": "leases_end",
        "role_permissions": "admin",
    }.get(table, str(theirs.id))
    before = fingerprint(hub)

    for headers in ours.headers.values():
        for params in ({key: f"eq.{foreign}"}, {key: "not.is.null"}):
            assert is_refused(rest.delete(f"/{table}", params=params, headers=headers))
        refused = rest.post(f"/{table}", json={key: foreign}, headers=headers)
        assert is_refused(refused), refused.text
        columns = WRITERS.get(table, (set(), {key}))[1]
        for column in columns:
            stolen = rest.patch(
                f"/{table}",
                params={key: f"eq.{foreign}", "select": key},
                json={column: None},
                headers={**headers, "prefer": "return=representation"},
            )
            assert is_refused(stolen) or stolen.json() == [], (column, stolen.text)

    assert fingerprint(hub) == before


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_view_is_written_by_nobody_not_even_with_the_secret_key(
    hub: Hub, rest: httpx.Client, method: str
) -> None:
    headers = {"apikey": hub.env["SUPABASE_SECRET_KEY"]}
    views = hub.rows(
        "select relname, exists (select from pg_attribute where attrelid = pg_class.oid and attname = 'id')"
        " from pg_class where relnamespace = 'public'::regnamespace and relkind = 'v'"
    )

    for view, has_id in views:
        key = {"id" if has_id else "org_id": str(uuid.uuid4())}
        filters = {} if method == "POST" else {name: f"eq.{value}" for name, value in key.items()}
        answer = rest.request(method, f"/{view}", params=filters, json=key, headers=headers)

        # PostgREST replaces by primary key only, which a view over several tables does not always show.
        assert (answer.status_code, answer.json()["code"]) in {(403, "42501"), (405, "PGRST105")}, answer.text
        assert method == "PUT" or answer.json()["message"] == f"permission denied for view {view}"


def test_each_role_changes_exactly_the_columns_it_may(
    hub: Hub, rest: httpx.Client, tenants: tuple[Tenant, Tenant]
) -> None:
    ours, _ = tenants
    allowed: dict[str, dict[str, set[str]]] = {}
    columns = hub.rows(
        "select table_name, column_name from information_schema.columns where table_schema = 'public'"
    )
    keyed = {table for table, column in columns if column == "id"}

    @cache
    def first(table: str, select: str, role: str) -> dict[str, Any] | None:
        readable = rest.get(f"/{table}", params={"select": select, "limit": 1}, headers=ours.headers[role])
        return readable.json()[0] if readable.status_code == 200 and readable.json() else None

    for table, column in columns:
        for role, headers in ours.headers.items():
            key = "id" if table in keyed else column
            row = first(table, "*", role) or first(table, f"{column},{key}", role)
            if row is None:
                continue
            # Written back as it is, so that only the right to write is tried.
            answer = rest.patch(
                f"/{table}",
                params={key: f"eq.{row[key]}"},
                json={column: row[column]},
                headers={**headers, "prefer": "return=minimal,count=exact"},
            )
            if answer.status_code < 300 and not answer.headers["content-range"].endswith("/0"):
                allowed.setdefault(table, {}).setdefault(column, set()).add(role)

    assert allowed == {table: dict.fromkeys(names, roles) for table, (roles, names) in WRITERS.items()}


def test_a_removed_member_has_no_access_at_the_next_request(
    hub: Hub, rest: httpx.Client, tenants: tuple[Tenant, Tenant]
) -> None:
    tenant = tenants[1]
    before = rest.get("/contacts", headers=tenant.headers["viewer"]).json()

    hub.sql("delete from public.memberships where org_id = %s and role = 'viewer'", tenant.id)

    assert before != []
    assert rest.get("/contacts", headers=tenant.headers["viewer"]).json() == []


def test_members_see_the_ways_in_of_their_own_sites_alone(
    rest: httpx.Client, tenants: tuple[Tenant, Tenant]
) -> None:
    for tenant in tenants:
        shown = rest.post("/rpc/site_secret_kinds", json={}, headers=tenant.headers["admin"]).json()

        assert {(row["slug"], row["kind"]) for row in shown} == {
            (tenant.name, "static"),
            (tenant.name, "page"),
            (f"{tenant.name}-2", "page"),
        }


def test_the_services_role_executes_hub_functions_and_reads_no_table(hub: Hub) -> None:
    readable = hub.rows(
        "select nspname || '.' || relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace"
        " where relkind in ('r', 'p', 'v', 'm', 'S') and nspname not like 'pg\\_%%' and nspname <> 'information_schema'"
        " and has_schema_privilege('hub_service', nspname, 'usage')"
        " and has_table_privilege('hub_service', pg_class.oid, 'select, insert, update, delete, truncate, references, trigger')"
    )
    callable_elsewhere = hub.rows(
        "select proname from pg_proc where pronamespace in ('public'::regnamespace, 'private'::regnamespace)"
        " and has_function_privilege('hub_service', oid, 'execute')"
    )
    doors = hub.rows(
        "select proname from pg_proc where pronamespace = 'hub'::regnamespace and not has_function_privilege('hub_service', oid, 'execute')"
    )

    # The platform's own, and nobody below its superuser can take them back: what they show of ours opens nothing more
    # than this role may do already.
    of_the_platform = {
        "net.http_request_queue",
        "net._http_response",
        "net.http_request_queue_id_seq",
        "extensions.pg_stat_statements",
        "extensions.pg_stat_statements_info",
    }
    assert {name for (name,) in readable} <= of_the_platform
    assert (callable_elsewhere, doors) == ([], [])


def test_api_roles_hold_no_rights_that_policies_do_not_limit(hub: Hub) -> None:
    left_over = hub.rows(
        "select relname, role from pg_class cross join unnest(array['anon', 'authenticated', 'service_role']) as role"
        " where relnamespace in ('public'::regnamespace, 'private'::regnamespace) and relkind in ('r', 'p')"
        " and has_table_privilege(role, pg_class.oid, 'truncate, references, trigger, maintain')"
    )

    assert left_over == []
