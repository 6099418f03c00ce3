"""A new agent's files: its row as a seed, its function, its test. What is there is left as it is."""

import builtins
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.bundle import FUNCTIONS, ROOT

from operate.hub import Refused
from operate.names import plain, quoted, refuse_bad_name, slug_of

AGENTS = ROOT / "supabase" / "agents"
TESTS = ROOT / "tests"
EXAMPLE = 'make new-agent NAME="Quote Chaser" EVENTS=form.submitted'

ROW = """\
-- The agent {name}, made by `make new-agent`: its row, first version and subscription.

insert into public.agents (org_id, site_id, kind, name)
select organizations.id, {site_id}, '{entry_point}', '{slug}'
from public.organizations
where organizations.slug = '{organization}'
on conflict on constraint agents_name_unique do nothing;

insert into public.agent_versions (org_id, agent_id, version, config)
select agents.org_id, agents.id, 1, '{{
    "words": ["urgent", "urgently", "emergency", "asap", "today", "tonight"]{site_config}
  }}'
from public.agents
join public.organizations on organizations.id = agents.org_id and organizations.slug = '{organization}'
where agents.name = '{slug}' and agents.kind = '{entry_point}'
on conflict on constraint agent_versions_number do nothing;

select private.publish_version(agents.id, 1)
from public.agents
join public.organizations on organizations.id = agents.org_id and organizations.slug = '{organization}'
where agents.name = '{slug}' and agents.kind = '{entry_point}'
  and not exists (select from public.agent_versions where agent_versions.agent_id = agents.id and agent_versions.status = 'published');

insert into public.subscriptions (org_id, name, event_types, target, agent_id)
select agents.org_id, '{slug}', '{{{events}}}', '{slug}', agents.id
from public.agents
join public.organizations on organizations.id = agents.org_id and organizations.slug = '{organization}'
where agents.name = '{slug}' and agents.kind = '{entry_point}'
on conflict on constraint subscriptions_name_unique do nothing;
"""

FUNCTION = '''\
"""{name}: say of each event whether a person should look at it now.

Called by the hub when events of its subscription wait. It decides by the words in its agent's published version. The
action written here says what was decided and why, and nothing else changes.
"""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared import settings
from shared.callers.hub import hub
from shared.models import brains
from shared.web.endpoint import Instance, endpoint
from shared.work.drain import Kick, drain
from shared.work.envelopes import Delivery
from shared.work.outcomes import Done, Permanent, Skip


class Version(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # An event that says one of them is for a person, now.
    words: tuple[str, ...]
    # The slug of the only site it looks at; every site, when there is none.
    site: str | None = None


@endpoint(
    caller=hub,
    body=Kick,
    kinds=("json",),
    needs=(settings.Database,),
    instance=Instance(timeout=60, concurrency=10),
)
async def {entry_point}(_caller: None, _kick: Kick) -> dict[str, Any]:
    return await drain("{slug}", decide)


async def decide(delivery: Delivery) -> Done:
    event, agent = delivery.event, delivery.agent
    if agent is None or agent.config is None:
        raise Permanent("the subscription has no agent with a published version")

    version = brains.version_of(agent, Version)
    if version.site not in (None, event.site):
        raise Skip(f"it is not of the site {{version.site}}")
    said = words(event.data)
    found = [word for word in version.words if word.lower() in said]
    return Done(
        action={{
            "decision": "look_now" if found else "look_later",
            "reasons": [f'It says "{{word}}".' for word in found] or ["It says none of the version's words."],
            "confidence": 0.9 if found else 0.6,
            "outcome": "escalated" if found else "self_resolved",
            "output": {{"words": found}},
            "version_id": str(agent.version_id),
        }},
        result={{"words": len(found)}},
    )


def words(data: dict[str, Any]) -> set[str]:
    texts = [value for value in data.values() if isinstance(value, str)]
    return set(re.findall(r"\\w+", " ".join(texts).lower()))
'''

TEST = '''\
"""{slug}: an event becomes one decision, with its reasons."""

import json
from typing import Any

EVENT = """
  insert into public.events (org_id, site_id, type, data)
  select sites.org_id, sites.id, '{event_type}', %s::jsonb
  from public.sites
  join public.organizations on organizations.id = sites.org_id
  where organizations.slug = '{organization}' and ({is_site})
  order by sites.number
  limit 1
  returning id
"""
DECIDED = """
  select decision, reasons, outcome::text from public.agent_actions
  where agent = '{slug}' and event_id = %s
"""


def decided(hub: Any, **data: str) -> Any:
    """What the agent decides about an event that says so."""
    [(event,)] = hub.rows(EVENT, json.dumps(data))
    assert hub.until(lambda: bool(hub.rows(DECIDED, event)))
    [decision] = hub.rows(DECIDED, event)
    return decision


def test_a_word_of_the_version_is_for_a_person_now(hub: Any) -> None:
    decision = decided(hub, message="Please ring today, it is URGENT.")

    assert decision == ("look_now", ['It says "urgent".', 'It says "today".'], "escalated")


def test_an_event_without_such_a_word_can_wait(hub: Any) -> None:
    decision = decided(hub, message="No hurry: whenever it suits you.")

    assert decision == ("look_later", ["It says none of the version's words."], "self_resolved")
'''


@dataclass(frozen=True)
class Agent:
    name: str
    slug: str
    events: tuple[str, ...]
    site: str | None

    @classmethod
    def asked_for(cls, environment: Mapping[str, str]) -> "Agent":
        name = " ".join(environment.get("NAME", "").split())
        events = tuple(dict.fromkeys(re.split(r"[,\s]+", environment.get("EVENTS", "").strip(", "))))
        if not name or events == ("",):
            raise Refused(f"Say which agent and what it gets: {EXAMPLE}")
        refuse_bad_name(name)
        slug = slug_of(name, environment)
        if slug.startswith("ingest-"):
            raise Refused(f"{slug} would be a site's function: `make new-site` makes those.")
        return cls(name, slug, events, environment.get("SITE", "").strip() or None)

    @property
    def row(self) -> Path:
        return AGENTS / f"{self.slug}.sql"

    @property
    def entry_point(self) -> str:
        return self.slug.replace("-", "_")

    @property
    def folder(self) -> Path:
        return FUNCTIONS / self.entry_point

    @property
    def test(self) -> Path:
        return TESTS / "agents" / f"test_{self.entry_point}.py"


def refuse_taken(agent: Agent) -> None:
    """Before its first file is made: then its name is nobody else's."""
    # The function's own words would be hidden by its entry point.
    words = {*keyword.kwlist, *dir(builtins), *re.findall(r"\w+", FUNCTION)}
    if agent.entry_point in words:
        raise Refused(f"{agent.slug} is a word that its own code needs. Choose another NAME, or add SLUG=….")
    # pytest knows a test by its file's name, whatever room it is in.
    taken = [agent.folder] if agent.folder.exists() else sorted(TESTS.rglob(agent.test.name))
    if taken:
        raise Refused(
            f"{taken[0].relative_to(ROOT)} is there already and not this agent's."
            " Choose another NAME, or add SLUG=…."
        )


def write_row(agent: Agent, organization: str) -> bool:
    if agent.row.exists():
        return False
    agent.row.parent.mkdir(exist_ok=True)
    site_id = (
        f"(select sites.id from public.sites where sites.org_id = organizations.id and sites.slug = {quoted(agent.site)})"
        if agent.site
        else "null"
    )
    row = ROW.format(
        name=agent.name,
        slug=agent.slug,
        entry_point=agent.entry_point,
        organization=organization,
        events=",".join(agent.events),
        site_id=site_id,
        site_config=f',\n    "site": "{agent.site}"' if agent.site else "",
    )
    agent.row.write_text(row)
    return True


def write_function(agent: Agent) -> bool:
    source = agent.folder / "main.py"
    if source.exists():
        return False
    agent.folder.mkdir(exist_ok=True)
    source.write_text(
        FUNCTION.format(name=plain(agent.name) or agent.slug, slug=agent.slug, entry_point=agent.entry_point)
    )
    return True


def write_test(agent: Agent, event_type: str, organization: str) -> bool:
    if agent.test.exists():
        return False
    is_site = f"sites.slug = '{agent.site}'" if agent.site else "true"
    agent.test.write_text(
        TEST.format(slug=agent.slug, event_type=event_type, organization=organization, is_site=is_site)
    )
    return True
