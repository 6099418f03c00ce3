"""Agents in people's hands: pause, autonomy, review, versions, scorecards."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.hubs import Hub, running_hub, web

CONFIG = (
    "select config from public.agent_versions join public.agents on agents.id = agent_id"
    " where agents.name = 'lead-qualifier' and agent_versions.status = 'published'"
)
SCORED = "select score from public.leads where contact_id = %s"


@pytest.fixture(scope="module")
def agent_hub(prepared_state: Path) -> Iterator[Hub]:
    with running_hub(prepared_state) as hub:
        yield hub


@pytest.fixture
def contact(agent_hub: Hub) -> str:
    """Somebody who has just sent a form."""
    return submit(agent_hub)


def submit(hub: Hub) -> str:
    form = {"name": "Jo Smith", "email": f"{uuid.uuid4().hex}@example.com", "service": "switchboard"}
    return str(hub.submit("prime", form)["contact_id"])


def change_agent(hub: Hub, **changes: str) -> httpx.Response:
    return web.patch(
        f"{hub.url}/rest/v1/agents?name=eq.lead-qualifier",
        json=changes,
        headers=hub.signed_in("OPERATOR"),
    )


@pytest.fixture
def careful(agent_hub: Hub) -> Iterator[Hub]:
    """The qualifier may only propose."""
    assert change_agent(agent_hub, autonomy="approve").status_code == 204
    yield agent_hub
    change_agent(agent_hub, autonomy="auto")


def proposal_for(hub: Hub, contact: str) -> str:
    query = "select id::text from public.agent_actions where contact_id = %s and review = 'pending'"
    assert hub.until(lambda: bool(hub.rows(query, contact)))
    return str(hub.rows(query, contact)[0][0])


def test_what_an_agent_may_not_do_alone_waits_for_a_person(careful: Hub) -> None:
    contact = submit(careful)
    action = proposal_for(careful, contact)

    assert careful.rows(SCORED, contact) == [(None,)]
    assert careful.rows("select outcome::text from public.agent_actions where id = %s", action) == [
        ("escalated",)
    ]
    assert careful.rows("select count(*) from public.events where contact_id = %s", contact) == [(1,)]

    assert careful.rpc("review_action", action_id=action, approve=True).json() == "approved"

    [(score,)] = careful.rows(SCORED, contact)
    assert score > 0
    assert careful.rows(
        "select type from public.events where contact_id = %s and cause_id is not null", contact
    ) == [("lead.qualified",)]
    assert careful.rows("select count(*) from public.agent_actions where contact_id = %s", contact) == [(1,)]


def test_a_rejected_proposal_changes_nothing(careful: Hub) -> None:
    contact = submit(careful)
    action = proposal_for(careful, contact)

    assert careful.rpc("review_action", action_id=action, approve=False).json() == "rejected"

    assert careful.rows(SCORED, contact) == [(None,)]
    assert careful.rows("select count(*) from public.events where contact_id = %s", contact) == [(1,)]
    assert careful.rows(
        "select actor_type, after ->> 'review' from public.audit_log where resource_id = %s", action
    ) == [("user", "rejected")]
    assert careful.rows(
        "select kind, decided_by is not null from public.outcomes where action_id = %s", action
    ) == [("rejected", True)]


def test_who_says_neither_yes_nor_no_has_not_decided(careful: Hub) -> None:
    action = proposal_for(careful, submit(careful))

    answer = careful.rpc("review_action", action_id=action, approve=None)

    assert (answer.status_code, answer.json()["details"]) == (422, "no_decision")
    assert careful.rpc("review_action", action_id=action, approve=True).json() == "approved"


def test_of_twenty_reviews_at_once_the_first_decides(careful: Hub) -> None:
    action = proposal_for(careful, submit(careful))

    with ThreadPoolExecutor(20) as pool:
        statuses = list(
            pool.map(
                lambda number: (
                    careful.rpc("review_action", action_id=action, approve=number % 2 == 0).status_code
                ),
                range(20),
            )
        )

    assert sorted(statuses) == [200] + [409] * 19


@pytest.mark.parametrize("who", ["VIEWER", "CLOSER"])
def test_only_operators_review(careful: Hub, who: str) -> None:
    action = proposal_for(careful, submit(careful))

    assert careful.rpc("review_action", who, action_id=action, approve=True).status_code == 404


STOPPED = {
    "the agent is paused": ("agents", "status", "paused", "idle"),
    "the agent is off": ("agents", "autonomy", "off", "auto"),
    "the subscription is paused": ("subscriptions", "paused", True, False),
    "the organization is paused": ("organizations", "paused", True, False),
    "everything is paused": ("system_controls", "is_on", True, False),
}


@pytest.mark.parametrize("stopped", STOPPED)
def test_what_is_stopped_takes_nothing_and_loses_nothing(agent_hub: Hub, stopped: str) -> None:
    table, column, stop, go = STOPPED[stopped]
    switch = f"update public.{table} set {column} = %s"
    agent_hub.sql(switch, stop)
    try:
        contact = submit(agent_hub)
        agent_hub.rows("select private.sweep_deliveries()")
        waiting = "select status::text, attempts from public.deliveries join public.events on events.id = event_id where contact_id = %s"
        assert agent_hub.rows("select hub.claim_deliveries('lead-qualifier', 10, 30)") == [([],)]
        assert agent_hub.rows(waiting, contact) == [("pending", 0)]
    finally:
        agent_hub.sql(switch, go)

    assert agent_hub.until(lambda: agent_hub.rows(SCORED, contact) != [(None,)])


def test_a_pause_is_honoured_by_the_next_claim(agent_hub: Hub) -> None:
    """While work is under way: what is claimed ends, nothing more is begun."""
    agent_hub.sql(
        "insert into public.events (org_id, type, data) select id, 'form.submitted', '{}'"
        " from public.organizations, generate_series(1, 2000) where slug = 'trades'"
    )
    done = "select count(*) from public.deliveries where status = 'done'"
    [(before,)] = agent_hub.rows(done)
    assert agent_hub.until(lambda: agent_hub.rows(done)[0][0] > before + 50)

    assert change_agent(agent_hub, status="paused").status_code == 204
    [(paused_at,)] = agent_hub.rows("select clock_timestamp()")
    assert agent_hub.until(
        lambda: agent_hub.rows("select count(*) from public.deliveries where status = 'running'") == [(0,)]
    )

    assert agent_hub.rows("select count(*) from public.deliveries where claimed_at > %s", paused_at) == [(0,)]
    assert agent_hub.rows("select count(*) > 0 from public.deliveries where status = 'pending'") == [(True,)]
    change_agent(agent_hub, status="idle")
    assert agent_hub.until(
        lambda: agent_hub.rows("select count(*) from public.deliveries where status = 'pending'") == [(0,)],
        60,
    )


def test_a_version_is_drafted_published_and_rolled_back(agent_hub: Hub) -> None:
    [(config,)] = agent_hub.rows(CONFIG)
    drafted = agent_hub.rpc(
        "create_version",
        "ADMIN",
        agent="lead-qualifier",
        config=config | {"rules": config["rules"] | {"base": 90}},
    ).json()
    before = submit(agent_hub)
    assert agent_hub.until(lambda: agent_hub.rows(SCORED, before) != [(None,)])

    agent_hub.rpc("publish_version", "ADMIN", agent="lead-qualifier", version=drafted).raise_for_status()
    after = submit(agent_hub)
    assert agent_hub.until(lambda: agent_hub.rows(SCORED, after) != [(None,)])
    agent_hub.rpc("publish_version", "ADMIN", agent="lead-qualifier", version=2).raise_for_status()
    rolled_back = submit(agent_hub)
    assert agent_hub.until(lambda: agent_hub.rows(SCORED, rolled_back) != [(None,)])

    assert agent_hub.rows(SCORED, after)[0][0] > agent_hub.rows(SCORED, before)[0][0]
    assert agent_hub.rows(SCORED, rolled_back) == agent_hub.rows(SCORED, before)
    history = agent_hub.rows(
        "select version, deployed_by is not null from public.agent_deployments join public.agent_versions on agent_versions.id = version_id"
        " order by agent_deployments.id desc limit 2"
    )
    assert history == [(2, True), (drafted, True)]


def test_an_event_is_handled_by_the_version_published_when_it_was_claimed(agent_hub: Hub) -> None:
    # Its own target, so that nobody else claims it.
    agent_hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target, agent_id)"
        " select org_id, 'by-hand', '{test.versions}', 'by-hand', id from public.agents where name = 'lead-qualifier'"
    )
    agent_hub.sql(
        "insert into public.events (org_id, type) select id, 'test.versions' from public.organizations where slug = 'trades'"
    )
    [([claimed],)] = agent_hub.rows("select hub.claim_deliveries('by-hand', 10, 30)")
    [(config,)] = agent_hub.rows(CONFIG)
    drafted = agent_hub.rpc("create_version", "ADMIN", agent="lead-qualifier", config=config).json()
    agent_hub.rpc("publish_version", "ADMIN", agent="lead-qualifier", version=drafted).raise_for_status()

    action = {"decision": "x", "outcome": "self_resolved", "version_id": claimed["agent"]["version_id"]}
    settlement = {name: claimed[name] for name in ("id", "lease_token")} | {
        "outcome": "done",
        "effects": {"action": action},
    }
    agent_hub.sql("select hub.settle_deliveries(%s::jsonb)", json.dumps([settlement]))
    agent_hub.rpc("publish_version", "ADMIN", agent="lead-qualifier", version=2).raise_for_status()

    decided = agent_hub.rows(
        "select version from public.agent_actions join public.agent_versions on agent_versions.id = version_id"
        " where delivery_id = %s",
        claimed["id"],
    )
    assert decided == [(claimed["agent"]["version"],)]


@pytest.mark.parametrize("who", ["OPERATOR", "VIEWER", "CLOSER"])
def test_only_admins_publish(agent_hub: Hub, who: str) -> None:
    for answer in (
        agent_hub.rpc("publish_version", who, agent="lead-qualifier", version=2),
        agent_hub.rpc("create_version", who, agent="lead-qualifier", config={}),
    ):
        assert (answer.status_code, answer.json()["details"]) == (403, "not_permitted")
        assert "agents.publish" in answer.json()["message"]


def test_of_an_agent_of_others_nobody_learns_that_it_is_there(agent_hub: Hub) -> None:
    agent_hub.sql(
        "with org as (insert into public.organizations (slug, name) values ('others', 'Others') returning id)"
        " insert into public.agents (org_id, kind, name) select id, 'lead_qualifier', 'their-agent' from org"
    )

    for name in ("their-agent", "nobody"):
        answer = agent_hub.rpc("publish_version", "ADMIN", agent=name, version=1)
        assert (answer.status_code, answer.json()["details"]) == (404, "unknown_agent")


def test_a_scorecard_equals_a_count_of_actions(agent_hub: Hub, contact: str) -> None:
    assert agent_hub.until(lambda: agent_hub.rows(SCORED, contact) != [(None,)])

    card = agent_hub.rpc("agent_scorecard", "VIEWER", agent="lead-qualifier").json()

    [counted] = agent_hub.rows(
        "select count(*), count(*) filter (where outcome = 'escalated'), count(*) filter (where outcome = 'failed'),"
        " round(avg(confidence), 3)::float from public.agent_actions where agent = 'lead-qualifier'"
    )
    assert (card["runs"], card["escalated"], card["failed"], card["mean_confidence"]) == counted
    by_day = web.get(
        f"{agent_hub.url}/rest/v1/agent_scorecards?agent=eq.lead-qualifier",
        headers=agent_hub.signed_in("VIEWER"),
    ).json()
    assert sum(day["runs"] for day in by_day) == card["runs"]


def test_who_comes_back_was_not_resolved(agent_hub: Hub) -> None:
    form = {"name": "Jo Smith", "email": f"{uuid.uuid4().hex}@example.com", "service": "switchboard"}
    first = agent_hub.submit("prime", form)["contact_id"]
    assert agent_hub.until(lambda: agent_hub.rows(SCORED, first) != [(None,)])
    agent_hub.sql("update public.agent_actions set outcome = 'self_resolved' where contact_id = %s", first)
    before = agent_hub.rpc("agent_scorecard", agent="lead-qualifier").json()

    # What an operator writes down about them is not their coming back.
    org = agent_hub.rows("select id::text from public.organizations where slug = 'trades'")[0][0]
    agent_hub.rpc(
        "opt_out", org_id=org, reason="They rang.", contact_id=first, channel="sms"
    ).raise_for_status()
    assert agent_hub.rpc("agent_scorecard", agent="lead-qualifier").json()["came_back"] == before["came_back"]

    agent_hub.submit("prime", form | {"message": "Nobody rang me."})
    assert agent_hub.until(
        lambda: (
            agent_hub.rows("select count(*) from public.agent_actions where contact_id = %s", first) == [(2,)]
        )
    )

    after = agent_hub.rpc("agent_scorecard", agent="lead-qualifier").json()
    assert after["came_back"] == before["came_back"] + 1
    agent_hub.sql(
        "update public.organizations set settings = settings || '{\"came_back_days\": 0}' where slug = 'trades'"
    )
    assert agent_hub.rpc("agent_scorecard", agent="lead-qualifier").json()["came_back"] == 0


def test_confidence_is_compared_with_what_became_of_the_leads(agent_hub: Hub) -> None:
    for outcome in ("won", "lost"):
        contact = submit(agent_hub)
        assert agent_hub.until(lambda contact=contact: agent_hub.rows(SCORED, contact) != [(None,)])
        agent_hub.sql(
            'update public.agent_actions set confidence = 0.9, output = output || \'{"band": "A"}\' where contact_id = %s',
            contact,
        )
        agent_hub.sql(
            "update public.leads set stage = %s::public.lead_stage where contact_id = %s", outcome, contact
        )

    card = agent_hub.rpc("agent_scorecard", agent="lead-qualifier").json()

    assert (card["judged"], card["accuracy"], card["overconfidence"]) == (2, 0.5, 0.4)
    assert card["calibration"] == [{"confidence": 0.9, "accuracy": 0.5, "count": 2}]


def test_what_became_of_a_lead_is_attached_to_the_decisions_about_it(agent_hub: Hub, contact: str) -> None:
    assert agent_hub.until(lambda: agent_hub.rows(SCORED, contact) != [(None,)])

    agent_hub.sql("update public.leads set stage = 'won' where contact_id = %s", contact)
    agent_hub.sql("update public.leads set stage = 'booked' where contact_id = %s", contact)
    agent_hub.sql("update public.leads set stage = 'won' where contact_id = %s", contact)

    assert agent_hub.rows(
        "select kind, agent from public.outcomes join public.agent_actions on agent_actions.id = action_id where contact_id = %s",
        contact,
    ) == [("won", "lead-qualifier")]
