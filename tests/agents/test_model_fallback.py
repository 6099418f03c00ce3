"""A model that never decides: the status says so and one alert does, for whatever reason, until it decides again."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hubs import ROOT, Hub, running_hub, web
from support.llm_server import ModelServer, Reply, completion, judgement, model_server, refusal

LIMITS = {"seconds": 2, "tries": 1, "tokens": 8000, "runs": 2, "rest_seconds": 0}
ALERTS = """
select subject, severity::text, message, closed_at is null from public.alerts where kind = 'model_fallback' order by id
"""
TOLD = "select type from public.events where type like 'alert.%%' and data ->> 'kind' = 'model_fallback' order by id"
OK = ("ok", "Agents with a prompt ask it.")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(scope="module")
def asking(model: ModelServer, prepared_state: Path) -> Iterator[Hub]:
    with running_hub(prepared_state, ROOT, **model.settings) as hub:
        yield hub


@pytest.fixture
def hub(asking: Hub, model: ModelServer) -> Iterator[Hub]:
    """A hub whose model has just decided, and which has told of nothing yet."""
    publish(asking)
    model.says(judgement)
    judge(asking)
    look(asking)
    asking.sql("delete from public.alerts")
    asking.sql("delete from private.alert_notices")
    yield asking
    asking.sql("update public.organizations set settings = '{}'")


def publish(hub: Hub, **changed: Any) -> None:
    hub.sql(
        "with made as (insert into public.agent_versions (org_id, agent_id, version, config)"
        " select org_id, agent_id, (select max(version) + 1 from public.agent_versions as all_of where all_of.agent_id = seed.agent_id),"
        " config || %s::jsonb from public.agent_versions as seed where version = 2 returning agent_id, version)"
        " select private.publish_version(agent_id, version) from made",
        json.dumps({"limits": LIMITS} | changed),
    )


def judge(hub: Hub, times: int = 1) -> list[str]:
    """Who decided about so many new enquiries, or why the rules did."""
    form = {"message": "I need a new switchboard, Ponsonby, urgent."}
    sent = [
        hub.submit("prime", form | {"email": f"{uuid.uuid4().hex}@example.com"})["event_id"]
        for _ in range(times)
    ]
    decided = (
        "select coalesce(output ->> 'fallback', output ->> 'decided_by') from public.agent_actions"
        " where event_id = any(%s::uuid[]) order by id"
    )
    assert hub.until(lambda: len(hub.rows(decided, sent)) == times)
    return [by for (by,) in hub.rows(decided, sent)]


def look(hub: Hub) -> dict[str, Any]:
    """As the monitor does every quarter of an hour."""
    return dict(hub.rows("select private.run_checks(id, '{}', null) from public.organizations")[0][0])


def status(hub: Hub) -> dict[str, tuple[str, str]]:
    answer = web.get(f"{hub.url}/functions/v1/status", headers=hub.signed_in("VIEWER"), timeout=30)
    said = answer.raise_for_status().json()
    every = [*said["components"], *(part for it in said["organizations"] for part in it["components"])]
    return {part["name"]: (part["state"], part["reason"]) for part in every} | {"": (said["state"], "")}


@pytest.mark.parametrize(
    ("reply", "code", "reason"),
    [
        (refusal(401), "request_refused", "the model's server refused the request (401)"),
        (refusal(404, "model_not_found"), "request_refused", "the model's server refused the request (404)"),
        (Reply(stalls=True), "timed_out", "the model did not answer in time"),
        (refusal(500), "server_failed", "the model's server failed (500)"),
        (Reply(), "garbled", "the model's server sent what nobody can read"),
        (completion("A good one!"), "invalid_answer", "the model's answer does not fit the question"),
        (completion(None, finish="length"), "cut_off", "the model's answer was cut off"),
    ],
)
def test_a_model_that_never_decides_is_one_alert_and_degraded_until_it_decides(
    hub: Hub, model: ModelServer, reply: Reply, code: str, reason: str
) -> None:
    model.says(reply)
    assert judge(hub, 2) == [code] * 2
    look(hub)
    assert hub.rows(ALERTS) == []
    assert status(hub)["llm"] == OK

    judge(hub)
    look(hub)
    look(hub)

    said = f"The model decided none of the last 3 runs of lead-qualifier: {reason}."
    assert hub.rows(ALERTS) == [("llm", "warning", said, True)]
    told = status(hub)
    assert told["llm"] == told["lead-qualifier"] == ("degraded", said)
    assert told[""][0] == "degraded"

    model.says(judgement)
    assert judge(hub) == ["model"]
    hub.run_job("watch")

    assert hub.until(lambda: [is_open for *_, is_open in hub.rows(ALERTS)] == [False])
    assert status(hub)["llm"] == OK
    assert status(hub)["lead-qualifier"][0] == "ok"


def test_a_decision_now_and_then_is_no_alert(hub: Hub, model: ModelServer) -> None:
    model.says(refusal(500), refusal(500), judgement, refusal(500), then=refusal(500))
    for _ in range(5):
        judge(hub)

    look(hub)

    assert hub.rows(ALERTS) == []
    assert status(hub)["llm"] == OK


def test_whoever_listens_learns_once_that_it_began_and_that_it_ended(hub: Hub, model: ModelServer) -> None:
    before = len(hub.rows(TOLD))
    model.says(refusal(401))
    for _ in range(3):
        judge(hub, 3)
        look(hub)
    model.says(judgement)
    judge(hub)
    look(hub)

    assert hub.rows(TOLD)[before:] == [("alert.opened",), ("alert.closed",)]
    assert hub.rows(ALERTS)[0][2].startswith("The model decided none of the last 9 runs")


def test_two_agents_without_a_model_are_one_alert(model: ModelServer, prepared_state: Path) -> None:
    model.says(refusal(401))
    with running_hub(prepared_state, ROOT, **model.settings) as hub:
        publish(hub)
        hub.sql(
            "with twin as (insert into public.agents (org_id, kind, name) select org_id, kind, 'twin' from public.agents"
            " where name = 'lead-qualifier' returning id, org_id),"
            " brain as (insert into public.agent_versions (org_id, agent_id, version, config, status, published_at)"
            " select twin.org_id, twin.id, 1, config, 'published', now() from twin, public.agent_versions"
            " where agent_versions.status = 'published' and config ? 'prompt')"
            " insert into public.subscriptions (org_id, name, event_types, target, agent_id)"
            " select org_id, 'twin', '{form.submitted}', 'lead-qualifier', id from twin"
        )
        for number in range(3):
            hub.submit("prime", {"email": f"jo{number}@example.com", "message": "A switchboard, please."})
        assert hub.until(lambda: hub.rows("select count(*) from public.agent_actions") == [(6,)])

        look(hub)

        ((_, _, message, _),) = hub.rows(ALERTS)
        assert "of lead-qualifier: " in message
        assert "of twin: " in message


def test_while_it_is_left_alone_the_reason_is_what_it_failed_of(hub: Hub, model: ModelServer) -> None:
    publish(hub, limits=LIMITS | {"rest_seconds": 60})
    model.says(refusal(401))
    for _ in range(3):
        judge(hub)

    assert judge(hub, 3) == ["resting"] * 3
    look(hub)

    assert "refused the request (401)" in hub.rows(ALERTS)[0][2]


def test_a_version_that_asks_no_model_ends_it(hub: Hub, model: ModelServer) -> None:
    model.says(refusal(401))
    judge(hub, 3)
    look(hub)

    publish(hub, prompt=None)
    judge(hub)
    hub.run_job("watch")

    assert hub.until(lambda: [is_open for *_, is_open in hub.rows(ALERTS)] == [False])


def test_a_day_whose_limit_is_used_up_is_no_alert_and_one_that_allows_nothing_is(
    hub: Hub, model: ModelServer
) -> None:
    limit = "update public.organizations set settings = %s"
    hub.sql(limit, json.dumps({"model": {"day_tokens": 1}}))
    assert judge(hub, 4) == ["limit_day"] * 4
    look(hub)
    assert hub.rows(ALERTS) == []

    hub.sql("delete from private.model_spending")
    look(hub)

    assert "the day's limit for models is used up" in hub.rows(ALERTS)[0][2]
