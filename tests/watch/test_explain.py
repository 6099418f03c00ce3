"""explain: why a row is there, from what happened outside down to it, in plain words."""

import random
import uuid
from typing import Any

import pytest
from support.hubs import Hub, web


@pytest.fixture(scope="module")
def event(hub: Hub) -> str:
    """A form that was scored."""
    form = {"name": "Jo Smith", "email": f"{uuid.uuid4().hex}@example.com", "service": "switchboard"}
    event = str(hub.submit("prime", form)["event_id"])
    assert hub.until(
        lambda: hub.rows("select count(*) from public.events where cause_id = %s", event) == [(1,)]
    )
    return event


# Webhooks of other tests may want the same form.
DELIVERY = (
    "select deliveries.id from public.deliveries join public.subscriptions on subscriptions.id = subscription_id"
    " where event_id = %(event)s and subscriptions.name = 'lead-qualifier'"
)


def explained(hub: Hub, id: Any, who: str = "VIEWER") -> dict[str, Any]:
    return dict(hub.rpc("explain", who, id=str(id)).raise_for_status().json())


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("select id from public.events where id = %(event)s", ["event"]),
        (DELIVERY, ["event", "delivery"]),
        ("select id from public.agent_actions where event_id = %(event)s", ["event", "delivery", "action"]),
        ("select id from public.leads where scored_by = %(event)s", ["event", "delivery", "action", "lead"]),
        ("select id from public.events where cause_id = %(event)s", ["event", "delivery", "action", "event"]),
    ],
)
def test_a_row_is_explained_from_the_form_that_led_to_it(
    hub: Hub, event: str, query: str, kinds: list[str]
) -> None:
    [(id,)] = hub.rows(query, event=event)

    told = explained(hub, id)

    assert [step["kind"] for step in told["chain"]] == kinds
    assert (told["chain"][0]["id"], told["chain"][-1]["id"]) == (event, str(id))
    assert told["origin"]["kind"] == "outside"
    assert "the site prime" in told["story"]
    assert "Jo Smith sent a form on Prime Electrical." in told["story"]
    assert told["chain"][0]["row"]["data"]["service"] == "switchboard"


def test_a_score_is_explained_with_its_reasons(hub: Hub, event: str) -> None:
    [(lead, score)] = hub.rows("select id, score from public.leads where scored_by = %s", event)

    story = explained(hub, lead)["story"]

    assert f"The lead's score is {score}" in story
    assert "asks for switchboard work" in story
    assert "with version 2" in story


def test_a_lead_without_a_score_is_explained_from_the_form_of_whoever_was_merged(hub: Hub) -> None:
    hub.sql("update public.subscriptions set paused = true where name = 'lead-qualifier'")
    try:
        first, second = (
            hub.submit(site, {"name": "Jo", "email": f"{uuid.uuid4().hex}@example.com"})
            for site in ("prime", "akf")
        )
        merged = hub.rpc(
            "merge_contacts", winner=first["contact_id"], loser=second["contact_id"], reason="Same person."
        ).json()
        [(lead,)] = hub.rows(
            "select leads.id from public.leads join public.sites on sites.id = site_id where contact_id = %s and slug = 'akf'",
            first["contact_id"],
        )
        told = explained(hub, lead)
        hub.rpc("unmerge_contacts", merge_id=merged["merge_id"]).raise_for_status()
    finally:
        hub.sql("update public.subscriptions set paused = false where name = 'lead-qualifier'")

    assert (told["origin"]["kind"], told["chain"][0]["id"]) == ("outside", second["event_id"])
    assert "The lead has no score yet." in told["story"]


def test_an_alert_is_explained_from_the_event_that_could_not_be_handled(hub: Hub) -> None:
    # In one transaction, so that nobody handles it before it is dead.
    hub.sql(
        "do $$ declare dead_event uuid; begin"
        " insert into public.events (org_id, type, source, data) select id, 'form.submitted', 'site:prime', '{}'"
        " from public.organizations where slug = 'trades' returning id into dead_event;"
        " perform private.mark_dead(id, 'no luck') from public.deliveries where event_id = dead_event; end $$"
    )
    [(alert, event)] = hub.rows(
        "select id, details ->> 'event_id' from public.alerts where kind = 'delivery_dead' order by id desc limit 1"
    )

    told = explained(hub, alert)

    assert [step["kind"] for step in told["chain"]] == ["event", "delivery", "alert"]
    assert "dead, no luck" in told["story"]
    [(action,)] = hub.rows("select id from public.agent_actions where event_id = %s", event)
    assert (
        'lead-qualifier decided "dead" with version 2, because: no luck.' in explained(hub, action)["story"]
    )


def test_who_put_it_in_line_again_is_told(hub: Hub, event: str) -> None:
    hub.rpc(
        "replay_events", filter={"event_ids": [event], "statuses": ["done"]}, dry_run=False
    ).raise_for_status()
    [(delivery,)] = hub.rows(DELIVERY, event=event)

    told = explained(hub, delivery)

    assert [step["kind"] for step in told["chain"]] == ["event", "replay", "delivery"]
    assert "A user put it in line again." in told["story"]


def test_a_rehearsal_is_told_as_one(hub: Hub, event: str) -> None:
    [replay] = hub.rpc(
        "replay_events",
        subscription="lead-qualifier",
        mode="rehearsal",
        version=2,
        filter={"event_ids": [event]},
        dry_run=False,
    ).json()["replay_ids"]
    assert hub.until(lambda: hub.rpc("replay_progress", replay_id=replay).json()["is_over"])
    [(delivery,)] = hub.rows("select id from public.deliveries where replay_id = %s", replay)

    story = explained(hub, delivery)["story"]

    assert "A user had version 2 decide about it in a rehearsal." in story
    assert "It was brought to lead-qualifier as a rehearsal, without effects: done." in story
    assert 'It would have been decided "' in story
    assert "in line again" not in story


def test_an_event_that_caused_itself_is_told_as_such(hub: Hub) -> None:
    [(event,)] = hub.rows(
        "insert into public.events (id, cause_id, org_id, type, source) select circle.id, circle.id, organizations.id, 'note.written', 'sql'"
        " from public.organizations, (select private.uuid_v7() as id) as circle where slug = 'trades' returning id"
    )

    told = explained(hub, event)

    assert (told["origin"]["kind"], len(told["chain"])) == ("unknown", 1)


def silence_prime(hub: Hub) -> None:
    hub.sql("update public.sites set business_hours = '{}'")
    hub.sql(
        "insert into public.events (id, org_id, site_id, type, source)"
        " select private.uuid_v7(now() - interval '125 minutes'), org_id, id, 'call.received', 'site:prime' from public.sites where slug = 'prime'"
    )
    hub.sql("select private.tick_monitors()")
    assert hub.until(
        lambda: hub.rows("select count(*) from public.agent_actions where agent = 'data-monitor'") == [(1,)]
    )


def test_the_alert_of_a_silent_site_is_explained_from_what_it_sent_last(own_hub: Hub) -> None:
    silence_prime(own_hub)
    [(alert, opened)] = own_hub.rows(
        "select alerts.id, events.id from public.alerts join public.events on events.subject_id = alerts.id where kind = 'site_silent'"
    )
    [(last,)] = own_hub.rows("select id from public.events where type = 'call.received'")

    told, told_of = explained(own_hub, alert), explained(own_hub, opened)

    assert [step["kind"] for step in told["chain"]] == ["event", "alert"]
    assert (told["origin"]["kind"], told["chain"][0]["id"]) == ("outside", str(last))
    assert told_of["chain"][:2] == told["chain"]


def test_what_is_not_the_callers_is_not_there(hub: Hub, event: str) -> None:
    for id, who in ((uuid.uuid4(), "ADMIN"), (event, "CLOSER")):
        answer = hub.rpc("explain", who, id=str(id))

        assert (answer.status_code, answer.json()["details"]) == (404, "nothing_to_explain")


def test_a_hundred_random_rows_lead_outside_to_a_person_or_to_the_clock(own_hub: Hub) -> None:
    silence_prime(own_hub)
    submitted = [
        own_hub.submit("prime", {"email": f"{uuid.uuid4().hex}@example.com", "message": f"number {number}"})[
            "event_id"
        ]
        for number in range(12)
    ]
    own_hub.sql(
        "insert into public.events (org_id, type, source) select id, 'note.written', 'sql' from public.organizations"
    )
    qualified = (
        "select count(*) from public.events where type = 'lead.qualified' and cause_id = any(%s::uuid[])"
    )
    assert own_hub.until(lambda: own_hub.rows(qualified, submitted) == [(12,)])
    winner, loser = (
        str(contact) for (contact,) in own_hub.rows("select id from public.contacts order by id limit 2")
    )
    merged = web.post(
        f"{own_hub.url}/rest/v1/rpc/merge_contacts",
        json={"winner": winner, "loser": loser, "reason": "Same person."},
        headers={"apikey": own_hub.env["SUPABASE_SECRET_KEY"]},
    )
    assert merged.status_code == 200
    own_hub.sql(
        "insert into public.invariants (name, description, sql) values ('pigs_fly', 'Pigs fly.', 'select null::uuid as org_id, ''no'' as found')"
    )
    own_hub.sql("select private.run_invariant('pigs_fly')")
    # What the hub looked for by itself, and what came of that.
    looks = {
        str(id)
        for (id,) in own_hub.rows(
            "select id from public.events where type = 'monitor.due' or data ->> 'kind' = 'invariant'"
            " union all select id from public.agent_actions where agent = 'data-monitor'"
            " union all select deliveries.id from public.deliveries join public.events on events.id = event_id where type = 'monitor.due'"
            " union all select id from public.alerts where kind = 'invariant'"
        )
    }
    assert len(looks) == 5
    rows = own_hub.rows(
        "select id from public.events union all select id from public.agent_actions union all select id from public.deliveries"
        " union all select id from public.leads union all select id from public.alerts"
    )

    kinds = {
        str(id): own_hub.rpc("explain", "ADMIN", id=str(id)).raise_for_status().json()["origin"]["kind"]
        for (id,) in random.Random(7).sample(rows, min(100, len(rows)))
    }

    assert {id for id, kind in kinds.items() if kind not in ("outside", "person")} == looks & kinds.keys()
    assert {kinds[id] for id in looks & kinds.keys()} == {"clock"}
    [(merge,)] = own_hub.rows("select id from public.events where type = 'contact.merged'")
    assert explained(own_hub, merge)["origin"] == {
        "kind": "person",
        "says": "Somebody with the hub's secret key did it.",
    }
