"""Merges: whatever comes in whatever order, nothing is lost, nothing is doubled, and no opt-out is forgotten."""

import uuid
from collections import defaultdict
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.families import broken, state
from support.hubs import Hub
from support.recorded import submission
from support.scale import scaled

MAILBOXES = (
    ("ann@example.com", "Ann@Example.com"),
    ("b.ob@gmail.com", "bob+prime@googlemail.com"),
    ("cat@outlook.com", "cat+x@outlook.com"),
    ("dan@example.com",),
)
PHONES = ("+64211110001", "+64211110002")
NAMES = (None, "Ann Lee", "Ann", "Bob Ray")

ORG = """
with org as (insert into public.organizations (slug, name) values (%(slug)s, 'Merging') returning id),
site as (
  insert into public.sites (org_id, number, slug, name, url)
  select org.id, n, %(slug)s || '-' || n, 'Site', 'https://site.example' from org, generate_series(1, 2) as n returning id, org_id, slug)
select org_id, slug from site
"""

# Events that are not on the timeline of exactly one person.
UNTOLD = """
with told as (
  select entry.id from public.contacts cross join lateral public.contact_timeline(contacts.id, null, 200) as entry
  where contacts.org_id = %(org)s and contacts.merged_into is null and entry.source = 'event')
select events.id from public.events left join told on told.id = events.id
where events.org_id = %(org)s and events.contact_id is not null
group by events.id having count(told.id) <> 1
"""

index = st.integers(0, 30)
submit = st.tuples(
    st.just("submit"),
    st.one_of(st.none(), st.sampled_from([spelling for each in MAILBOXES for spelling in each])),
    st.one_of(st.none(), st.sampled_from(PHONES)),
    st.sampled_from(NAMES),
    st.integers(0, 1),
).filter(lambda step: bool(step[1] or step[2]))
steps = st.lists(
    st.one_of(
        submit,
        submit,
        st.tuples(st.just("merge"), index, index),
        st.tuples(st.just("merge"), index, index),
        st.tuples(st.just("unmerge"), index),
        st.tuples(st.just("opt_out"), index, st.sampled_from([None, "sms"]), st.booleans()),
        st.tuples(st.just("win"), index),
        st.tuples(st.just("there_and_back"), index, index),
    ),
    min_size=6,
    max_size=20,
)


class People:
    """An organization of its own, and what is known of it by counting along."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        slug = f"merging-{uuid.uuid4().hex[:12]}"
        sites = hub.rows(ORG, slug=slug)
        self.org = sites[0][0]
        self.secrets = [
            hub.rows("select private.set_site_secret(%s, %s)", site, f"{site}-secret-0123456789")[0][0]
            for _, site in sites
        ]
        self.submitted: list[tuple[str, str | None]] = []
        self.silenced: dict[uuid.UUID, set[str | None]] = defaultdict(set)

    def visible(self) -> list[uuid.UUID]:
        return [
            row[0]
            for row in self.hub.rows(
                "select id from public.contacts where org_id = %s and merged_into is null order by id",
                self.org,
            )
        ]

    def family(self, contact: uuid.UUID) -> list[uuid.UUID]:
        return list(self.hub.rows("select private.contact_family(%s)", contact)[0][0])

    def merges(self) -> list[tuple[Any, ...]]:
        return self.hub.rows(
            "select id from public.contact_merges where org_id = %s and undone_at is null order by id",
            self.org,
        )

    def submit(self, email: str | None, phone: str | None, name: str | None, site: int) -> None:
        contact = {"name": name, "email": email and email.lower(), "phone": phone}
        recorded = self.hub.rows(
            "select hub.record_submission(%s, %s)",
            self.secrets[site],
            submission({"n": len(self.submitted)}, contact, idempotency_key=uuid.uuid4().hex),
        )[0][0]
        assert recorded["contact_id"] in map(str, self.visible())
        self.submitted.append((recorded["event_id"], contact["email"]))

    def merge(self, one: int, other: int) -> Any:
        people = self.visible()
        if len(people) < 2:
            return None
        winner, loser = people[one % len(people)], people[other % len(people)]
        if winner == loser:
            return None
        return self.hub.rows("select private.merge_contacts(%s, %s, 'test')", winner, loser)[0][0]

    def unmerge(self, number: int) -> None:
        merges = self.merges()
        if merges:
            self.hub.sql("select private.unmerge_contacts(%s)", merges[number % len(merges)][0])

    def there_and_back(self, one: int, other: int) -> None:
        before = state(self.hub, self.org)
        merge = self.merge(one, other)
        if merge:
            self.hub.sql("select private.unmerge_contacts(%s)", merge)
        assert state(self.hub, self.org) == before

    def opt_out(self, number: int, channel: str | None, by_identifier: bool) -> None:
        people = self.visible()
        if not people:
            return
        person = people[number % len(people)]
        mine = self.hub.rows(
            "select value, home_id from public.contact_identifiers"
            " where contact_id = %s and kind = 'email' and strength = 'strong' order by id limit 1",
            person,
        )
        email, home = mine[0] if mine and by_identifier else (None, None)
        self.hub.sql(
            "select private.opt_out(%s, 'STOP', %s, %s::public.identifier_kind, %s, %s, null)",
            self.org,
            person,
            "email" if email else None,
            email,
            channel,
        )
        for silenced in [home] if home else self.family(person):
            self.silenced[silenced].add(channel)

    def win(self, number: int) -> None:
        leads = self.hub.rows(
            "select id from public.leads where org_id = %s and folded_into is null order by id", self.org
        )
        if leads:
            self.hub.sql("update public.leads set stage = 'won' where id = %s", leads[number % len(leads)][0])

    def check(self) -> None:
        assert broken(self.hub, self.org) == []
        assert self.hub.rows(UNTOLD, org=self.org) == []
        stored = self.hub.rows(
            "select id::text from public.events where org_id = %s and source like 'site:%%'", self.org
        )
        assert sorted(event for event, _ in self.submitted) == sorted(event for (event,) in stored)
        for person in self.visible():
            family = self.family(person)
            for channel in ("sms", "email"):
                expected = any(said in (None, channel) for each in family for said in self.silenced[each])
                suppressed = self.hub.rows(
                    "select private.is_suppressed(%s, null, null, %s)", person, channel
                )
                assert suppressed == [(expected,)]

    def check_homes(self) -> None:
        """What came by an address stays with the contact that the address is of."""
        owners = dict(
            self.hub.rows(
                "select match_key, home_id from public.contact_identifiers"
                " where org_id = %s and kind = 'email' and strength = 'strong'",
                self.org,
            )
        )
        homes = dict(
            self.hub.rows("select id::text, contact_id from public.events where org_id = %s", self.org)
        )
        for event, email in self.submitted:
            if email:
                key = self.hub.rows("select private.email_key(%s)", email)[0][0]
                assert homes[event] == owners[key]


# When it fails, finding the shortest order that fails takes minutes.
@pytest.mark.timeout(600)
@given(steps)
@settings(max_examples=scaled(20, 100), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_order_of_submit_merge_opt_out_and_unmerge_holds_the_invariants(
    hub: Hub, steps: list[tuple[Any, ...]]
) -> None:
    people = People(hub)
    for spellings in MAILBOXES:
        people.submit(spellings[0], None, None, 0)

    for name, *arguments in steps:
        try:
            getattr(people, name)(*arguments)
        except psycopg.Error as error:
            raise AssertionError((name, arguments, error)) from error
        people.check()
    people.check_homes()
    for _ in people.merges():
        people.unmerge(-1)
        people.check()
    assert people.merges() == []
