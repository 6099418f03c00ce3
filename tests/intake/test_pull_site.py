"""pull-site: what a partner lists becomes what its pushes would have been, once, whatever fails in between."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from support.hubs import Hub, web
from support.partner_sites import TOKEN, Partner, Reply, item, serving
from support.recorded import submission
from support.scale import scaled

from shared.intake import partners
from shared.outbound.client import Client


@dataclass
class Source:
    """A row of pull_sources for a site of the test's own, and the partner behind it."""

    hub: Hub
    partner: Partner
    id: str
    name: str
    secret: str

    def pull(self) -> dict[str, int]:
        """Now, whatever the clock says."""
        self.be_due()
        answer = self.call()
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def call(self) -> httpx.Response:
        headers = {"apikey": self.hub.env["HUB_INVOKE_SECRET"]}
        return web.post(f"{self.hub.url}/functions/v1/pull-site", headers=headers, timeout=100)

    def be_due(self) -> None:
        self.hub.sql(
            "update public.pull_sources set next_at = now() - interval '1 hour' where id = %s", self.id
        )

    def lapse(self) -> None:
        """As if the lease of whoever was killed had run out."""
        self.be_due()
        self.hub.sql(
            "update public.pull_sources set leased_until = now() - interval '1 second'"
            " where id = %s and lease_token is not null",
            self.id,
        )

    def set(self, **columns: Any) -> None:
        assignments = ", ".join(f"{name} = %({name})s" for name in columns)
        self.hub.sql(f"update public.pull_sources set {assignments} where id = %(id)s", id=self.id, **columns)

    def get(self, *columns: str) -> Any:
        row = self.hub.rows(f"select {', '.join(columns)} from public.pull_sources where id = %s", self.id)[0]
        return row[0] if len(row) == 1 else row

    def push(self, form: dict[str, Any], key: str | None = None) -> str:
        """As prime's form would; the site's own secret says whose it is."""
        recorded = self.hub.rows(
            "select hub.record_submission(%s, %s)",
            self.secret,
            submission(form, idempotency_key=key, submission_id=form.get("submission_id")),
        )[0][0]
        return "duplicate" if recorded["duplicate"] else "new"

    def events(self, columns: str = "data ->> 'name'") -> list[Any]:
        query = (
            f"select {columns} from public.events join public.sites on sites.id = events.site_id"
            " where sites.slug = %s and cause_id is null order by events.id"
        )
        return [row[0] if len(row) == 1 else row for row in self.hub.rows(query, self.name)]

    def found_by(self, check: str) -> list[str]:
        """What the data monitor would say of it."""
        query = (
            f"select found.message from public.organizations, private.{check}(organizations.id, '{{}}', now()) as found"
            " where organizations.slug = 'trades' and found.subject = %s"
        )
        return [message for (message,) in self.hub.rows(query, self.name)]

    def failures(self, columns: str = "key, reason") -> list[Any]:
        return list(
            self.hub.rows(
                f"select {columns} from public.pull_failures where source_id = %s order by id", self.id
            )
        )


def add_source(hub: Hub, partner: Partner, **columns: Any) -> Source:
    name = f"partner-{uuid.uuid4().hex[:10]}"
    hub.sql(
        "insert into public.sites (org_id, number, slug, name, url) select id,"
        " (select max(number) + 1 from public.sites), %s, 'Partner', 'https://partner.example'"
        " from public.organizations where slug = 'trades'",
        name,
    )
    source_id = hub.rows(
        "insert into public.pull_sources (org_id, site_id, name, url) select org_id, id, slug, %s"
        " from public.sites where slug = %s returning id",
        partner.url,
        name,
    )[0][0]
    hub.sql("select private.set_pull_token(%s, %s)", source_id, TOKEN)
    secret = hub.rows("select private.set_site_secret(%s, %s)", name, f"secret-of-{name}")[0][0]
    source = Source(hub, partner, source_id, name, secret)
    if columns:
        source.set(**columns)
    return source


@pytest.fixture
def partner() -> Iterator[Partner]:
    with serving(Partner([item(number) for number in range(250)])) as partner:
        yield partner


@pytest.fixture
def source(hub: Hub, partner: Partner) -> Iterator[Source]:
    source = add_source(hub, partner)
    yield source
    source.set(enabled=False)


# What comes of a list ------------------------------------------------------------------------------------------------


def test_250_items_become_250_events_and_a_second_pull_adds_nothing(source: Source, partner: Partner) -> None:
    first = source.pull()
    second = source.pull()

    assert (first["recorded"], first["failed"]) == (250, 0)
    assert (second["recorded"], second["failed"]) == (0, 0)
    assert source.events() == [f"Person {number}" for number in range(250)]
    assert [query.get("cursor") for query in partner.asked] == [None, "100", "200", "250"]


def test_an_item_becomes_what_its_push_would_have_been(hub: Hub, source: Source, partner: Partner) -> None:
    partner.items = [item(7, phone="021 555 0147", kind="form_submit", colour="green")]

    source.pull()

    event = source.events(
        "data -> 'form', type, source, occurred_at, events.contact_id, subject_type, (select count(*) from public.deliveries"
        " where event_id = events.id)"
    )[0]
    assert event[0] == {
        name: value for name, value in partner.items[0].items() if name not in ("id", "occurred_at", "kind")
    }
    assert event[1:4] == ("form.submitted", f"pull:{source.name}", datetime(2026, 11, 1, 0, 7, tzinfo=UTC))
    assert event[5:] == ("lead", 1)
    identifiers = hub.rows(
        "select value from public.contact_identifiers where contact_id = %s order by kind", event[4]
    )
    assert identifiers == [("person7@example.com",), ("+64215550147",)]


def test_a_mapping_names_what_its_items_call_otherwise(source: Source, partner: Partner) -> None:
    partner.items = [{"uuid": 8, "at": 1793000000, "who": {"full": "Jo Smith", "mail": "jo@example.com"}}]
    mapping = {"id": "uuid", "occurred_at": "at", "name": "who.full", "email": "who.mail"}
    source.set(mapping=json.dumps(mapping), id_prefix="b-")

    source.pull()

    who = {"full": "Jo Smith", "mail": "jo@example.com"}
    assert source.events("data") == [
        {
            "name": "Jo Smith",
            "email": "jo@example.com",
            "form": {"who": who, "name": "Jo Smith", "email": "jo@example.com"},
        }
    ]
    keys = "select key from public.receipts where source = 'site:' || %s and key like 'key:%%'"
    assert source.hub.rows(keys, source.name) == [("key:b-8",)]


def test_a_filled_honeypot_is_quarantined(source: Source, partner: Partner) -> None:
    partner.items = [item(1, website_url="https://spam.example")]

    source.pull()

    assert source.events("type, events.contact_id") == [("submission.quarantined", None)]


def test_items_that_come_twice_or_out_of_order_are_one_event_each(source: Source, partner: Partner) -> None:
    numbers = [*range(250), *range(0, 250, 3), 5, 5, 5]
    random.Random(1).shuffle(numbers)
    partner.items = [item(number) for number in numbers]

    assert source.pull()["recorded"] == 250
    assert sorted(source.events()) == sorted(f"Person {number}" for number in range(250))


def test_a_kind_that_nobody_knows_is_stored_as_its_push_would_be(source: Source, partner: Partner) -> None:
    partner.items = [item(1, kind="wizard.step_done")]

    assert source.pull()["recorded"] == 1
    assert source.events("type, unrecognised, events.contact_id is null, subject_id") == [
        ("wizard.step_done", True, False, None)
    ]


def test_no_list_says_what_only_the_hub_says(source: Source, partner: Partner) -> None:
    source.set(kinds=["form.submitted", "lead.qualified"])
    partner.items = [item(1, kind="lead.qualified"), item(2, kind="alert.opened")]

    source.pull()

    assert source.events() == []
    assert [reason for _, reason in source.failures()] == ["Its kind is not one of this source's."] * 2


def test_a_call_needs_nobody_to_answer(source: Source, partner: Partner) -> None:
    source.set(kinds=["form.submitted", "call.received"])
    partner.items = [{"id": 1, "kind": "voice_call", "summary": "Hung up."}, item(2, kind="call")]

    assert source.pull()["recorded"] == 2
    told = source.events("type, events.contact_id is null, subject_id")
    assert told == [("call.received", True, None), ("call.received", False, None)]


def test_a_booking_is_read_as_one(source: Source, partner: Partner) -> None:
    source.set(kinds=["booking.placed"], mapping=json.dumps({"slot": "when.start", "address": "where"}))
    listed = {"service": "Deep clean", "when": {"start": "2026-12-01 9:30"}, "where": "12 Ponsonby Road"}
    partner.items = [item(1, **listed, frequency="every 2 weeks")]

    source.pull()

    [(type_, data, subject)] = source.events("type, data, subject_type")
    assert (type_, subject) == ("booking.placed", "lead")
    read = {name: data[name] for name in ("name", "service", "address", "slot", "recurrence")}
    assert read == {
        "name": "Person 1",
        "service": "Deep clean",
        "address": "12 Ponsonby Road",
        "slot": "2026-12-01T09:30",
        "recurrence": "fortnightly",
    }
    assert data["form"]["where"] == "12 Ponsonby Road"


def test_a_long_page_is_recorded_whole(source: Source, partner: Partner) -> None:
    source.set(page_size=500)
    partner.items = [item(number) for number in range(501)]

    assert source.pull()["recorded"] == 501
    assert len(partner.asked) == 2


def test_two_items_of_the_same_words_are_two_events(source: Source, partner: Partner) -> None:
    partner.items = [item(1), item(1, id="another")]

    assert source.pull()["recorded"] == 2
    source.set(cursor=None)
    assert source.pull()["recorded"] == 0


def test_a_list_by_time_is_read_from_the_last_time(source: Source, partner: Partner) -> None:
    source.set(paging="since", page_size=50)
    source.set(cursor="2026-01-01T00:00:00Z")
    partner.items.sort(key=lambda each: each["occurred_at"])

    assert source.pull()["recorded"] == 250
    partner.items.append(item(999, occurred_at="2026-11-20T00:00:00Z"))
    assert source.pull()["recorded"] == 1
    assert source.pull()["recorded"] == 0


# Push and pull ---------------------------------------------------------------------------------------------------------

PUSHES: dict[str, Callable[[int], dict[str, Any]]] = {
    "with its id in the body": lambda number: {"form": form(number, submission_id=f"item-{number}")},
    "with its id as Idempotency-Key": lambda number: {"form": form(number), "key": f"item-{number}"},
    "with another Idempotency-Key than its id": lambda number: {
        "form": form(number, submission_id=f"item-{number}"),
        "key": f"attempt-{uuid.uuid4().hex}",
    },
    "without any key": lambda number: {"form": form(number)},
}


def form(number: int, **changes: Any) -> dict[str, Any]:
    listed = item(number, **changes)
    return {name: value for name, value in listed.items() if name not in ("id", "occurred_at")}


@pytest.mark.parametrize("push", PUSHES)
def test_a_pull_after_pushes_adds_only_what_they_lost(source: Source, partner: Partner, push: str) -> None:
    listed, partner.items = partner.items[:20], []
    source.set(pushes=True)
    source.pull()
    partner.items = listed
    for number in range(20):
        if number not in (3, 11):
            assert source.push(**PUSHES[push](number)) == "new"

    counts = source.pull()

    assert (counts["recorded"], counts["duplicates"]) == (2, 18)
    assert source.get("items", "gaps") == (2, 2)
    reconciled = source.events("data ->> 'name', events.source")[-2:]
    assert reconciled == [("Person 3", f"pull:{source.name}"), ("Person 11", f"pull:{source.name}")]


def test_a_push_that_loses_is_found_and_a_first_import_is_none(source: Source, partner: Partner) -> None:
    source.set(pushes=True)
    listed, partner.items = partner.items[:25], partner.items[:20]
    source.pull()
    imported = source.found_by("check_pull_gaps")
    assert (imported, source.get("items", "gaps")) == ([], (20, 0))

    partner.items = listed
    source.pull()

    assert source.get("items", "gaps") == (25, 5)
    lost = "5 submissions of Partner came only by pull within the last hour: its push loses them."
    assert source.found_by("check_pull_gaps") == [lost]
    source.set(pushes=False)
    assert source.found_by("check_pull_gaps") == []


@pytest.mark.parametrize("push", PUSHES)
def test_a_push_after_the_pull_adds_nothing(source: Source, partner: Partner, push: str) -> None:
    partner.items = partner.items[:20]
    source.pull()

    pushed = {source.push(**PUSHES[push](number)) for number in range(20)}

    assert pushed == {"duplicate"}
    assert len(source.events()) == 20


@pytest.mark.parametrize("push", PUSHES)
def test_pushes_and_pulls_at_once_make_one_event_of_each(source: Source, partner: Partner, push: str) -> None:
    partner.items = partner.items[:60]
    source.set(page_size=20)
    source.be_due()
    numbers = list(range(60)) * 2
    random.Random(2).shuffle(numbers)

    sent = [PUSHES[push](number) for number in numbers]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        pulling = pool.submit(source.call)
        list(pool.map(lambda each: source.push(**each), sent))

    assert pulling.result().status_code == 200
    source.pull()
    assert sorted(source.events()) == sorted(f"Person {number}" for number in range(60))


def test_a_form_that_came_through_the_sites_own_function_is_not_pulled_again(
    hub: Hub, source: Source, partner: Partner
) -> None:
    hub.sql(
        "update public.pull_sources set site_id = sites.id from public.sites"
        " where sites.slug = 'prime' and pull_sources.id = %s",
        source.id,
    )
    partner.items = [item(number, id=f"{source.name}-{number}") for number in range(3)]
    headers = {
        "x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"],
        "idempotency-key": f"attempt-{source.name}",
    }
    pushed = form(1, submission_id=f"{source.name}-1")
    url = f"{hub.url}/functions/v1/ingest-prime"

    first = web.post(url, json=pushed, headers=headers).json()
    counts = source.pull()
    again = web.post(url, json=pushed, headers={**headers, "idempotency-key": "another"}).json()
    late = web.post(
        url,
        json={**form(2), "submission_id": f"{source.name}-2"},
        headers=headers | {"idempotency-key": "late"},
    ).json()

    assert (counts["recorded"], counts["duplicates"]) == (2, 1)
    assert (again["event_id"], again["duplicate"]) == (first["event_id"], True)
    assert late["duplicate"] is True


def by_page(source: Source, form: dict[str, Any], key: str | None = None) -> Any:
    """As a visitor's browser would, with the key of the site's pages."""
    return source.hub.rows(
        "select hub.record_submission(site_secrets.id, %s)"
        " from private.site_secrets join public.sites on sites.id = site_id where slug = %s and kind = 'page'",
        submission(form, idempotency_key=key),
        source.name,
    )[0][0]


@pytest.mark.parametrize("key", [None, "item-1"])
def test_what_a_page_has_sent_is_not_pulled_again(source: Source, partner: Partner, key: str | None) -> None:
    partner.items = [item(1)]
    sent = by_page(source, form(1), key)

    counts = source.pull()
    source.set(cursor=None)
    source.hub.sql("delete from public.receipts where event_id = %s and key like 'page%%'", sent["event_id"])
    again = source.pull()

    assert (counts["duplicates"], again["duplicates"]) == (1, 1)
    assert source.events("events.id::text") == [sent["event_id"]]


def test_a_page_cannot_take_the_id_of_an_item(source: Source, partner: Partner) -> None:
    partner.items = [item(1)]
    by_page(source, form(1, message="something else"), "item-1")

    assert source.pull()["recorded"] == 1
    assert source.events("data ->> 'message'") == ["something else", partner.items[0]["message"]]


def test_a_page_cannot_take_the_words_of_a_push(source: Source) -> None:
    by_page(source, form(1))

    assert source.push(form(1)) == "new"


def test_the_same_words_under_a_new_key_and_id_are_a_new_form(source: Source) -> None:
    one = source.push(form(1, submission_id="a"), key="k1")
    other_words = source.push(form(2, submission_id="a"), key="k2")
    other_id = source.push(form(1, submission_id="b"), key="k3")

    assert (one, other_words, other_id) == ("new", "new", "new")


def test_a_cursor_that_is_set_back_doubles_nothing_however_old_the_receipts(source: Source) -> None:
    source.pull()
    source.hub.sql(
        "update public.receipts set created_at = now() - interval '1 year' where source = 'site:' || %s",
        source.name,
    )
    source.hub.sql("select private.prune_history()")
    source.set(cursor=None)

    assert source.pull()["recorded"] == 0


def test_a_pushed_id_of_another_kind_is_not_taken_for_the_same(source: Source, partner: Partner) -> None:
    source.hub.sql(
        "insert into public.event_types (name, description, from_sites, schema, sample) values ('quote.asked', 'For tests', true, '{\"type\": \"object\"}', '{\"message\": \"x\"}') on conflict do nothing"
    )
    source.set(kinds=["form.submitted", "quote.asked"])
    source.push(form(1), key="item-1")
    partner.items = [item(1, kind="quote.asked")]

    assert source.pull()["failed"] == 1
    assert source.failures() == [("item-1", "Something of another kind has this id.")]


# Bad items -------------------------------------------------------------------------------------------------------------

BAD = {
    "no address": (item(500, email="not one"), "An e-mail address or a phone number is needed."),
    "no id": ({"name": "Jo", "email": "jo@example.com"}, "id is missing"),
    "no object": ("a text", "It is not an object."),
    "nothing": (None, "It is not an object."),
    "a NUL": (item(501, message="a\0b"), "NUL"),
    "half a pair": (item(502, message="\ud800"), "surrogate"),
    "too deep": (item(503, deep=json.loads("[" * 60 + "]" * 60)), "deep"),
    "a huge number": (item(504, price=10**400), "JSON"),
    "no time": (item(505, occurred_at="yesterday"), "occurred_at is not a time"),
    "a strange id": (item(506, id={"a": 1}), "id is not a text"),
    "a long id": (item(507, id="x" * 300), "id is not a text"),
    "what only the hub says": (item(508, kind="lead.qualified"), "kind is not one of this source's"),
    "a kind that is not its list's": (item(509, kind="voice_call"), "kind is not one of this source's"),
    "a kind that is no name": (item(510, kind="Form submitted!"), "kind is not a name"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_item_is_kept_with_its_reason_and_stops_nothing(
    source: Source, partner: Partner, bad: str
) -> None:
    listed, reason = BAD[bad]
    partner.items = [item(1), listed, item(2)]

    counts = source.pull()

    assert (counts["recorded"], counts["failed"]) == (2, 1)
    assert source.events() == ["Person 1", "Person 2"]
    [(why, kept, status)] = source.failures("reason, item, status::text")
    assert reason in why
    assert status == "open"
    if bad != "a huge number":
        assert json.loads(kept) == listed


def test_an_item_that_sql_refuses_is_kept_and_stops_nothing(source: Source, partner: Partner) -> None:
    # On receipts: a trigger on the partitioned events could deadlock with an agent that works.
    source.hub.sql(
        "create function private.fail_some() returns trigger language plpgsql as $$ begin"
        f" if new.source = 'site:{source.name}' and new.key = 'key:item-1' then raise exception 'planted: %', new.key; end if;"
        " return new; end $$;"
        " create trigger planted before insert on public.receipts for each row execute function private.fail_some()"
    )
    partner.items = [item(0), item(1), item(2)]

    try:
        counts = source.pull()
    finally:
        source.hub.sql("drop trigger planted on public.receipts; drop function private.fail_some()")

    assert (counts["recorded"], counts["failed"]) == (2, 1)
    assert source.failures() == [("item-1", "It could not be recorded: P0001")]


def test_a_failed_item_is_read_again_when_a_person_says_so(
    hub: Hub, source: Source, partner: Partner
) -> None:
    partner.items = [{"nr": 1, **form(1)}, item(2, email="none")]
    source.pull()
    source.set(mapping=json.dumps({"id": "nr"}))

    changed = web.patch(
        f"{hub.url}/rest/v1/pull_failures?source_id=eq.{source.id}",
        json={"status": "retry"},
        headers={**hub.signed_in("OPERATOR"), "prefer": "return=representation"},
    )
    counts = source.pull()

    assert [row["status"] for row in changed.json()] == ["retry", "retry"]
    assert (counts["recorded"], counts["failed"]) == (1, 1)
    assert source.failures("status::text, event_id is null, attempts")[0] == ("resolved", False, 1)
    assert "Person 1" in source.events()


def test_an_item_that_its_partner_has_mended_is_resolved(source: Source, partner: Partner) -> None:
    partner.items = [item(1, email="none")]
    source.pull()
    partner.items = [item(1)]
    source.set(cursor=None)

    source.pull()

    assert source.failures("status::text") == [("resolved",)]
    assert source.events() == ["Person 1"]


# The watermark -----------------------------------------------------------------------------------------------------------


def test_the_watermark_is_when_the_end_was_reached_and_people_see_it(hub: Hub, source: Source) -> None:
    before = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)

    source.pull()

    seen = web.get(
        f"{hub.url}/rest/v1/pull_sources?id=eq.{source.id}&select=name,watermark,gaps,last_error,last_success_at",
        headers=hub.signed_in("VIEWER"),
    ).json()[0]
    assert before <= datetime.fromisoformat(seen["watermark"]) <= datetime.now(UTC)
    assert (seen["name"], seen["gaps"], seen["last_error"]) == (source.name, 0, None)


def test_the_watermark_stays_until_the_end_is_reached(source: Source, partner: Partner) -> None:
    partner.replies.extend([None, None, Reply(503)])

    source.pull()
    unfinished = source.get("watermark", "cursor", "last_error", "failures")
    source.pull()

    assert unfinished == (None, "200", "answered 503", 1)
    assert source.get("watermark") is not None
    assert source.get("cursor", "last_error", "failures") == ("250", None, 0)


def test_the_slower_clock_counts_and_it_never_goes_back(source: Source, partner: Partner) -> None:
    source.pull()
    reached = source.get("watermark")
    slow = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    partner.items = []
    page = json.dumps({"items": [], "has_more": False}).encode()
    partner.replies.append(Reply(body=page, headers={"Date": format_datetime(slow, usegmt=True)}))
    source.pull()
    went_back = source.get("watermark")
    source.set(watermark=slow - timedelta(days=1))
    partner.replies.append(Reply(body=page, headers={"Date": format_datetime(slow, usegmt=True)}))
    source.pull()

    assert went_back == reached
    assert source.get("watermark") == slow


def test_what_is_not_here_holds_the_watermark_until_a_person_decides(
    source: Source, partner: Partner
) -> None:
    partner.items = [item(1), item(2, email="none"), item(3)]

    source.pull()
    held, found = source.get("watermark"), source.found_by("check_pull_failed")
    source.hub.sql("update public.pull_failures set status = 'dismissed' where source_id = %s", source.id)
    source.pull()

    assert found == ["1 items wait for a decision (pull_failures)."]
    assert source.found_by("check_pull_failed") == []
    assert held == datetime(2026, 11, 1, 0, 2, tzinfo=UTC)
    assert source.get("watermark") > datetime.now(UTC) - timedelta(minutes=1)


# Partners that fail ------------------------------------------------------------------------------------------------------

FAILING = {
    "an error": (Reply(500), "answered 500"),
    "a refusal": (Reply(403), "answered 403"),
    "no JSON": (Reply(body=b"<html>"), "not a JSON object"),
    "a list": (Reply(body=b"[]"), "not a JSON object"),
    "no items": (Reply(body=b'{"data": []}'), "items"),
    "half a page": (Reply(body=b'{"items": []}', cut=5), "RemoteProtocolError"),
    "half a page that looks whole": (Reply(body=b'{"items": [{"id": 1}'), "not a JSON object"),
    "too many bytes": (Reply(body=b'{"items": ["' + b"x" * 5_000_001 + b'"]}'), "more than 5 MB"),
    "too many items": (Reply(body=json.dumps({"items": [1] * 1001}).encode()), "items"),
    "a redirect": (Reply(302, headers={"location": "http://127.0.0.1:1/"}), "answered 302"),
    "compressed": (Reply(headers={"content-encoding": "gzip"}), "compressed"),
    "depth without end": (Reply(body=b'{"items": ' + b"[" * 200_000), "not a JSON object"),
    "more and not where": (Reply(body=b'{"items": [], "has_more": true}'), "not where"),
}


@pytest.mark.parametrize("failing", FAILING)
def test_a_partners_failure_is_told_and_the_next_pull_makes_up_for_it(
    source: Source, partner: Partner, failing: str
) -> None:
    reply, reason = FAILING[failing]
    source.set(page_size=10)
    partner.items = partner.items[:25]
    partner.replies.extend([None, reply])

    failed = source.pull()
    error, failures, leased = source.get("last_error", "failures", "lease_token is not null")
    source.pull()

    assert (failed["failed_pulls"], failed["recorded"]) == (1, 10)
    assert reason in error
    assert (failures, leased) == (1, False)
    assert source.events() == [f"Person {number}" for number in range(25)]
    assert source.get("last_error", "failures") == (None, 0)


@pytest.mark.parametrize("reply", [Reply(stall=30), Reply(body=b"x" * 1000, drip=0.01)])
def test_a_stalling_partner_is_left_after_its_time(
    partner: Partner, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partners, "TIMEOUT", 0.3)
    monkeypatch.setenv("PARTNERS_MAY_BE_LOCAL", "1")
    partner.replies.append(reply)

    async def ask() -> None:
        async with Client() as client:
            await partners.page(client, partner.url, TOKEN, {"limit": "1"})

    with pytest.raises(partners.PartnerFailed, match=r"no answer within 0\.3 s"):
        asyncio.run(ask())


def test_a_token_that_no_header_can_carry_is_told(source: Source) -> None:
    source.hub.sql("select private.set_pull_token(%s, %s)", source.id, "tökén")

    source.pull()

    assert source.get("last_error") == "could not be reached: the URL or a header cannot be written"


def test_a_token_that_the_vault_cannot_read_stops_no_other_source(source: Source, partner: Partner) -> None:
    partner.items = [item(1)]
    other = add_source(source.hub, partner)
    source.hub.as_superuser(
        f"update vault.secrets set secret = 'bm90IGEgY2lwaGVydGV4dA==' where name = 'pull_source:{source.id}'"
    )
    source.be_due()

    other.pull()
    other.pull()

    assert len(other.events()) == 1
    assert source.get("last_error is not null") is True


def test_no_log_line_holds_the_token_or_what_was_listed(source: Source, partner: Partner) -> None:
    partner.items = [item(1, name="Canary Person", email="canary@"), item(2, email="canary@example.com")]
    partner.replies.append(Reply(500, body=TOKEN.encode()))

    source.pull()
    source.pull()

    written = "".join(path.read_text(errors="replace") for path in (source.hub.state / "logs").glob("*.log"))
    assert [text for text in (TOKEN, "Canary", "canary@") if text in written] == []


def test_nobody_there_is_told(source: Source) -> None:
    source.set(url="http://127.0.0.1:1/nothing")

    source.pull()

    assert source.get("last_error") == "could not be reached: no answer: ConnectError"


@pytest.mark.parametrize("said", ["seconds", "a date"])
def test_retry_after_is_obeyed(source: Source, partner: Partner, said: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    partner.replies.append(Reply(429, headers={"Retry-After": "600" if said == "seconds" else date}))

    source.pull()

    wait = source.get("extract(epoch from next_at - now())")
    assert 500 < wait <= 601
    asked = len(partner.asked)
    source.call()
    assert len(partner.asked) == asked


def test_failures_are_retried_later_and_later_but_never_less_often_than_usual(
    source: Source, partner: Partner
) -> None:
    waits = []
    for _ in range(6):
        partner.replies.append(Reply(500))
        source.pull()
        waits.append(round(source.get("extract(epoch from next_at - now())") / 60))

    assert waits == [1, 2, 4, 8, 15, 15]


LOOPS: dict[str, Callable[[dict[str, str], dict[str, Any]], dict[str, Any]]] = {
    "the same cursor again": lambda query, page: {
        **page,
        "next_cursor": query.get("cursor", "0"),
        "has_more": True,
    },
    "a circle": lambda query, page: {
        **page,
        "next_cursor": {"": "100", "100": "200", "200": "100"}[query.get("cursor", "")],
        "has_more": True,
    },
    "empty pages for ever": lambda query, page: {
        "items": [],
        "next_cursor": str(int(query.get("cursor", 0)) + 1),
        "has_more": True,
    },
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_list_without_an_end_is_noticed(source: Source, partner: Partner, loop: str) -> None:
    partner.bent = LOOPS[loop]

    source.pull()

    assert len(partner.asked) <= 20
    assert "there is more" in source.get("last_error")
    assert len(source.events()) == len(set(source.events()))


# One pull at a time, and none that lasts for ever --------------------------------------------------------------------------


def test_two_pulls_of_one_source_never_interleave(source: Source, partner: Partner) -> None:
    partner.pause = 0.05
    source.set(page_size=10)
    source.be_due()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: source.call(), range(4)))

    assert {answer.status_code for answer in answers} == {200}
    assert partner.most_at_once == 1
    assert len(partner.asked) == 25
    assert len(source.events()) == 250


def test_who_lost_the_lease_or_the_place_records_nothing(source: Source) -> None:
    source.be_due()
    claimed = source.hub.rows("select hub.claim_pull()")[0][0]
    page = json.dumps([{"key": "x", "item": "{}", "form": {}, "contact": {"email": "x@example.com"}}])
    record = "select hub.record_page(%s, %s, %s, %s)"

    stranger = source.hub.rows(record, source.id, uuid.uuid4(), page, None)
    elsewhere = source.hub.rows(record, source.id, claimed["lease_token"], page, "another cursor")
    ours = source.hub.rows(record, source.id, claimed["lease_token"], page, None)

    assert [stranger[0][0], elsewhere[0][0]] == [{"is_ours": False}] * 2
    assert ours[0][0]["recorded"] == 1
    assert len(source.events()) == 1


def test_a_long_list_goes_on_at_the_next_tick(source: Source, partner: Partner) -> None:
    source.set(page_size=1)

    first = source.pull()
    due_in = source.get("extract(epoch from next_at - now())")
    second = source.pull()

    assert (first["recorded"], second["recorded"]) == (200, 50)
    assert 0 < due_in < 60


def test_a_site_a_source_or_an_organization_that_is_off_is_not_pulled(
    source: Source, partner: Partner
) -> None:
    source.set(enabled=False)
    source.pull()
    source.set(enabled=True)
    source.hub.sql("update public.sites set enabled = false where slug = %s", source.name)
    source.pull()

    assert partner.asked == []


def test_the_clock_kicks_it(own_hub: Any, partner: Partner) -> None:
    job = own_hub.rows("select schedule, command from cron.job where jobname = 'pull_sites'")[0]
    source = add_source(own_hub, partner)
    assert job[0] == "* * * * *"

    own_hub.sql(job[1])

    assert own_hub.until(lambda: source.get("last_success_at is not null and lease_token is null"))
    assert len(source.events()) == 250
    assert 14 * 60 < source.get("extract(epoch from next_at - now())") <= 15 * 60
    assert own_hub.rows("select private.kick_pulls()") == [(None,)]


# Kills ----------------------------------------------------------------------------------------------------------------------


def test_killed_at_item_100_the_rerun_makes_250_events(own_hub: Hub, partner: Partner) -> None:
    source = add_source(own_hub, partner)
    own_hub.sql(
        "create function private.stop_here() returns trigger language plpgsql as $$ begin"
        " if new.key = 'key:item-150' then perform pg_sleep(60); end if; return new; end $$;"
        " create trigger planted after insert on public.receipts for each row execute function private.stop_here()"
    )
    source.be_due()
    own_hub.sql("select private.invoke('pull-site')")
    sleeping = (
        "select count(*) from pg_stat_activity where usename = 'hub_service' and wait_event = 'PgSleep'"
    )
    assert own_hub.until(lambda: own_hub.rows(sleeping) == [(1,)])

    os.kill(own_hub.process_of("gateway"), signal.SIGKILL)
    own_hub.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'hub_service'")
    own_hub.sql("drop trigger planted on public.receipts")
    after_the_kill = len(source.events())
    source.lapse()
    source.pull()

    assert after_the_kill == 100
    assert source.events() == [f"Person {number}" for number in range(250)]


@pytest.mark.timeout(200)
def test_250_items_are_250_events_through_kills_of_everything(own_hub: Hub, partner: Partner) -> None:
    source = add_source(own_hub, partner, page_size=scaled(40, 10))
    partner.pause = 0.1
    chance = random.Random(7)
    kills = 0
    while source.get("last_success_at") is None and kills < 40:
        source.lapse()
        own_hub.sql("select private.invoke('pull-site')")
        asked = len(partner.asked)
        # Not before it has begun.
        if own_hub.until(lambda: len(partner.asked) > asked, 5):  # noqa: B023
            time.sleep(chance.uniform(0, 0.4))
        with contextlib.suppress(ProcessLookupError):
            os.kill(
                own_hub.process_of(chance.choice(["gateway", "gateway", "workers", "postgres"])),
                signal.SIGKILL,
            )
            kills += 1
        assert own_hub.until(own_hub.database_answers)
        assert own_hub.until(lambda: web.get(f"{own_hub.url}/health").status_code == 200)

    assert kills >= 3
    source.lapse()
    assert own_hub.until(
        lambda: source.call().status_code == 200 and source.get("last_success_at") is not None
    )
    assert sorted(source.events()) == sorted(f"Person {number}" for number in range(250))
    assert source.get("items") == 250
