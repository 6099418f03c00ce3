"""The lead qualifier: every submitted form is scored once, whatever happens to the kick or to the function."""

import os
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.hubs import Hub, running_hub, web

UNFINISHED = "select count(*) from public.deliveries where status in ('pending', 'running', 'failed')"


def submit(hub: Hub, **form: Any) -> dict[str, Any]:
    form = {"email": f"{uuid.uuid4().hex}@example.com", **form}
    answer = web.post(
        f"{hub.url}/functions/v1/ingest-prime",
        json=form,
        headers={"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"]},
    )
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def actions(hub: Hub, event: str) -> list[tuple[Any, ...]]:
    return hub.rows(
        "select agent, decision, reasons, confidence, outcome::text from public.agent_actions where event_id = %s",
        event,
    )


def test_a_form_gets_a_score_with_its_reasons(hub: Hub) -> None:
    event = submit(
        hub,
        name="Jo Smith",
        phone="021 555 0123",
        service="Switchboard upgrade",
        message="Half the house has no power since this morning, this is urgent. Budget is about $5,000. We are in Ponsonby.",
    )["event_id"]

    assert hub.until(lambda: len(actions(hub, event)) == 1)
    ((agent, _, reasons, confidence, _),) = actions(hub, event)
    assert agent == "lead-qualifier"
    assert len(reasons) >= 4
    assert 0 <= confidence <= 1
    lead = hub.rows(
        "select score, band, next_step, leads.reasons from public.leads join public.events on subject_id = leads.id where events.id = %s",
        event,
    )[0]
    assert lead[0] >= 70
    assert lead[1] == "A"
    assert lead[2]
    assert lead[3] == reasons
    follow_up = hub.rows("select type, data ->> 'score' from public.events where cause_id = %s", event)
    assert follow_up == [("lead.qualified", str(lead[0]))]


def test_a_thin_form_scores_lower_than_a_full_one(hub: Hub) -> None:
    thin = submit(hub, message="hi")["event_id"]
    full = submit(
        hub,
        name="Jo",
        phone="021 555 0124",
        service="rewiring",
        message="Please rewire our villa, urgent. " * 4,
    )["event_id"]
    score = (
        "select (data ->> 'score')::int from public.events where cause_id = %s and type = 'lead.qualified'"
    )

    assert hub.until(lambda: bool(hub.rows(score, thin) and hub.rows(score, full)))
    assert hub.rows(score, thin) < hub.rows(score, full)


def test_the_second_enquiry_of_a_person_is_known_as_such(hub: Hub) -> None:
    address = f"{uuid.uuid4().hex}@example.com"
    first = submit(hub, email=address, message="one")["event_id"]
    assert hub.until(lambda: len(actions(hub, first)) == 1)
    second = submit(hub, email=address, message="two")["event_id"]

    assert hub.until(lambda: len(actions(hub, second)) == 1)
    assert not any("before" in reason for reason in actions(hub, first)[0][2])
    assert any("before" in reason for reason in actions(hub, second)[0][2])


def test_without_a_model_a_version_with_a_prompt_decides_as_its_rules_alone(own_hub: Hub) -> None:
    outputs = []
    for version in (1, 2):
        own_hub.sql(
            "select private.publish_version(id, %s) from public.agents where kind = 'lead_qualifier'", version
        )
        event = submit(own_hub, name="Jo", message="A switchboard in Ponsonby, urgent, about $5,000.")[
            "event_id"
        ]
        assert own_hub.until(lambda event=event: len(actions(own_hub, event)) == 1)
        action = "select output, reasons, outcome::text, confidence, tokens from public.agent_actions where event_id = %s"
        outputs.append(own_hub.rows(action, event))

    assert outputs[0] == outputs[1]
    assert outputs[0][0][0]["decided_by"] == "rules"
    assert outputs[0][0][4] is None


def test_an_event_inserted_by_sql_alone_starts_the_agent(hub: Hub) -> None:
    event = hub.rows(
        "insert into public.events (org_id, type, data) select id, 'form.submitted', '{\"message\": \"from sql\"}'"
        " from public.organizations where slug = 'trades' returning id"
    )[0][0]

    assert hub.until(lambda: len(actions(hub, event)) == 1)


def test_a_hundred_forms_are_a_hundred_actions(own_hub: Hub) -> None:
    for number in range(100):
        submit(own_hub, message=f"form {number}")

    assert own_hub.until(lambda: own_hub.rows(UNFINISHED) == [(0,)])
    query = (
        "select count(distinct event_id), count(*) from public.agent_actions where agent = 'lead-qualifier'"
    )
    assert own_hub.rows(query) == [(100, 100)]


def test_while_pg_net_loses_every_request_the_sweep_does_it_all(prepared_state: Path) -> None:
    with running_hub(prepared_state, HEARTBEAT_SECONDS="1") as hub:
        hub.sql("select net.set_faults(lose => 1.0)")
        for number in range(20):
            submit(hub, message=f"form {number}")

        assert hub.until(lambda: hub.rows("select count(*) from public.agent_actions") == [(20,)], 60)
        assert hub.rows("select count(*) from net._http_response where status_code is not null") == [(0,)]


def test_once_pg_net_sends_again_what_was_lost_is_done(own_hub: Hub) -> None:
    own_hub.sql("select net.set_faults(lose => 1.0)")
    for number in range(20):
        submit(own_hub, message=f"form {number}")
    assert own_hub.rows("select count(*) from public.agent_actions") == [(0,)]

    own_hub.sql("select net.set_faults(lose => 0.0)")

    assert own_hub.until(lambda: own_hub.rows("select count(*) from public.agent_actions") == [(20,)], 30)


def test_with_every_kick_repeated_each_effect_happens_once(own_hub: Hub) -> None:
    own_hub.sql("select net.set_faults(repeat => 50)")
    for number in range(20):
        submit(own_hub, message=f"form {number}")

    assert own_hub.until(lambda: own_hub.rows(UNFINISHED) == [(0,)])
    assert own_hub.rows("select count(*), count(distinct event_id) from public.agent_actions") == [(20, 20)]
    assert own_hub.rows("select count(*) from public.events where type = 'lead.qualified'") == [(20,)]


def test_killed_while_it_handles_a_batch_it_still_acts_once_on_each(own_hub: Hub) -> None:
    # Settling takes long enough to be killed in.
    own_hub.sql(
        "create function private.dawdle() returns trigger language plpgsql as $$ begin perform pg_sleep(0.05); return new; end $$;"
        " create trigger dawdle before insert on public.agent_actions for each row execute function private.dawdle()"
    )
    for number in range(30):
        submit(own_hub, message=f"form {number}")

    for done in (3, 9, 15, 21):
        assert own_hub.until(
            lambda done=done: own_hub.rows("select count(*) from public.agent_actions")[0][0] >= done, 60
        )
        os.kill(own_hub.process_of("gateway"), signal.SIGKILL)
        # That leases end is seen without waiting half a minute for each.
        own_hub.sql("update public.deliveries set leased_until = now() where status = 'running'")

    assert own_hub.until(lambda: own_hub.rows(UNFINISHED) == [(0,)], 90)
    assert own_hub.rows("select count(*), count(distinct event_id) from public.agent_actions") == [(30, 30)]
    assert own_hub.rows("select count(*) from public.events where type = 'lead.qualified'") == [(30,)]


def test_a_poisoned_form_dies_alone_and_comes_back_by_replay(own_hub: Hub) -> None:
    own_hub.sql("update public.subscriptions set max_attempts = 2, retry_base = '0 seconds'")
    own_hub.sql(
        "create function private.poison() returns trigger language plpgsql as $$ begin"
        " if exists (select from public.events where id = new.event_id and data ->> 'message' = 'form 5')"
        " then raise exception 'poison'; end if; return new; end $$;"
        " create trigger poison before insert on public.agent_actions for each row execute function private.poison()"
    )
    own_hub.sql(
        "insert into public.events (org_id, type, data)"
        " select id, 'form.submitted', jsonb_build_object('message', 'form ' || n)"
        " from public.organizations, generate_series(1, 10) as n where slug = 'trades'"
    )

    assert own_hub.until(lambda: own_hub.rows(UNFINISHED) == [(0,)], 30)
    dead = own_hub.rows("select id::text, last_error, attempts from public.deliveries where status = 'dead'")
    assert [attempts for _, _, attempts in dead] == [2]
    assert dead[0][1] == "could not be settled: P0001"
    assert own_hub.rows("select count(*) from public.agent_actions") == [(9,)]
    assert own_hub.rows(
        "select count(*) from public.alerts where kind = 'delivery_dead' and subject = %s", dead[0][0]
    ) == [(1,)]
    headers = {"apikey": own_hub.env["SUPABASE_SECRET_KEY"]}

    replayed = web.post(f"{own_hub.url}/rest/v1/rpc/replay_events", json={"dry_run": False}, headers=headers)

    assert replayed.json()["matched"] == 1
    assert own_hub.until(
        lambda: (
            own_hub.rows("select count(*) from public.delivery_attempts where delivery_id = %s", dead[0][0])
            == [(4,)]
        ),
        30,
    )


@pytest.mark.parametrize("key", ["", "wrong", "PRIME_WEBHOOK_SECRET", "SUPABASE_PUBLISHABLE_KEY"])
def test_only_the_hub_may_kick_it(hub: Hub, key: str) -> None:
    answer = web.post(
        f"{hub.url}/functions/v1/lead-qualifier", json={}, headers={"apikey": hub.env.get(key, key)}
    )

    assert answer.status_code == 401
