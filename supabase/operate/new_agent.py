"""Make an agent: python -m operate.new_agent, with NAME and EVENTS in the environment.

    NAME="Quote Chaser" EVENTS=form.submitted python -m operate.new_agent --state .state

Makes the agent's function with a manifest entry and a test, its row with a first version and a subscription to EVENTS,
and has it decide about a first event; what is there already is left as it is. With SITE it looks at that site's events
only. Then it prints what to do next.

The hub is the one that runs on the state folder, or a project: ADMIN_DATABASE_URL, and FUNCTIONS_URL or GCP_REGION and
GCP_PROJECT. The row stands in supabase/agents/<slug>.sql, a seed: so every hub and project has it that this
repository is deployed to, and the command also writes it at once.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from deploy import manifest

from operate import agent_files
from operate.agent_files import Agent
from operate.hub import Refused
from operate.target import Database, Target, organization, report, run, shown

SERVED_WITHIN = 20.0
DECIDED_WITHIN = 30.0

NEXT = """
Next:
  {main}: what it decides, by what its version says
  {test}: .venv/bin/python -m pytest {test}
  rpc/create_version drafts a version; `make rehearse AGENT={slug} VERSION=2` tries it on the past; rpc/publish_version lets it decide
  PATCH agents?name=eq.{slug} {{"status": "paused"}} stops it, and {{"autonomy": "approve"}} lets a person review
"""


def main() -> int:
    return run("new_agent", Agent.asked_for, make)


def make(asked: Agent, hub: Target) -> None:
    url = f"{hub.functions_url}/{asked.slug}"
    with hub.connect() as database:
        org = organization(database, "agent")
        types = _event_types(asked, database)
        agent = dataclasses.replace(asked, events=tuple(types))
        _refuse_unknown_site(agent, org, database)
        _refuse_another(agent, org, database)
        print(f"\n  {agent.name}: {url}\n")
        report("seed", shown(agent.row), agent_files.write_row(agent, org))
        report("function", shown(agent.folder), agent_files.write_function(agent))
        report("manifest", shown(manifest.MANIFEST), manifest.MANIFEST in _make_manifest())
        first_type = next(iter(types.values()))
        report("test", shown(agent.test), agent_files.write_test(agent, first_type, org))
        # Served before it is subscribed: else events would wait for a function that is not there.
        await_served(url)
        report(
            "agent", f"{agent.slug} of {org}, for {', '.join(agent.events)}", add_row(agent, org, database)
        )
        report("first event", *first_event(agent, org, first_type, database))
    print(NEXT.format(main=shown(agent.folder / "main.py"), test=shown(agent.test), slug=agent.slug))


# What is asked for ---------------------------------------------------------------------------------------------------


def _event_types(agent: Agent, database: Database) -> dict[str, str]:
    """What it subscribes to, in the catalogue's names, each with a type that it means."""
    types: dict[str, str] = {}
    for written in agent.events:
        found = database.execute(
            "select coalesce(private.canonical_type(%(written)s), %(written)s), event_types.name from public.event_types"
            " where private.wants(array[coalesce(private.canonical_type(%(written)s), %(written)s)], event_types.name)"
            " order by event_types.from_sites desc, event_types.name limit 1",
            {"written": written},
        ).fetchone()
        if found is None:
            rows = database.execute("select name from public.event_types order by name")
            raise Refused(
                f"There is no event type {written}; there are {', '.join(name for (name,) in rows)}."
            )
        types[found[0]] = found[1]
    return types


def _refuse_unknown_site(agent: Agent, org: str, database: Database) -> None:
    rows = database.execute(
        "select sites.slug from public.sites join public.organizations on organizations.id = sites.org_id"
        " where organizations.slug = %s order by sites.number",
        [org],
    )
    sites = [slug for (slug,) in rows]
    if agent.site is not None and agent.site not in sites:
        raise Refused(f"SITE is one of {', '.join(sites) or 'none that are here'}: {agent.site!r} is not.")


def _refuse_another(agent: Agent, org: str, database: Database) -> None:
    found = _recorded(agent, org, database)
    if not agent.row.exists():
        if found is not None:
            raise Refused(f"There is an agent {agent.slug} already. Choose another NAME, or add SLUG=….")
        agent_files.refuse_taken(agent)
    elif found is not None and found != (agent.entry_point, agent.site, sorted(agent.events)):
        _, site, events = found
        raise Refused(
            f"There is an agent {agent.slug} already, for {', '.join(events) or 'no events'} of {site or 'every site'}."
            " Choose another NAME, or add SLUG=…; PATCH subscriptions changes what it gets."
        )
    foreign = database.execute(
        "select subscriptions.name from public.subscriptions"
        " join public.organizations on organizations.id = subscriptions.org_id"
        " left join public.agents on agents.id = subscriptions.agent_id"
        " where (subscriptions.target = %(slug)s or organizations.slug = %(org)s and subscriptions.name = %(slug)s)"
        " and (agents.id is null or agents.name <> %(slug)s) limit 1",
        {"slug": agent.slug, "org": org},
    ).fetchone()
    if foreign is not None:
        raise Refused(
            f"The subscription {foreign[0]} has the name {agent.slug} already. Choose another NAME, or add SLUG=…."
        )


def _recorded(agent: Agent, org: str, database: Database) -> tuple[str, str | None, list[str]] | None:
    """The kind, site and events of the agent of this name."""
    found = database.execute(
        "select agents.kind, sites.slug,"
        " array(select unnest(subscriptions.event_types) from public.subscriptions"
        "       where subscriptions.agent_id = agents.id order by 1)"
        " from public.agents join public.organizations on organizations.id = agents.org_id"
        " left join public.sites on sites.id = agents.site_id"
        " where organizations.slug = %s and agents.name = %s",
        [org, agent.slug],
    ).fetchone()
    return (found[0], found[1], found[2]) if found else None


# The steps -----------------------------------------------------------------------------------------------------------


def _make_manifest() -> list[Path]:
    try:
        return manifest.write()
    except manifest.Undeclared as problem:
        raise Refused(str(problem)) from problem


def await_served(url: str) -> None:
    """A gateway finds what is new by itself; a function that is there asks who calls."""
    deadline = time.monotonic() + SERVED_WITHIN
    said = ""
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(url, json={}, timeout=10)
        except httpx.HTTPError as error:
            said = type(error).__name__
        else:
            if answer.status_code == 401:
                return
            said = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(0.2)
    raise Refused(
        f"{url} is not served: {said}\n"
        "On a project, `make deploy` brings the function there. Then run this again."
    )


def add_row(agent: Agent, org: str, database: Database) -> bool:
    wanted = (agent.entry_point, agent.site, sorted(agent.events))
    if _recorded(agent, org, database) == wanted:
        return False
    database.execute(agent.row.read_bytes())
    if _recorded(agent, org, database) != wanted:
        raise Refused(f"{shown(agent.row)} makes another agent than this: change the file, or remove it.")
    return True


def first_event(agent: Agent, org: str, event_type: str, database: Database) -> tuple[str, bool]:
    """The newest event that it would have got and has not failed at; where there is none, the catalogue's sample."""
    known = database.execute(
        "select event_id from public.agent_actions join public.organizations on organizations.id = org_id"
        " where organizations.slug = %s and agent = %s order by agent_actions.id limit 1",
        [org, agent.slug],
    ).fetchone()
    if known is not None:
        return str(known[0]), False
    with database.transaction():
        event = _newest(agent, org, event_type, database) or _sampled(agent, org, event_type, database)
        database.execute(
            "insert into public.deliveries (org_id, event_id, subscription_id)"
            " select subscriptions.org_id, %s, subscriptions.id from public.subscriptions"
            " join public.organizations on organizations.id = subscriptions.org_id"
            " where organizations.slug = %s and subscriptions.name = %s on conflict do nothing",
            [event, org, agent.slug],
        )
        database.execute("select private.kick(%s)", [agent.slug])
    return f"{event}: {_decision(agent, event, database)}", True


def _newest(agent: Agent, org: str, event_type: str, database: Database) -> Any:
    found = database.execute(
        "select events.id from public.events join public.organizations on organizations.id = events.org_id"
        " left join public.sites on sites.org_id = events.org_id and sites.id = events.site_id"
        " where organizations.slug = %s and events.type = %s and coalesce(sites.slug = %s, %s)"
        " and not exists (select from public.deliveries join public.subscriptions on subscriptions.id = subscription_id"
        "   where deliveries.event_id = events.id and subscriptions.name = %s and deliveries.status = 'dead')"
        " order by events.id desc limit 1",
        [org, event_type, agent.site, agent.site is None, agent.slug],
    ).fetchone()
    return found[0] if found else None


def _sampled(agent: Agent, org: str, event_type: str, database: Database) -> Any:
    written = database.execute(
        "select private.write_event(organizations.id, event_types.name, event_types.sample, 'new-agent', sites.id)"
        " from public.organizations join public.event_types on event_types.name = %s"
        " left join public.sites on sites.org_id = organizations.id and sites.slug = %s"
        " where organizations.slug = %s",
        [event_type, agent.site, org],
    ).fetchone()
    assert written is not None
    return written[0]


def _decision(agent: Agent, event: Any, database: Database) -> str:
    query = (
        "select deliveries.status::text, coalesce(agent_actions.decision, deliveries.last_error) from public.deliveries"
        " join public.subscriptions on subscriptions.id = deliveries.subscription_id"
        " left join public.agent_actions on agent_actions.delivery_id = deliveries.id"
        " where deliveries.event_id = %s and subscriptions.target = %s and deliveries.mode = 'live'"
    )
    status, said = "missing", None
    deadline = time.monotonic() + DECIDED_WITHIN
    while time.monotonic() < deadline:
        status, said = database.execute(query, [event, agent.slug]).fetchone() or (status, said)
        if status in ("done", "skipped"):
            return str(said or status)
        if status == "dead":
            break
        time.sleep(0.1)
    raise Refused(
        f"{agent.slug} has not decided about the event {event}: its delivery is {status}{f' ({said})' if said else ''}."
        " `GET functions/v1/status` says more."
    )


if __name__ == "__main__":
    sys.exit(main())
