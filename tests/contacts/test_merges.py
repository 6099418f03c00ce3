"""Merges: two contacts become one through the API, all of both follows, and an undo gives each its own back."""

import concurrent.futures
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from support.families import broken, state
from support.hubs import Hub, Post

type Rpc = Callable[..., httpx.Response]
type Merge = Callable[[str, str], str]
type Unmerge = Callable[[str], None]


@pytest.fixture(scope="module")
def http(hub: Hub) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=70)
    with httpx.Client(base_url=hub.url, timeout=30, limits=limits) as client:
        yield client


@pytest.fixture(scope="module")
def operator(hub: Hub, http: httpx.Client) -> dict[str, str]:
    return hub.signed_in("OPERATOR")


@pytest.fixture
def rpc(http: httpx.Client, operator: dict[str, str]) -> Rpc:
    def call(function: str, headers: dict[str, str] = operator, **arguments: Any) -> httpx.Response:
        return http.post(f"/rest/v1/rpc/{function}", json=arguments, headers=headers)

    return call


@pytest.fixture
def merge(rpc: Rpc) -> Merge:
    def call(winner: str, loser: str) -> str:
        answer = rpc("merge_contacts", winner=winner, loser=loser, reason="Same person.")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["merge_id"])

    return call


@pytest.fixture
def unmerge(rpc: Rpc) -> Unmerge:
    def call(merge_id: str) -> None:
        answer = rpc("unmerge_contacts", merge_id=merge_id)
        assert answer.status_code == 200, answer.text

    return call


class Person:
    """Somebody who has asked once, by an address of their own."""

    def __init__(self, post: Post, **form: Any) -> None:
        self.email = f"{uuid.uuid4().hex}@example.com"
        self.first = post(email=self.email, **form)
        self.contact = self.first["contact_id"]


@pytest.fixture
def ann(post: Post) -> Person:
    return Person(post, name="Ann Lee")


@pytest.fixture
def bob(post: Post) -> Person:
    return Person(post, name="Bob Ray")


@pytest.fixture
def cat(post: Post) -> Person:
    return Person(post)


@pytest.fixture(scope="module")
def org(hub: Hub) -> uuid.UUID:
    org: uuid.UUID = hub.rows("select id from public.organizations where slug = 'trades'")[0][0]
    return org


def settled(hub: Hub, *submitted: dict[str, Any]) -> None:
    """Until the qualifier is done with them, so that nothing changes by itself."""
    events = [answer["event_id"] for answer in submitted]
    count = "select count(*) from public.agent_actions where event_id::text = any(%s)"
    assert hub.until(lambda: hub.rows(count, events) == [(len(events),)])


def timeline(rpc: Rpc, contact: str) -> set[str]:
    return {entry["id"] for entry in rpc("contact_timeline", contact_id=contact).json()}


def open_leads(hub: Hub, contact: str) -> list[tuple[Any, ...]]:
    return hub.rows(
        "select home_id <> contact_id from public.leads where contact_id = %s and is_open",
        contact,
    )


def test_after_a_merge_the_losers_address_leads_to_the_winner(
    hub: Hub, post: Post, rpc: Rpc, merge: Merge, ann: Person, bob: Person
) -> None:
    merge(ann.contact, bob.contact)

    again = post(email=bob.email)

    settled(hub, ann.first, bob.first, again)
    assert again["contact_id"] == ann.contact
    assert {ann.first["event_id"], bob.first["event_id"], again["event_id"]} <= timeline(rpc, ann.contact)
    assert timeline(rpc, bob.contact) == timeline(rpc, ann.contact)
    assert hub.rows(
        "select count(*) from public.contact_identifiers where contact_id = %s and kind = 'email'",
        ann.contact,
    ) == [(2,)]
    assert open_leads(hub, ann.contact) == [(False,)]


def test_a_merged_contact_is_not_listed_and_names_who_it_is_merged_into(
    hub: Hub, http: httpx.Client, merge: Merge, operator: dict[str, str], ann: Person, bob: Person
) -> None:
    merge(ann.contact, bob.contact)

    listed = http.get(
        "/rest/v1/golden_contacts", params={"id": f"in.({ann.contact},{bob.contact})"}, headers=operator
    ).json()
    kept = http.get("/rest/v1/contacts", params={"id": f"eq.{bob.contact}"}, headers=operator).json()

    assert [(row["id"], row["name"], row["merged_ids"]) for row in listed] == [
        (ann.contact, "Ann Lee", [bob.contact])
    ]
    assert [row["merged_into"] for row in kept] == [ann.contact]


def test_merging_and_undoing_it_changes_nothing(
    hub: Hub, org: uuid.UUID, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    settled(hub, ann.first, bob.first)
    before = state(hub, org)

    merge_id = merge(ann.contact, bob.contact)
    while_merged = state(hub, org)
    unmerge(merge_id)

    assert while_merged != before
    assert state(hub, org) == before


def test_what_came_by_the_losers_address_meanwhile_goes_back_and_the_winners_stays(
    hub: Hub, org: uuid.UUID, post: Post, rpc: Rpc, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    merge_id = merge(ann.contact, bob.contact)
    by_bob = [post(email=bob.email, phone="021 555 0163")["event_id"] for _ in range(2)]
    by_ann = post(email=ann.email)["event_id"]

    unmerge(merge_id)

    assert {bob.first["event_id"], *by_bob} <= timeline(rpc, bob.contact)
    assert {ann.first["event_id"], by_ann} <= timeline(rpc, ann.contact)
    assert not timeline(rpc, ann.contact) & timeline(rpc, bob.contact)
    assert hub.rows(
        "select contact_id::text, home_id::text from public.contact_identifiers where value = '+64215550163' and contact_id in (%s, %s)",
        ann.contact,
        bob.contact,
    ) == [(bob.contact, bob.contact)]
    assert len(open_leads(hub, ann.contact)) == len(open_leads(hub, bob.contact)) == 1
    assert post(email=bob.email)["contact_id"] == bob.contact
    assert broken(hub, org) == []


def test_who_asked_only_while_merged_has_a_lead_after_the_undoing(
    hub: Hub, merge: Merge, unmerge: Unmerge, post: Post, ann: Person, bob: Person
) -> None:
    hub.sql("update public.leads set stage = 'won' where contact_id = %s", bob.contact)
    merge_id = merge(ann.contact, bob.contact)
    post(email=bob.email)

    unmerge(merge_id)

    assert len(open_leads(hub, bob.contact)) == 1


def test_of_two_open_leads_the_further_one_stands_for_both(
    hub: Hub, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    hub.sql("update public.leads set stage = 'booked' where contact_id = %s", bob.contact)

    merge_id = merge(ann.contact, bob.contact)

    stands = (
        "select stage::text, folded_into is null from public.leads where contact_id = %s order by leads.stage"
    )
    assert hub.rows(stands, ann.contact) == [("new", False), ("booked", True)]
    unmerge(merge_id)
    assert hub.rows(stands, ann.contact) == [("new", True)]
    assert hub.rows(stands, bob.contact) == [("booked", True)]


def test_a_chain_of_merges_is_one_person_and_comes_apart_in_any_order(
    hub: Hub, org: uuid.UUID, rpc: Rpc, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person, cat: Person
) -> None:
    settled(hub, ann.first, bob.first, cat.first)
    before = state(hub, org)
    for order in ((0, 1), (1, 0)):
        merges = [merge(bob.contact, cat.contact), merge(ann.contact, bob.contact)]
        everything = {person.first["event_id"] for person in (ann, bob, cat)}
        assert everything <= timeline(rpc, ann.contact)

        unmerge(merges[order[0]])

        assert broken(hub, org) == []
        apart = (cat, ann) if order == (0, 1) else (ann, cat)
        assert apart[0].first["event_id"] not in timeline(rpc, apart[1].contact)
        unmerge(merges[order[1]])
        assert state(hub, org) == before


@pytest.mark.parametrize(
    ("winner", "loser", "status", "code"),
    [
        ("ann", "ann", 422, "same_contact"),
        ("ann", "nobody", 404, "not_found"),
        ("nobody", "ann", 404, "not_found"),
        ("merged", "ann", 409, "already_merged"),
        ("ann", "merged", 409, "already_merged"),
    ],
)
def test_an_impossible_merge_is_refused_and_says_why(
    hub: Hub,
    org: uuid.UUID,
    rpc: Rpc,
    merge: Merge,
    request: pytest.FixtureRequest,
    winner: str,
    loser: str,
    status: int,
    code: str,
) -> None:
    people = {name: request.getfixturevalue(name).contact for name in ("ann", "bob")}
    people |= {"nobody": str(uuid.uuid4()), "merged": request.getfixturevalue("cat").contact}
    merge(people["bob"], people["merged"])

    answer = rpc("merge_contacts", winner=people[winner], loser=people[loser], reason="Same person.")

    assert (answer.status_code, answer.json()["details"]) == (status, code)


def test_an_undone_merge_cannot_be_undone_again(
    rpc: Rpc, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    merge_id = merge(ann.contact, bob.contact)
    unmerge(merge_id)

    again = rpc("unmerge_contacts", merge_id=merge_id)

    assert (again.status_code, again.json()["details"]) == (409, "already_undone")


@pytest.mark.parametrize("who", ["VIEWER", "CLOSER"])
def test_only_who_may_merge_merges_undoes_and_decides(
    hub: Hub,
    org: uuid.UUID,
    http: httpx.Client,
    rpc: Rpc,
    merge: Merge,
    post: Post,
    ann: Person,
    bob: Person,
    who: str,
) -> None:
    merge_id = merge(ann.contact, bob.contact)
    phone = f"0215{uuid.uuid4().int % 1_000_000:06d}"
    pair = [Person(post, name=name, phone=phone).contact for name in ("Ann Lee", "Bob Ray")]
    candidate = hub.rows("select id from public.merge_candidates where contact_id = %s", pair[0])[0][0]
    headers = hub.signed_in(who)
    settled(hub, ann.first, bob.first)
    before = state(hub, org)

    answers = [
        rpc("merge_contacts", headers, winner=pair[0], loser=pair[1], reason="No."),
        rpc("unmerge_contacts", headers, merge_id=merge_id),
        rpc("decide_merge", headers, candidate=str(candidate), decision="merge"),
        rpc("opt_out", headers, org_id=str(org), reason="No.", contact_id=ann.contact),
    ]

    assert [answer.status_code for answer in answers] == [403] * 4, [answer.text for answer in answers]
    assert state(hub, org)["contacts"] == before["contacts"]


def test_another_organizations_contacts_do_not_exist(hub: Hub, rpc: Rpc, ann: Person) -> None:
    foreign = hub.rows(
        "with org as (insert into public.organizations (slug, name) values (%s, 'Foreign') returning id)"
        " insert into public.contacts (org_id, name) select id, 'Ann Lee' from org returning id",
        f"foreign-{uuid.uuid4().hex[:8]}",
    )[0][0]

    answer = rpc("merge_contacts", winner=ann.contact, loser=str(foreign), reason="Same person.")

    assert answer.status_code == 404


def test_who_merged_and_who_undid_it_is_in_the_audit_log(
    hub: Hub, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    merge_id = merge(ann.contact, bob.contact)
    unmerge(merge_id)

    written = hub.rows(
        "select action, actor_id = merged_by, (after ->> 'undone_at') is not null from public.audit_log"
        " join public.contact_merges on contact_merges.id::text = resource_id where resource_type = 'contact_merges' and resource_id = %s order by number",
        merge_id,
    )
    assert [(action, by) for action, by, _ in written] == [
        ("insert", True),
        ("update", True),
    ]
    assert [undone for _, _, undone in written] == [False, True]


def test_a_person_decides_that_two_are_one(
    hub: Hub, http: httpx.Client, rpc: Rpc, post: Post, operator: dict[str, str]
) -> None:
    phone = f"0215{uuid.uuid4().int % 1_000_000:06d}"
    ann, bob = (Person(post, name=name, phone=phone) for name in ("Ann Lee", "Bob Lee"))
    candidate = queue(http, operator, ann)[0]["id"]

    decided = rpc(
        "decide_merge", candidate=candidate, decision="merge", winner=bob.contact, reason="Rang them."
    )

    assert decided.status_code == 200, decided.text
    assert hub.rows(
        "select winner_id::text, loser_id::text, reason, candidate_id::text from public.contact_merges where id = %s",
        decided.json()["merge_id"],
    ) == [(bob.contact, ann.contact, "Rang them.", candidate)]
    assert queue(http, operator, ann) == queue(http, operator, bob) == []
    rpc("unmerge_contacts", merge_id=decided.json()["merge_id"])
    assert queue(http, operator, ann) == []
    assert hub.rows("select decision::text from public.merge_candidates where id = %s", candidate) == [
        ("keep_apart",)
    ]


def test_keeping_two_apart_is_remembered(
    http: httpx.Client, rpc: Rpc, post: Post, operator: dict[str, str]
) -> None:
    phone = f"0215{uuid.uuid4().int % 1_000_000:06d}"
    ann, bob = (Person(post, name=name, phone=phone) for name in ("Ann Lee", "Bob Lee"))
    candidate = queue(http, operator, ann)[0]["id"]

    rpc("decide_merge", candidate=candidate, decision="keep_apart").raise_for_status()

    for person in (ann, bob):
        post(email=person.email, phone=phone)
    assert queue(http, operator, ann) == []
    refused = rpc("merge_contacts", winner=ann.contact, loser=bob.contact, reason="Same person.")
    assert (refused.status_code, refused.json()["details"]) == (409, "kept_apart")
    assert rpc("decide_merge", candidate=candidate, decision="merge").status_code == 200


def queue(http: httpx.Client, headers: dict[str, str], person: Person) -> list[dict[str, Any]]:
    either = f"(contact_id.eq.{person.contact},other_id.eq.{person.contact})"
    return list(http.get("/rest/v1/merge_queue", params={"or": either}, headers=headers).json())


def suppressed(hub: Hub, contact: str, channel: str = "sms") -> bool:
    return bool(hub.rows("select private.is_suppressed(%s, null, null, %s)", contact, channel)[0][0])


def test_the_stricter_side_of_a_merge_holds_for_both_and_the_undoing_restores_each(
    hub: Hub, org: uuid.UUID, rpc: Rpc, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    rpc("opt_out", org_id=str(org), reason="STOP", contact_id=bob.contact, channel="sms").raise_for_status()
    assert not suppressed(hub, ann.contact)

    merge_id = merge(ann.contact, bob.contact)

    assert suppressed(hub, ann.contact)
    assert not suppressed(hub, ann.contact, "email")
    unmerge(merge_id)
    assert (suppressed(hub, ann.contact), suppressed(hub, bob.contact)) == (False, True)


def test_an_opt_out_of_a_merged_person_stays_with_both(
    hub: Hub, org: uuid.UUID, rpc: Rpc, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    merge_id = merge(ann.contact, bob.contact)
    rpc("opt_out", org_id=str(org), reason="Do not call me.", contact_id=ann.contact).raise_for_status()

    unmerge(merge_id)

    assert (suppressed(hub, ann.contact), suppressed(hub, bob.contact)) == (True, True)


def test_an_opt_out_by_ones_own_address_stays_with_that_one(
    hub: Hub, org: uuid.UUID, rpc: Rpc, merge: Merge, unmerge: Unmerge, ann: Person, bob: Person
) -> None:
    merge_id = merge(ann.contact, bob.contact)
    said = {"kind": "email", "value": bob.email.upper()}
    rpc("opt_out", org_id=str(org), reason="Unsubscribe", contact_id=ann.contact, **said).raise_for_status()
    assert suppressed(hub, ann.contact)

    unmerge(merge_id)

    assert (suppressed(hub, ann.contact), suppressed(hub, bob.contact)) == (False, True)


def test_an_opted_out_address_is_so_in_every_spelling_whoever_has_it(
    hub: Hub, org: uuid.UUID, rpc: Rpc, ann: Person
) -> None:
    mailbox = uuid.uuid4().hex
    said = {"kind": "email", "value": f"{mailbox}+news@gmail.com"}

    first, again = (rpc("opt_out", org_id=str(org), reason="Unsubscribe", **said).json() for _ in range(2))

    assert (first, again) == ({"suppressions": 1}, {"suppressions": 0})
    asked = "select private.is_suppressed(%s, 'email', %s, 'email')"
    assert hub.rows(asked, ann.contact, f"{mailbox.upper()}@googlemail.com") == [(True,)]
    assert hub.rows(asked, ann.contact, f"x{mailbox}@gmail.com") == [(False,)]


def test_the_agent_sees_a_merged_person_whole(
    hub: Hub, merge: Merge, post: Post, ann: Person, bob: Person
) -> None:
    settled(hub, ann.first, bob.first)
    merge(ann.contact, bob.contact)
    set_paused = "update public.subscriptions set paused = %s where name = 'lead-qualifier'"
    claim = "select hub.claim_deliveries('lead-qualifier', 10, 1)"
    hub.sql(set_paused, True)
    try:
        event = post(email=bob.email)["event_id"]
        assert hub.rows(claim) == [([],)]
        # In a transaction that is never committed, so that nobody else can take it.
        with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
            connection.execute(set_paused, [False])
            [(batch,)] = connection.execute(claim)
            connection.rollback()
    finally:
        hub.sql(set_paused, False)

    claimed = [delivery for delivery in batch if delivery["event"]["id"] == event]
    assert [delivery["contact"] for delivery in claimed] == [
        {"id": ann.contact, "name": "Ann Lee", "is_repeat": True, "earlier_events": 2}
    ]
    assert claimed[0]["memory"].keys() >= {"last_score", "last_service"}


def test_merges_while_both_are_writing_lose_nothing_and_never_fail(
    hub: Hub, org: uuid.UUID, post: Post, rpc: Rpc, ann: Person, bob: Person
) -> None:
    def submit(number: int) -> dict[str, Any]:
        # Each brings a number of its own, so there is always something new to put where the person is seen.
        person, name = ((ann, "Ann Lee"), (bob, "Bob Ray"))[number % 2]
        return post(email=person.email, name=name, phone=f"0215{uuid.uuid4().int % 1_000_000:06d}")

    statuses = []
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        submitting = [pool.submit(submit, number) for number in range(640)]
        while not all(done.done() for done in submitting):
            merged = rpc("merge_contacts", winner=ann.contact, loser=bob.contact, reason="Same person.")
            assert broken(hub, org) == []
            undone = rpc("unmerge_contacts", merge_id=merged.json()["merge_id"])
            statuses += [merged.status_code, undone.status_code]
        answers = [done.result() for done in submitting]

    assert set(statuses) == {200}
    stored = hub.rows(
        "select contact_id::text, count(*) from public.events where id::text = any(%s) group by 1",
        [answer["event_id"] for answer in answers],
    )
    assert dict(stored) == {ann.contact: 320, bob.contact: 320}
    assert broken(hub, org) == []
    assert not any(
        "deadlock" in log.read_text(errors="replace") for log in (hub.state / "logs").glob("*.log")
    )


def test_every_column_that_holds_a_contact_says_what_a_merge_does_with_it(hub: Hub) -> None:
    """A new table with a contact in it belongs into private.contact_references, or merges would forget it."""
    columns = hub.rows(
        "select conrelid::regclass::text, attname from pg_constraint"
        " join pg_attribute on attrelid = conrelid and attnum = any(conkey)"
        " where contype = 'f' and confrelid = 'public.contacts'::regclass and attname <> 'org_id' and conparentid = 0"
        " union select 'public.' || table_name, column_name from information_schema.columns"
        " join information_schema.tables using (table_schema, table_name)"
        " where table_schema = 'public' and table_type = 'BASE TABLE' and (column_name ~ '(^|_)contact_id$' or column_name in ('subject_id', 'home_id'))"
    )
    declared = hub.rows("select 'public.' || table_name, column_name from private.contact_references")
    # What an event is about is often no contact; when it is, the event is a contact's too.
    declared.append(("public.events", "subject_id"))

    assert {(name.replace("public.", ""), column) for name, column in columns} == {
        (name.replace("public.", ""), column) for name, column in declared
    }


def test_every_table_that_moves_has_what_moving_needs(hub: Hub) -> None:
    lacking = hub.rows(
        "select table_name, needed from private.contact_references"
        " cross join unnest(array['id', 'org_id', 'contact_id', 'home_id']) as needed"
        " where on_merge = 'moves' and not exists ("
        "   select from information_schema.columns as present where present.table_schema = 'public'"
        "   and present.table_name = contact_references.table_name and present.column_name = needed)"
    )

    assert lacking == []
