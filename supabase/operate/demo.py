"""Play a busy day in a minute against a running hub, then check its rows against the forms that were sent.

    python -m operate.demo --state .state

Three sites, some 300 submissions with repeats, somebody known at two sites, bookings, spam, a site that falls silent,
an agent that fails and recovers, a merge and its undoing. Each run brings contacts of its own, so it may be run again.
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from operate.hub import Hub, Refused, settings

SITES = ("prime", "akf", "cleanjet")
FORMS = 210
AT_ONCE = 16
PATIENCE_SECONDS = 60

_WORDS = {
    "prime": [
        "The switchboard smells burnt, please ring today.",
        "A heat pump for the lounge.",
        "Two more power points.",
    ],
    "akf": ["A bathroom renovation in Ponsonby.", "A new deck, about 20,000.", "Our kitchen needs work."],
    "cleanjet": [
        "Weekly cleaning of an office.",
        "End of tenancy clean next week.",
        "Windows, inside and out.",
    ],
}


@dataclass
class Sent:
    """One submission: how often it was sent, and the one answer it must have had each time."""

    site: str
    form: dict[str, Any]
    key: str
    kind: str = "form.submitted"
    answers: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Day:
    hub: Hub
    env: dict[str, str]
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    chance: random.Random = field(default_factory=random.Random)
    sent: list[Sent] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    # The day's submissions

    def person(self, number: int | str) -> dict[str, str]:
        return {"name": f"Demo {self.run} {number}", "email": f"{number}.{self.run}@example.com"}

    def form(self, site: str, number: int | str, **more: str) -> Sent:
        text = self.chance.choice(_WORDS[site])
        return Sent(
            site,
            self.person(number) | {"message": text, "demo": self.run} | more,
            f"{self.run}-{site}-{number}",
        )

    def booking(self, number: int) -> Sent:
        sent = self.form(
            "cleanjet", f"b{number}", clean_type="deep clean", service_address="1 Queen Street, Auckland"
        )
        sent.form |= {"booking_date": "2030-03-01", "booking_time": "10:00", "frequency": "weekly"}
        sent.kind = "booking.placed"
        return sent

    def spam(self, number: int) -> Sent:
        return Sent(
            "prime",
            self.person(f"s{number}") | {"website_url": "x", "demo": self.run},
            f"{self.run}-spam-{number}",
            "submission.quarantined",
        )

    async def send(self, submissions: list[Sent]) -> None:
        """Send all of them, one in four twice and now and then at the same moment, as sites do."""
        self.sent += [it for it in submissions if not it.answers]
        line = [it for it in submissions for _ in range(2 if self.chance.random() < 0.25 else 1)]
        self.chance.shuffle(line)
        places = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=self.env["SUPABASE_URL"], timeout=30) as client:
            await asyncio.gather(*(self._send(client, places, it) for it in line))

    async def _send(self, client: httpx.AsyncClient, places: asyncio.Semaphore, it: Sent) -> None:
        headers = {
            "x-webhook-secret": self.env[f"{it.site.upper()}_WEBHOOK_SECRET"],
            "idempotency-key": it.key,
        }
        async with places:
            answer = await client.post(f"/functions/v1/ingest-{it.site}", json=it.form, headers=headers)
        if answer.status_code != 202:
            self.problems.append(f"{it.site} was answered {answer.status_code}: {answer.text[:200]}")
            return
        it.answers.append(answer.json())

    # The hub's rows

    def wait(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                self.problems.append(f"{what}: not within {PATIENCE_SECONDS} s")
                return
            time.sleep(0.2)

    def check(self, what: str, is_so: bool) -> None:
        print(f"  {'✓' if is_so else '✗'} {what}")
        if not is_so:
            self.problems.append(what)

    def by_event(
        self, table: str, column: str, select: str, events: list[str], **filters: str
    ) -> list[dict[str, Any]]:
        """Rows of events, asked for a hundred at a time: a URL has an end."""
        return [
            row
            for start in range(0, len(events), 100)
            for row in self.hub.rows(
                table, select=select, **{column: f"in.({','.join(events[start : start + 100])})"}, **filters
            )
        ]

    def events(self, kinds: tuple[str, ...] = ("form.submitted", "booking.placed")) -> list[str]:
        return [it.answers[0]["event_id"] for it in self.sent if it.answers and it.kind in kinds]

    def dead(self, events: list[str]) -> list[dict[str, Any]]:
        return self.by_event(
            "deliveries", "event_id", "id,last_error", events, status="eq.dead", mode="eq.live"
        )

    def is_qualified(self) -> bool:
        events = self.events()
        rows = self.by_event(
            "agent_actions", "event_id", "event_id", events, agent="eq.lead-qualifier", outcome="neq.failed"
        )
        return {row["event_id"] for row in rows} == set(events)


def main() -> None:
    parser = argparse.ArgumentParser(description="Play a busy day against a running hub.")
    parser.add_argument("--state", default=".state")
    env = settings(parser.parse_args().state)
    began = time.monotonic()
    try:
        day = Day(Hub(env, "ADMIN"), env)
        for title, scene in SCENES.items():
            print(f"{title} …", flush=True)
            scene(day)
    except Refused as refusal:
        sys.exit(str(refusal))
    except (httpx.TransportError, psycopg.OperationalError) as error:
        sys.exit(f"The hub cannot be reached ({type(error).__name__}): is it running?")
    print("What the hub knows")
    for what, is_so in truths(day):
        day.check(what, is_so)
    print(f"{len(day.sent)} submissions in {time.monotonic() - began:.0f} s; ", end="")
    print("nothing lost, nothing doubled." if not day.problems else f"{len(day.problems)} problems.")
    for problem in day.problems:
        print(f"  ✗ {problem}", file=sys.stderr)
    sys.exit(bool(day.problems))


def morning(day: Day) -> None:
    """Forms from three sites, bookings and spam."""
    submissions = [day.form(site, f"{site}{number}") for site in SITES for number in range(FORMS // 3)]
    submissions += [day.booking(number) for number in range(40)]
    submissions += [day.spam(number) for number in range(10)]
    asyncio.run(day.send(submissions))
    # Some sites repeat forms that were answered long ago.
    asyncio.run(day.send(day.chance.sample(submissions, 20)))
    day.wait("every form and booking is qualified", day.is_qualified)


def two_sites(day: Day) -> None:
    """Somebody asks the electrician, then the builder."""
    for site in ("prime", "akf"):
        asyncio.run(day.send([day.form(site, "ann")]))
    day.wait("both are qualified", day.is_qualified)


def bad_hour(day: Day) -> None:
    """A version that cannot decide is published; its dead deliveries are kept, and replayed when it is mended."""
    published = day.hub.published("lead-qualifier")
    [subscription] = day.hub.rows("subscriptions", select="max_attempts", name="eq.lead-qualifier")
    failing = [day.form("prime", f"f{number}") for number in range(12)]
    try:
        day.hub.change("subscriptions", {"max_attempts": 1}, name="eq.lead-qualifier")
        broken = day.hub.call("create_version", agent="lead-qualifier", config={"rules": {"bands": "none"}})
        day.hub.call("publish_version", agent="lead-qualifier", version=broken)
        asyncio.run(day.send(failing))
        events = [it.answers[0]["event_id"] for it in failing]
        day.wait(
            "the deliveries to the broken version are dead", lambda: len(day.dead(events)) == len(events)
        )
        day.check(
            "a failing agent loses nothing: 12 deliveries are kept with their error",
            len(day.dead(events)) == 12,
        )
    finally:
        day.hub.call("publish_version", agent="lead-qualifier", version=published)
        day.hub.change("subscriptions", subscription, name="eq.lead-qualifier")
    day.hub.call("replay_events", filter={"event_ids": events}, subscription="lead-qualifier", dry_run=False)
    day.wait("the replay qualifies them", day.is_qualified)


def silence(day: Day) -> None:
    """A site sends nothing for longer than it may; the monitor says so once, and its next word ends it."""
    slug = f"quiet-{day.run}"
    open_alert = {"kind": "eq.site_silent", "subject": f"eq.{slug}", "closed_at": "is.null"}
    with psycopg.connect(day.env["ADMIN_DATABASE_URL"], autocommit=True) as database:
        # Nobody waits two hours for a demo: this site was last heard three hours ago.
        database.execute(_QUIET_SITE, {"slug": slug})
        database.execute(_HEARD, {"slug": slug, "ago": "3 hours"})
        # The clock writes this event every quarter of an hour.
        database.execute(_MONITOR_DUE, {"slug": slug})
        day.wait(
            "the silence is noticed", lambda: len(day.hub.rows("alerts", select="id", **open_alert)) == 1
        )
        day.check(
            "a silent site is one open alert", len(day.hub.rows("alerts", select="id", **open_alert)) == 1
        )
        database.execute(_HEARD, {"slug": slug, "ago": "0 seconds"})
        day.wait("the silence ends", lambda: day.hub.rows("alerts", select="id", **open_alert) == [])
        day.check("its next word closes the alert", day.hub.rows("alerts", select="id", **open_alert) == [])
    day.hub.change("sites", {"enabled": False}, slug=f"eq.{slug}")


_QUIET_SITE = """
insert into public.sites (org_id, number, slug, name, url)
select org_id, (select max(number) + 1 from public.sites as others where others.org_id = prime.org_id), %(slug)s, 'Quiet Site', 'https://quiet.example'
from public.sites as prime where prime.slug = 'prime'
"""
_HEARD = """
insert into public.events (id, org_id, site_id, type, source)
select private.uuid_v7(clock_timestamp() - %(ago)s::interval), org_id, id, 'email.received', 'site:' || slug from public.sites where slug = %(slug)s
"""
_MONITOR_DUE = """
insert into public.events (org_id, type, source, data)
select org_id, 'monitor.due', 'cron', jsonb_build_object('quarter', now()) from public.sites where slug = %(slug)s
"""


def one_person(day: Day) -> None:
    """Two contacts turn out to be one person, and then not."""
    asyncio.run(day.send([day.form("prime", "bob"), day.form("cleanjet", "robert")]))
    bob, robert = (it.answers[0]["contact_id"] for it in day.sent[-2:])
    merge = day.hub.call("merge_contacts", winner=bob, loser=robert, reason="demo: one person after all")[
        "merge_id"
    ]
    again = day.form("cleanjet", "robert", message="Robert again.")
    again.key += "-again"
    asyncio.run(day.send([again]))
    seen = {row["home_id"] for row in day.hub.call("contact_timeline", contact_id=bob)}
    day.check("merged, both are one timeline", {bob, robert} <= seen)
    day.hub.call("unmerge_contacts", merge_id=merge)
    seen = {row["home_id"] for row in day.hub.call("contact_timeline", contact_id=bob)}
    day.check("unmerged, each has their own again", seen == {bob})


SCENES: dict[str, Callable[[Day], None]] = {
    "A busy morning at three sites": morning,
    "Somebody asks at two sites": two_sites,
    "The lead qualifier fails for an hour": bad_hour,
    "A site falls silent": silence,
    "Two contacts are merged, and parted again": one_person,
}


def truths(day: Day) -> Iterator[tuple[str, bool]]:
    """The sentences that must be true after the day, and whether each is."""
    day.wait("everything is qualified", day.is_qualified)
    answered = [it for it in day.sent if it.answers]
    yield f"{len(day.sent)} submissions were answered", len(answered) == len(day.sent)
    yield (
        "a repeat had the same answer",
        all(len({a["event_id"] for a in it.answers}) == 1 for it in answered),
    )
    yield "each was new once", all(sum(not a["duplicate"] for a in it.answers) == 1 for it in answered)

    events = [it.answers[0]["event_id"] for it in answered]
    rows = {row["id"]: row for row in day.by_event("events", "id", "id,type,site:sites(slug)", events)}
    yield (
        "each is one event, of its kind and at its site",
        len(rows) == len(set(events)) == len(answered)
        and all(
            (rows[it.answers[0]["event_id"]]["type"], rows[it.answers[0]["event_id"]]["site"]["slug"])
            == (it.kind, it.site)
            for it in answered
        ),
    )
    judged = day.events()
    actions = day.by_event(
        "agent_actions", "event_id", "event_id", judged, agent="eq.lead-qualifier", outcome="neq.failed"
    )
    yield (
        "each form and booking was judged once",
        sorted(row["event_id"] for row in actions) == sorted(judged),
    )
    said = day.by_event("events", "cause_id", "cause_id", judged, type="eq.lead.qualified")
    yield "each judgement was said once", sorted(row["cause_id"] for row in said) == sorted(judged)

    people = {it.form["email"] for it in answered if it.kind != "submission.quarantined"}
    contacts = {it.answers[0]["contact_id"] for it in answered if it.kind != "submission.quarantined"}
    yield f"{len(people)} people are {len(people)} contacts", len(contacts) == len(people)
    yield (
        "spam made no contact",
        all(it.answers[0]["contact_id"] is None for it in answered if it.kind == "submission.quarantined"),
    )

    ann = next(it.answers[0]["contact_id"] for it in answered if it.key.endswith("-ann"))
    crossed = day.hub.rows("cross_sell_events", select="known_site,site", contact_id=f"eq.{ann}")
    yield (
        "who asked at two sites is known at both",
        [(row["known_site"], row["site"]) for row in crossed] == [("prime", "akf")],
    )
    waiting = day.by_event("deliveries", "event_id", "status", events, mode="eq.live")
    yield (
        "nothing waits, nothing is dead",
        set(Counter(row["status"] for row in waiting)) <= {"done", "skipped"},
    )
    story = day.hub.call("explain", id=judged[0])
    yield "any of it can be explained", story["origin"]["kind"] == "outside"


if __name__ == "__main__":
    main()
