"""Event names: each kind has one, whatever it is called, and what nobody knows is stored, marked and left alone."""

import json
import uuid
from typing import Any

import httpx
import pytest
from support.hubs import Hub, web

ALIASES = {
    "form_submit": "form.submitted",
    "form-submit": "form.submitted",
    "FORM_SUBMIT": "form.submitted",
    "booking": "booking.placed",
    "booking.created": "booking.placed",
    "lead": "lead.received",
    "voice_call": "call.received",
    "email": "email.received",
}
UNKNOWN = "meteor.struck"


def insert(hub: Hub, type: str, **data: Any) -> str:
    return str(
        hub.rows(
            "insert into public.events (org_id, type, data) select id, %s, %s from public.organizations where slug = 'trades'"
            " returning id",
            type,
            json.dumps(data),
        )[0][0]
    )


def event(hub: Hub, id: str) -> tuple[str, bool]:
    [(type, unrecognised)] = hub.rows("select type, unrecognised from public.events where id = %s", id)
    return type, unrecognised


def post(hub: Hub, **form: Any) -> httpx.Response:
    return web.post(
        f"{hub.url}/functions/v1/ingest-prime",
        json=form,
        headers={"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"], "idempotency-key": uuid.uuid4().hex},
    )


def somebody() -> str:
    return f"{uuid.uuid4().hex}@example.com"


@pytest.mark.parametrize("alias", ALIASES)
def test_an_event_inserted_under_an_alias_is_stored_under_its_name(hub: Hub, alias: str) -> None:
    assert event(hub, insert(hub, alias)) == (ALIASES[alias], False)


def test_the_agent_acts_on_an_event_inserted_under_an_alias(hub: Hub) -> None:
    id = insert(hub, "form_submit", message="from sql")

    assert hub.until(
        lambda: hub.rows("select count(*) from public.agent_actions where event_id = %s", id) == [(1,)]
    )


def subscribe(hub: Hub, *types: str) -> str:
    name = f"names-{uuid.uuid4().hex[:8]}"
    hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target)"
        " select id, %s, %s, %s from public.organizations where slug = 'trades'",
        name,
        list(types),
        name,
    )
    return name


def delivered(hub: Hub, subscription: str) -> list[str]:
    return [
        str(row[0])
        for row in hub.rows(
            "select event_id from public.deliveries join public.subscriptions on subscriptions.id = subscription_id"
            " where name = %s order by deliveries.id",
            subscription,
        )
    ]


def test_a_subscription_by_an_alias_gets_what_has_the_name(hub: Hub) -> None:
    subscription = subscribe(hub, "voice_call", "booking.*", "never.heard_of")

    call, booking = insert(hub, "call.received"), insert(hub, "booking_created")

    assert delivered(hub, subscription) == [call, booking]
    assert hub.rows("select event_types from public.subscriptions where name = %s", subscription) == [
        (["call.received", "booking.*", "never.heard_of"],)
    ]


def test_a_subscription_learns_an_alias_that_is_given_later(own_hub: Hub) -> None:
    subscription = subscribe(own_hub, "quote_asked")

    own_hub.sql(
        "insert into public.event_types (name, description, aliases) values ('quote.requested', 'A quote.', '{quote_asked}')"
    )

    assert delivered(own_hub, subscription) == []
    asked = [insert(own_hub, "quote_asked"), insert(own_hub, "quote.requested")]
    assert delivered(own_hub, subscription) == asked


def test_a_replay_by_an_alias_finds_what_has_the_name(hub: Hub) -> None:
    subscription = subscribe(hub, "email.received")
    insert(hub, "email")
    hub.sql(
        "update public.deliveries set status = 'dead' from public.subscriptions"
        " where subscriptions.id = subscription_id and name = %s",
        subscription,
    )

    matched = [
        web.post(
            f"{hub.url}/rest/v1/rpc/replay_events",
            json={"filter": {"types": [type]}, "subscription": subscription},
            headers={"apikey": hub.env["SUPABASE_SECRET_KEY"]},
        ).json()["matched"]
        for type in ("inbound_email", "email.received", "form_submit")
    ]

    assert matched == [1, 1, 0]


def test_an_alias_means_one_thing(hub: Hub) -> None:
    with pytest.raises(Exception, match=r"a name of form\.submitted"):
        hub.sql(
            "insert into public.event_types (name, description, aliases) values ('form.sent', '', '{form_submit}')"
        )


@pytest.mark.parametrize("field", ["kind", "event", "event_type", "type"])
@pytest.mark.parametrize("said", ["form_submit", "booking", "lead", "booking.placed"])
def test_a_posted_kind_is_understood_by_any_of_its_names(hub: Hub, field: str, said: str) -> None:
    answer = post(hub, email=somebody(), **{field: said})

    stored = hub.rows(
        "select type, unrecognised, contact_id is not null, subject_type from public.events where id = %s",
        answer.json()["event_id"],
    )
    assert stored == [(ALIASES.get(said, said), False, True, "lead")]


@pytest.mark.parametrize("said", ["voice_call", "email.received"])
def test_a_call_or_an_e_mail_finds_its_contact_and_makes_no_lead(hub: Hub, said: str) -> None:
    answer = post(hub, kind=said, email=somebody())

    stored = hub.rows(
        "select type, contact_id is not null, subject_type from public.events where id = %s",
        answer.json()["event_id"],
    )
    assert stored == [(ALIASES.get(said, said), True, None)]


@pytest.mark.parametrize(
    "form",
    [
        {"kind": UNKNOWN, "size": 3},
        {"event": "meteor_struck", "email": "ann@example.com"},
        {"type": UNKNOWN, "email": "ann@example.com"},
        {"type": "meteor"},
        {"type": UNKNOWN, "timestamp": "2026-11-21T00:00:00Z", "data": {"email": "ann@example.com"}},
    ],
)
def test_an_unknown_kind_is_stored_as_it_came_marked_and_visible(hub: Hub, form: dict[str, Any]) -> None:
    leads = hub.rows("select count(*) from public.leads")

    answer = post(hub, **form)

    assert answer.status_code == 202, answer.text
    rest = web.get(
        f"{hub.url}/rest/v1/events?unrecognised=is.true&id=eq.{answer.json()['event_id']}",
        headers={"apikey": hub.env["SUPABASE_SECRET_KEY"]},
    ).json()
    said = form.get("kind") or form.get("event") or form["type"]
    assert [(row["type"], row["data"]["form"], row["contact_id"]) for row in rest] == [
        (said, form, answer.json()["contact_id"])
    ]
    assert (answer.json()["contact_id"] is not None) == ("@" in json.dumps(form))
    assert hub.rows("select count(*) from public.leads") == leads
    assert hub.rows("select count(*) from public.deliveries where event_id = %s", rest[0]["id"]) == [(0,)]


def test_what_came_under_an_unknown_kind_is_worked_on_once_it_is_named(hub: Hub) -> None:
    kind = f"quote_{uuid.uuid4().hex[:8]}"
    first = post(hub, event=kind.upper(), name="Jo Smith", email=somebody(), service="switchboard").json()

    said = name_kind(hub, kind, "form.submitted")
    again = name_kind(hub, kind, "form.submitted")

    assert (said.json(), again.json()) == (1, 0), said.text
    scored = "select score is not null from public.leads where contact_id = %s"
    assert hub.until(lambda: hub.rows(scored, first["contact_id"]) == [(True,)])
    assert hub.rows("select type, source from public.events where cause_id = %s", first["event_id"]) == [
        ("form.submitted", "hub")
    ]
    later = post(hub, event=kind, email=somebody()).json()["event_id"]
    assert event(hub, later) == ("form.submitted", False)


def test_an_unknown_kind_whose_webhook_delivery_died_is_named_all_the_same(hub: Hub) -> None:
    kind = f"quote_{uuid.uuid4().hex[:8]}"
    first = post(hub, event=kind, email=somebody()).json()
    # As mark_dead and notify_alert write, with the failed event as the cause.
    hub.sql(
        "insert into public.events (org_id, type, source, cause_id)"
        " select org_id, 'delivery.dead', 'hub', id from public.events where id = %s",
        first["event_id"],
    )

    assert name_kind(hub, kind, "form.submitted").json() == 1

    caused = "select type from public.events where cause_id = %s and type <> 'delivery.dead'"
    assert hub.rows(caused, first["event_id"]) == [("form.submitted",)]


@pytest.mark.parametrize("first", ["winner", "loser"])
def test_leads_of_a_kind_that_is_named_while_two_were_one_go_home_with_them(hub: Hub, first: str) -> None:
    kind = f"quote_{uuid.uuid4().hex[:8]}"
    asked = [post(hub, event=kind, email=somebody()).json()["contact_id"] for _ in range(2)]
    winner, loser = asked if first == "winner" else reversed(asked)
    merged = hub.rpc("merge_contacts", "ADMIN", winner=winner, loser=loser, reason="Same person.")
    assert name_kind(hub, kind, "form.submitted").json() == 2

    hub.rpc("unmerge_contacts", "ADMIN", merge_id=merged.json()["merge_id"])

    homes = "select home_id::text from public.leads where contact_id = %s"
    assert (hub.rows(homes, loser), hub.rows(homes, winner)) == ([(loser,)], [(winner,)])


@pytest.mark.parametrize(("kind", "means"), [("garden_party", "no.such"), ("two words", "form.submitted")])
def test_a_kind_is_named_by_a_word_for_what_is_known(hub: Hub, kind: str, means: str) -> None:
    assert name_kind(hub, kind, means).status_code == 422


def test_only_who_holds_the_secret_key_names_kinds(hub: Hub) -> None:
    assert hub.rpc("name_kind", "ADMIN", kind="party", means="form.submitted").status_code == 403


def name_kind(hub: Hub, kind: str, means: str) -> httpx.Response:
    return web.post(
        f"{hub.url}/rest/v1/rpc/name_kind",
        json={"kind": kind, "means": means},
        headers={"apikey": hub.env["SUPABASE_SECRET_KEY"]},
    )


def test_who_asks_for_an_unknown_kind_gets_it(hub: Hub) -> None:
    subscription = subscribe(hub, "comet.*")

    id = post(hub, kind="comet.passed").json()["event_id"]

    assert delivered(hub, subscription) == [id]


@pytest.mark.parametrize(
    "form",
    [
        {"type": "House"},
        {"event": "Residential"},
        {"type": "end_of_tenancy"},
        {"type": "email"},
        {"kind": "Two storeys"},
        {"event": "Garden party"},
        {"type": ["a", "b"]},
        {"kind": ""},
    ],
)
def test_a_field_of_a_form_is_not_taken_for_a_kind(hub: Hub, form: dict[str, Any]) -> None:
    answer = post(hub, email=somebody(), **form)

    assert event(hub, answer.json()["event_id"]) == ("form.submitted", False)


def test_a_webhook_is_read_by_what_its_data_says(hub: Hub) -> None:
    answer = post(
        hub, type="form_submit", timestamp="2026-11-21T00:00:00Z", data={"email": somebody(), "name": "Jo"}
    )

    stored = hub.rows(
        "select type, contacts.name from public.events join public.contacts on contacts.id = contact_id where events.id = %s",
        answer.json()["event_id"],
    )
    assert stored == [("form.submitted", "Jo")]


def test_a_site_cannot_say_what_only_the_hub_knows(hub: Hub) -> None:
    answer = post(hub, kind="lead.qualified", email=somebody(), score=100)

    stored = hub.rows(
        "select type, data ->> 'reason', contact_id from public.events where id = %s",
        answer.json()["event_id"],
    )
    assert stored == [("submission.quarantined", "kind", None)]


@pytest.mark.parametrize("said", ["form_submit", "booking"])
def test_what_somebody_asks_for_needs_a_way_to_answer_under_any_name(hub: Hub, said: str) -> None:
    answer = post(hub, kind=said, email="no address")

    assert answer.status_code == 422
    assert {detail["field"] for detail in answer.json()["error"]["details"]} == {"email", "phone"}


def test_every_kind_has_a_schema_and_a_sample_that_fits_it(hub: Hub) -> None:
    kinds = {
        name: (schema, sample)
        for name, schema, sample in hub.rows("select name, schema, sample from public.event_types")
    }

    assert {
        "form.submitted",
        "lead.received",
        "booking.placed",
        "call.received",
        "email.received",
    } <= kinds.keys()
    for name, (schema, sample) in kinds.items():
        assert schema["type"] == "object", name
        assert set(schema.get("required", ())) <= sample.keys() != set(), name
