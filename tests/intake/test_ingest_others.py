"""The three sites: each in its own words, by its own function, into one hub."""

import uuid
from typing import Any

import httpx
import pytest
from support.hubs import Hub, web


def post(hub: Hub, site: str, **form: Any) -> httpx.Response:
    secret = hub.env[f"{site.upper()}_WEBHOOK_SECRET"]
    return web.post(
        f"{hub.url}/functions/v1/ingest-{site}", json=form, headers={"x-webhook-secret": secret}, timeout=30
    )


def stored(hub: Hub, answer: httpx.Response) -> tuple[str, dict[str, Any]]:
    assert answer.status_code == 202, answer.text
    [(type, data)] = hub.rows("select type, data from public.events where id = %s", answer.json()["event_id"])
    return type, data


def score_of(hub: Hub, answer: httpx.Response) -> list[str]:
    query = "select reasons from public.agent_actions where event_id = %s"
    event = answer.json()["event_id"]
    assert hub.until(lambda: bool(hub.rows(query, event)))
    return list(hub.rows(query, event)[0][0])


@pytest.fixture
def email() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def test_three_sites_make_three_rows_and_one_person_is_one_contact(own_hub: Hub) -> None:
    person = {"name": "Jo Smith", "email": "jo@example.com", "message": "Please call."}

    answers = [post(own_hub, site, **person) for site in ("prime", "akf", "cleanjet")]

    counted = (
        "select s.slug, count(*) from public.events e join public.sites s on s.id = e.site_id"
        " where e.source like 'site:%' group by 1 order by 1"
    )
    assert own_hub.rows(counted) == [("akf", 1), ("cleanjet", 1), ("prime", 1)]
    assert len({answer.json()["contact_id"] for answer in answers}) == 1
    registered = own_hub.rows(
        "select number, slug, connection_method <> '', trigger <> '', cardinality(data_types) > 0, url ~ '^https://', enabled"
        " from public.sites order by number"
    )
    assert registered[:3] == [
        (n, slug, *[True] * 5) for n, slug in ((1, "prime"), (2, "akf"), (3, "cleanjet"))
    ]


def test_akf_is_read_in_its_own_words_and_kept_as_it_came(hub: Hub, email: str) -> None:
    form = {
        "your_name": "Ann Lee",
        "your_email": email,
        "contact_number": "021 555 0177",
        "project_type": "Bathroom renovation",
        "site_address": "5 Main Road, Ponsonby",
        "project_details": "Two bathrooms, the tiles are off.",
        "build_budget": "$25,000",
        "start_date": "next week",
        "plans_ready": True,
        "utm_source": "google",
    }

    answer = post(hub, "akf", **form)

    assert stored(hub, answer) == (
        "form.submitted",
        {
            "name": "Ann Lee",
            "email": email,
            "phone": "+64215550177",
            "service": "Bathroom renovation",
            "area": "5 Main Road, Ponsonby",
            "message": "Two bathrooms, the tiles are off.",
            "budget": "$25,000",
            "timeframe": "next week",
            "form": form,
        },
    )
    reasons = score_of(hub, answer)
    assert {"asks for a renovation: +25", "is in Ponsonby, which we serve: +8", "says it is soon: +8"} <= set(
        reasons
    )
    assert any("$25,000" in reason for reason in reasons)


def test_cleanjet_tells_a_booking_from_a_form(hub: Hub, email: str) -> None:
    person = {
        "full_name": "Ann Lee",
        "email_address": email,
        "mobile": "021 555 0178",
        "clean_type": "Deep clean",
    }
    form = {**person, "special_instructions": "Do you do ovens?"}
    booking = {
        **person,
        "service_address": "12 Ponsonby Road, Auckland",
        "booking_date": "2026-12-01",
        "booking_time": "9:30",
        "frequency": "every 2 weeks",
        "bedrooms": 3,
    }

    asked, booked = post(hub, "cleanjet", **form), post(hub, "cleanjet", **booking)

    read = {"name": "Ann Lee", "email": email, "phone": "+64215550178", "service": "Deep clean"}
    assert stored(hub, asked) == ("form.submitted", {**read, "message": "Do you do ovens?", "form": form})
    assert stored(hub, booked) == (
        "booking.placed",
        {
            **read,
            "address": "12 Ponsonby Road, Auckland",
            "slot": "2026-12-01T09:30",
            "recurrence": "fortnightly",
            "form": booking,
        },
    )
    assert asked.json()["contact_id"] == booked.json()["contact_id"]
    assert "is in Ponsonby, which we serve: +8" in score_of(hub, booked)
    samples = "select schema -> 'required' from public.event_types where name = 'booking.placed'"
    assert set(hub.rows(samples)[0][0]) <= stored(hub, booked)[1].keys()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"slot": "2026-12-01T09:30"}, "2026-12-01T09:30"),
        ({"slot": "2026-12-01T09:30:00+13:00"}, "2026-12-01T09:30"),
        ({"slot": "2026-12-01 14.05"}, "2026-12-01T14:05"),
        ({"slot": {"date": "2026-12-01", "start": "9 am", "end": "11 am"}}, "2026-12-01T09:00"),
        ({"slot": "1/12/2026 2:15pm"}, "2026-12-01T14:15"),
        ({"slot": "01/12/2026, 12 am"}, "2026-12-01T00:00"),
        ({"date": "2026-12-01", "time": "09:30"}, "2026-12-01T09:30"),
        ({"booking_date": "2026-12-01"}, "2026-12-01"),
        ({"booking_date": "2026-12-01", "booking_time": "morning"}, "2026-12-01"),
        ({"booking_date": "2026-02-31"}, "2026-02-31"),
        ({"slot": "2026-12-01 99:99"}, "2026-12-01 99:99"),
        ({"slot": "Tuesday morning"}, "Tuesday morning"),
        ({"kind": "booking"}, None),
    ],
)
def test_a_slot_is_read_as_a_time_if_it_is_one(
    hub: Hub, email: str, sent: dict[str, Any], read: str | None
) -> None:
    kind, data = stored(hub, post(hub, "cleanjet", email=email, **sent))

    assert (kind, data["slot"]) == ("booking.placed", read)
    assert data["form"] == {"email": email, **sent}
    assert data["recurrence"] == "once"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("Weekly", "weekly"),
        ("once a week", "weekly"),
        ("Bi-weekly", "fortnightly"),
        ("every other week", "fortnightly"),
        ("Monthly", "monthly"),
        ("One-off", "once"),
        ("none", "once"),
        ("Each equinox", "each equinox"),
        (None, "once"),
        (["Weekly"], "weekly"),
    ],
)
def test_a_recurrence_is_one_of_four_if_it_says_one(hub: Hub, email: str, sent: Any, read: str) -> None:
    answer = post(hub, "cleanjet", email=email, slot="2026-12-01", recurrence=sent)

    assert stored(hub, answer)[1]["recurrence"] == read


@pytest.mark.parametrize("said", ["form_submit", "booking.cancelled"])
def test_what_a_form_says_it_is_goes_before_what_it_looks_like(hub: Hub, email: str, said: str) -> None:
    kind, data = stored(hub, post(hub, "cleanjet", email=email, event=said, slot="2026-12-01"))

    assert kind == {"form_submit": "form.submitted"}.get(said, said)
    assert data["form"]["slot"] == "2026-12-01"


def test_every_booking_has_one_action_of_the_qualifier(own_hub: Hub) -> None:
    for number in range(10):
        post(own_hub, "cleanjet", email=f"p{number}@example.com", slot="2026-12-01", address="Ponsonby")
        post(own_hub, "cleanjet", email=f"p{number}@example.com", message="hello")

    counted = (
        "select type, count(*), count(distinct event_id) from public.agent_actions"
        " join public.events on events.id = event_id group by 1 order by 1"
    )
    assert own_hub.until(
        lambda: own_hub.rows(counted) == [("booking.placed", 10, 10), ("form.submitted", 10, 10)]
    )
    assert own_hub.rows("select count(*) from public.leads where score is null") == [(0,)]


def test_the_same_booking_twice_is_one(hub: Hub, email: str) -> None:
    answers = [post(hub, "cleanjet", email=email, slot="2026-12-01").json() for _ in range(2)]

    assert [answer["duplicate"] for answer in answers] == [False, True]
    assert answers[0]["event_id"] == answers[1]["event_id"]
