"""Contacts: who is who, what is known of them and who said it, and what one page of their history shows."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from support.hubs import Hub, Post
from support.recorded import submission

type Rest = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def http(hub: Hub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, timeout=30) as client:
        yield client


@pytest.fixture
def rest(hub: Hub, http: httpx.Client) -> Rest:
    def get(path: str, **params: Any) -> list[dict[str, Any]]:
        headers = {"apikey": hub.env["SUPABASE_SECRET_KEY"]}
        answer = http.get(f"/rest/v1/{path}", params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    return get


def unique_phone() -> str:
    return f"0215{uuid.uuid4().int % 1_000_000:06d}"


def record(hub: Hub, site: str, contact: dict[str, Any], said_at: str | None = None) -> dict[str, Any]:
    """As an ingest function records it: for sites that have none yet, and for events that come late."""
    [(recorded,)] = hub.rows(
        "select hub.record_submission(site_secrets.id, %s)"
        " from private.site_secrets join public.sites on sites.id = site_id where slug = %s and kind = 'static' limit 1",
        submission({"message": "hello"}, contact, idempotency_key=uuid.uuid4().hex, occurred_at=said_at),
        site,
    )
    return dict(recorded)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("jo.smith@gmail.com", "josmith@gmail.com"),
        ("JoSmith+prime@GoogleMail.com", "josmith@gmail.com"),
        ("jo.smith+x@outlook.com", "jo.smith@outlook.com"),
        ("jo.smith+x@hotmail.co.nz", "jo.smith@hotmail.co.nz"),
        ("jo.smith+x@live.com.au", "jo.smith@live.com.au"),
        ("jo.smith+x@icloud.com", "jo.smith@icloud.com"),
        ("jo.smith+x@fastmail.com", "jo.smith@fastmail.com"),
        ("jo.smith+x@proton.me", "jo.smith@proton.me"),
        ("jo.smith+x@yahoo.com", "jo.smith+x@yahoo.com"),
        ("Jo.Smith+x@example.com", "jo.smith+x@example.com"),
        ("jo+x@gmail.com.example.org", "jo+x@gmail.com.example.org"),
        ("+x@gmail.com", "+x@gmail.com"),
        ("...@gmail.com", "...@gmail.com"),
    ],
)
def test_an_address_matches_by_its_providers_rules_and_no_others(hub: Hub, address: str, key: str) -> None:
    assert hub.rows(
        "select private.email_key(%s), private.email_key(private.email_key(%s))", address, address
    ) == [(key, key)]


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("jo@gmial.com", "jo@gmail.com"),
        ("jo@hotmial.co.nz", "jo@hotmail.co.nz"),
        ("jo@gmail.co", "jo@gmail.com"),
        ("jo@gmail.con", "jo@gmail.com"),
        ("jo@xtra.co.nx", "jo@xtra.co.nz"),
        ("jo@smith-builders.con", "jo@smith-builders.com"),
        ("jo@gmail.com", None),
        ("jo@ymail.com", None),
        ("jo@mail.com", None),
        ("jo@yahoo.co.nz", None),
        ("jo@smith-builders.co", None),
        ("jo@example.co.nz", None),
    ],
)
def test_a_mistyped_domain_is_suggested(hub: Hub, address: str, meant: str | None) -> None:
    assert hub.rows("select private.email_suggestion(%s)", address) == [(meant,)]


def test_spellings_of_one_mailbox_are_one_contact_and_the_address_stays_as_given(
    post: Post, rest: Rest
) -> None:
    mailbox = f"jo{uuid.uuid4().hex[:10]}"
    first = post(email=f"{mailbox[:2]}.{mailbox[2:]}+prime@gmail.com")["contact_id"]

    again = [post(email=f"{mailbox.upper()}@GoogleMail.com")["contact_id"] for _ in range(2)]

    assert again == [first, first]
    identifiers = rest("contact_identifiers", contact_id=f"eq.{first}", select="value,match_key")
    assert identifiers == [
        {"value": f"{mailbox[:2]}.{mailbox[2:]}+prime@gmail.com", "match_key": f"{mailbox}@gmail.com"}
    ]


def test_a_mistyped_address_is_shown_with_what_was_meant_and_not_changed(post: Post, rest: Rest) -> None:
    typed = f"{uuid.uuid4().hex}@gmial.com"

    contact = post(email=typed)["contact_id"]

    found = rest("contact_identifiers", contact_id=f"eq.{contact}", select="value,suggestion")
    assert found == [{"value": typed, "suggestion": typed.replace("gmial", "gmail")}]
    assert post(email=typed.replace("gmial", "gmail"))["contact_id"] != contact


def test_the_same_person_at_three_sites_is_one_contact_with_three_leads(hub: Hub) -> None:
    mailbox = uuid.uuid4().hex[:12]
    spellings = (
        f"{mailbox}@gmail.com",
        f"{mailbox}+akf@gmail.com",
        f"{mailbox[:4]}.{mailbox[4:]}@googlemail.com",
    )

    contacts = {
        record(hub, site, {"email": email})["contact_id"]
        for site, email in zip(("prime", "akf", "cleanjet"), spellings, strict=True)
    }

    assert len(contacts) == 1
    assert hub.rows(
        "select array_agg(slug order by slug) from public.leads join public.sites on sites.id = site_id where contact_id = %s",
        contacts.pop(),
    ) == [(["akf", "cleanjet", "prime"],)]


@pytest.mark.parametrize(
    ("table", "select"),
    [
        ("leads", "id,contacts(name)"),
        ("leads", "id,sites(slug)"),
        ("contacts", "id,leads(score)"),
        ("contacts", "contact_identifiers(value)"),
        ("contacts", "events(type),contact_facts(key)"),
        ("events", "type,contacts(name),sites(slug)"),
        ("agent_actions", "decision,agents(name),agent_versions(version),contacts(name),leads(score)"),
        ("deliveries", "status,subscriptions(name,agents(name))"),
        ("alerts", "kind,sites(slug)"),
    ],
)
def test_what_belongs_together_is_read_together_without_a_hint(rest: Rest, table: str, select: str) -> None:
    rest(table, select=select, limit=1)


def test_one_address_at_two_sites_is_one_cross_sell_naming_both(hub: Hub, rest: Rest) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    for site in ("prime", "prime", "akf", "akf"):
        contact = record(hub, site, {"email": email})["contact_id"]

    found = rest("cross_sell_events", contact_id=f"eq.{contact}", select="known_site,site")

    assert found == [{"known_site": "prime", "site": "akf"}]


def test_a_won_lead_makes_a_customer(hub: Hub, post: Post, rest: Rest) -> None:
    contact = post(name="Jo Smith", email=f"{uuid.uuid4().hex}@example.com")["contact_id"]
    before = rest("customers", id=f"eq.{contact}")

    hub.sql("update public.leads set stage = 'won' where contact_id = %s", contact)

    assert before == []
    customers = rest("customers", id=f"eq.{contact}", select="name,won_leads,sites")
    assert customers == [{"name": "Jo Smith", "won_leads": 1, "sites": ["prime"]}]


def test_a_phone_of_two_who_agree_by_name_decides_for_neither(hub: Hub, post: Post) -> None:
    phone = unique_phone()
    # Both are there before either gives the number, so nothing brings them together.
    ann, other = (
        post(name="Ann Lee", email=f"{uuid.uuid4().hex}@example.com")["contact_id"] for _ in range(2)
    )
    for contact in (ann, other):
        email = hub.rows("select value from public.contact_identifiers where contact_id = %s", contact)[0][0]
        assert post(name="Ann Lee", email=email, phone=phone)["contact_id"] == contact

    third = post(name="Ann Lee", phone=phone)["contact_id"]

    assert third not in (ann, other)
    assert post(name="Ann Lee", phone=phone)["contact_id"] == third
    pairs = hub.rows(
        "select contact_id::text, other_id::text from public.merge_candidates where contact_id::text = any(%(ids)s) or other_id::text = any(%(ids)s)",
        ids=[ann, other, third],
    )
    assert sorted(map(sorted, pairs)) == sorted(map(sorted, [(ann, other), (ann, third), (other, third)]))


def test_the_exact_name_decides_over_the_half_one(post: Post) -> None:
    phone = unique_phone()
    half = post(name="Ann", email=f"{uuid.uuid4().hex}@example.com", phone=phone)["contact_id"]
    exact = post(name="Bob Ray", email=(email := f"{uuid.uuid4().hex}@example.com"), phone=phone)[
        "contact_id"
    ]
    post(name="Ann Lee", email=email)

    assert post(name="Lee, Ann", phone=phone)["contact_id"] == exact != half


def test_a_phone_without_a_name_does_not_join_two_addresses(post: Post) -> None:
    phone = unique_phone()

    contacts = {post(email=f"{uuid.uuid4().hex}@example.com", phone=phone)["contact_id"] for _ in range(2)}

    assert len(contacts) == 2


def test_the_queue_shows_side_by_side_what_agrees_what_differs_and_who_said_so(
    post: Post, rest: Rest
) -> None:
    phone = unique_phone()
    emails = [f"{uuid.uuid4().hex}@example.com" for _ in range(2)]
    ann = post(name="Ann Lee", email=emails[0], phone=phone)
    bob = post(name="Bob Lee", email=emails[1], phone=phone)

    (pair,) = rest("merge_queue", contact_id=f"eq.{ann['contact_id']}")

    number = "+64" + phone[1:]
    assert (pair["contact_id"], pair["other_id"]) == (ann["contact_id"], bob["contact_id"])
    assert (pair["name"], pair["other_name"]) == ("Ann Lee", "Bob Lee")
    assert (pair["emails"], pair["other_emails"]) == ([emails[0]], [emails[1]])
    assert (pair["agrees"], pair["differs"]) == (["phone"], ["name", "email"])
    assert pair["shared"] == [
        {
            "kind": "phone",
            "value": number,
            "other_value": number,
            "event_id": ann["event_id"],
            "other_event_id": bob["event_id"],
        }
    ]


def test_facts_keep_which_event_said_them_and_when(post: Post, rest: Rest, hub: Hub) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    first = post(email=email, name="Jo", suburb="Ponsonby", lang="mi", phone="ring the office")
    second = post(email=email, name="Jo Smith", suburb="Mt Eden")

    assert hub.until(
        lambda: (
            [
                f["value"]
                for f in rest("contact_facts", key="eq.lead_score", contact_id=f"eq.{first['contact_id']}")
            ]
            != []
        )
    )
    facts = rest(
        "contact_facts",
        contact_id=f"eq.{first['contact_id']}",
        key="neq.lead_score",
        order="key",
        select="key,value,event_id",
    )
    assert [(fact["key"], fact["value"], fact["event_id"]) for fact in facts] == [
        ("area", "Mt Eden", second["event_id"]),
        ("language", "mi", first["event_id"]),
        ("name", "Jo Smith", second["event_id"]),
        ("phone", "ring the office", first["event_id"]),
    ]
    contact = rest("golden_contacts", id=f"eq.{first['contact_id']}")[0]
    assert (contact["name"], contact["language"]) == ("Jo Smith", "mi")
    assert contact["attributes"]["area"] == "Mt Eden"


def test_a_later_event_wins_in_whatever_order_they_come(hub: Hub, rest: Rest) -> None:
    email = f"{uuid.uuid4().hex}@example.com"

    def says(name: str, area: str) -> dict[str, Any]:
        return {"email": email, "name": name, "facts": {"name": name, "area": area}}

    record(hub, "prime", says("Jo Smith", "Ponsonby"), "2026-11-03T00:00Z")
    record(hub, "prime", says("Jo Brown", "Mt Eden"), "2026-11-05T00:00Z")

    late = record(hub, "prime", says("Jo Smith", "Howick"), "2026-11-04T00:00Z")

    contact = rest("golden_contacts", id=f"eq.{late['contact_id']}")[0]
    assert (contact["name"], contact["attributes"]["area"]) == ("Jo Brown", "Mt Eden")


def test_half_a_name_does_not_replace_the_whole(post: Post, rest: Rest) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    contact = post(email=email, name="Jo Smith")["contact_id"]

    post(email=email, name="Jo")

    assert rest("contacts", id=f"eq.{contact}", select="name") == [{"name": "Jo Smith"}]


def test_what_a_person_corrects_no_event_overwrites(
    hub: Hub, http: httpx.Client, post: Post, rest: Rest
) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    contact = post(email=email, name="Jo Smiht")["contact_id"]
    operator = hub.signed_in("OPERATOR")

    http.patch(
        "/rest/v1/contacts", params={"id": f"eq.{contact}"}, json={"name": "Jo Smith"}, headers=operator
    ).raise_for_status()
    post(email=email, name="Jo Smiht")

    assert rest("contacts", id=f"eq.{contact}", select="name") == [{"name": "Jo Smith"}]
    (fact,) = rest("contact_facts", contact_id=f"eq.{contact}", key="eq.name")
    assert fact["said_by"] is not None
    assert fact["event_id"] is None


def test_the_timeline_pages_newest_first_through_events_and_actions(hub: Hub, post: Post, rest: Rest) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    forms = [post(email=email) for _ in range(5)]
    contact = forms[0]["contact_id"]
    done = "select count(*) from public.agent_actions where contact_id = %s"
    assert hub.until(lambda: hub.rows(done, contact) == [(5,)])

    pages: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while page := rest("rpc/contact_timeline", contact_id=contact, page_size=4, **cursor):
        pages.append(page)
        cursor = {"before_cursor": page[-1]["id"]}

    entries = [entry for page in pages for entry in page]
    assert [len(page) for page in pages] == [4, 4, 4, 3]
    assert [entry["id"] for entry in entries] == sorted((entry["id"] for entry in entries), reverse=True)
    kinds = [(entry["source"], entry["type"]) for entry in entries]
    assert kinds.count(("event", "form.submitted")) == kinds.count(("event", "lead.qualified")) == 5
    assert [source for source, _ in kinds].count("action") == 5


def test_a_closer_sees_the_timeline_of_their_leads_only(hub: Hub, http: httpx.Client, post: Post) -> None:
    mine, others = (post(email=f"{uuid.uuid4().hex}@example.com")["contact_id"] for _ in range(2))
    hub.sql(
        "update public.leads set assigned_to = users.id from auth.users where contact_id = %s and users.email = %s",
        mine,
        hub.env["CLOSER_EMAIL"],
    )
    headers = hub.signed_in("CLOSER")

    seen = http.get("/rest/v1/rpc/contact_timeline", params={"contact_id": mine}, headers=headers)
    unseen = http.get("/rest/v1/rpc/contact_timeline", params={"contact_id": others}, headers=headers)

    assert "form.submitted" in [entry["type"] for entry in seen.json()]
    assert unseen.json() == []
