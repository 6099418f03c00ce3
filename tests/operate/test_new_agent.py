"""`make new-agent`: an agent is made by one command, in a copy of the repository, and a second run changes nothing."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clones import Clone, running_clone, steps
from support.hubs import Hub, web

STEPS = ["seed", "function", "manifest", "test", "agent", "first event"]
CHASER = {"NAME": "Quote Chaser", "EVENTS": "form.submitted"}
DECIDED = "select decision, outcome::text from public.agent_actions where agent = %s order by id"
MADE = (
    "select agents.kind, sites.slug, agent_versions.version, agent_versions.status::text, event_types, target"
    " from public.agents left join public.sites on sites.id = agents.site_id"
    " join public.agent_versions on agent_versions.agent_id = agents.id"
    " join public.subscriptions on subscriptions.agent_id = agents.id where agents.name = %s"
)


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    with running_clone() as clone:
        yield clone


@pytest.fixture(scope="module")
def chaser(clone: Clone) -> tuple[Clone, str]:
    """A clone with an agent that was made in it, and what was printed."""
    done = new_agent(clone, **CHASER)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone, done.stdout


def new_agent(clone: Clone, **variables: str) -> subprocess.CompletedProcess[str]:
    return clone.operate("new_agent", **variables)


def submit(hub: Hub, **form: str) -> str:
    """A form of somebody else each time; answers the event's id."""
    return str(hub.submit("prime", {"email": f"{abs(hash(str(form)))}@example.com", **form})["event_id"])


def decision(hub: Hub, event: str, agent: str = "quote-chaser") -> Any:
    query = "select decision, reasons from public.agent_actions where event_id = %s and agent = %s"
    assert hub.until(lambda: bool(hub.rows(query, event, agent)))
    return hub.rows(query, event, agent)[0]


def test_every_step_is_done_and_a_first_event_is_decided(chaser: tuple[Clone, str]) -> None:
    clone, printed = chaser

    assert steps(printed) == dict.fromkeys(STEPS, "done")
    assert clone.hub.rows(MADE, "quote-chaser") == [
        ("quote_chaser", None, 1, "published", ["form.submitted"], "quote-chaser")
    ]
    assert clone.hub.rows(DECIDED, "quote-chaser") == [("look_later", "self_resolved")]
    assert "make rehearse AGENT=quote-chaser VERSION=2" in printed


def test_a_form_becomes_its_decision(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser

    event = submit(clone.hub, message="Urgent: no power.")

    assert decision(clone.hub, event) == ("look_now", ['It says "urgent".'])


# Without the clock's own events, of which one may come at any time.
COUNTS = """
  select (select count(*) from public.agents), (select count(*) from public.agent_versions),
         (select count(*) from public.agent_deployments), (select count(*) from public.subscriptions),
         (select count(*) from public.events where source <> 'cron'),
         (select count(*) from public.deliveries join public.events on events.id = event_id where events.source <> 'cron')
"""


def test_a_second_run_skips_every_step_and_changes_nothing(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser
    counts = clone.hub.rows(COUNTS)
    files = clone.files()

    again = new_agent(clone, **CHASER)

    assert again.returncode == 0, again.stderr
    assert steps(again.stdout) == dict.fromkeys(STEPS, "skipped")
    assert clone.files() == files
    assert clone.hub.rows(COUNTS) == counts


def test_a_second_run_after_a_first_event_that_failed_decides_about_another(clone: Clone) -> None:
    late = {"NAME": "Late Comer", "EVENTS": "call.received"}
    assert new_agent(clone, **late).returncode == 0
    clone.hub.sql("delete from public.agent_actions where agent = 'late-comer'")
    clone.hub.sql(
        "update public.deliveries set status = 'dead' from public.subscriptions"
        " where subscriptions.id = subscription_id and subscriptions.name = 'late-comer'"
    )

    again = new_agent(clone, **late)

    assert steps(again.stdout)["first event"] == "done", again.stderr


def test_status_shows_it_and_a_pause_stops_it(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser
    hub = clone.hub

    def part() -> tuple[str, str]:
        answer = web.get(f"{hub.url}/functions/v1/status", headers=hub.signed_in("VIEWER")).json()
        every = [*answer["components"], *answer["organizations"][0]["components"]]
        parts = {(it["kind"], it["name"]): (it["state"], it["reason"]) for it in every}
        assert parts["function", "quote-chaser"][0] == "ok"
        return parts["agent", "quote-chaser"]

    def switch(status: str) -> None:
        web.patch(
            f"{hub.url}/rest/v1/agents?name=eq.quote-chaser",
            json={"status": status},
            headers=hub.signed_in("OPERATOR"),
        ).raise_for_status()

    assert part() == ("ok", "Version 1 decides.")
    switch("paused")
    try:
        assert part() == ("degraded", "It is paused.")
        event = submit(hub, message="While it is paused.")
        assert hub.rows("select hub.claim_deliveries('quote-chaser', 10, 30)") == [([],)]
    finally:
        switch("idle")
    assert decision(hub, event)[0] == "look_later"


def test_its_scorecard_counts_its_decisions(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser

    card = clone.hub.rpc("agent_scorecard", "VIEWER", agent="quote-chaser").json()

    assert (
        card["runs"]
        == clone.hub.rows("select count(*) from public.agent_actions where agent = 'quote-chaser'")[0][0]
    )


def test_a_version_is_rehearsed_on_what_it_has_seen(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser
    decision(clone.hub, submit(clone.hub, message="The fence is down."))
    version = clone.hub.rpc(
        "create_version", "ADMIN", agent="quote-chaser", config={"words": ["fence"]}
    ).json()
    decided = clone.hub.rows(DECIDED, "quote-chaser")

    told = clone.run(
        "operate.rehearse",
        "--agent",
        "quote-chaser",
        "--version",
        str(version),
        "--state",
        str(clone.hub.state),
    )

    assert told.returncode == 0, told.stderr
    assert re.search(r"1  look_later → look_now$", told.stdout, re.MULTILINE)
    assert '+ It says "fence".' in told.stdout
    assert "None" not in told.stdout
    assert clone.hub.rows(DECIDED, "quote-chaser") == decided


def test_a_version_that_it_cannot_read_is_told(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser
    version = clone.hub.rpc("create_version", "ADMIN", agent="quote-chaser", config={"word": ["x"]}).json()

    told = clone.run(
        "operate.rehearse",
        "--agent",
        "quote-chaser",
        "--version",
        str(version),
        "--state",
        str(clone.hub.state),
    )

    assert f"Version {version} cannot be read: word is not known." in told.stderr


def test_with_a_site_it_looks_at_that_sites_events_only(clone: Clone) -> None:
    done = new_agent(clone, NAME="Akf Watch", EVENTS="form, booking.*", SITE="akf")
    assert done.returncode == 0, done.stdout + done.stderr

    event = submit(clone.hub, message="Urgent.")

    assert clone.hub.rows(MADE, "akf-watch") == [
        ("akf_watch", "akf", 1, "published", ["form.submitted", "booking.*"], "akf-watch")
    ]
    brought = (
        "select deliveries.status::text, last_error from public.deliveries"
        " join public.subscriptions on subscriptions.id = subscription_id where event_id = %s and name = 'akf-watch'"
    )
    assert clone.hub.until(lambda: clone.hub.rows(brought, event)[0][0] == "skipped")
    assert clone.hub.rows(brought, event) == [("skipped", "Skip: it is not of the site akf")]
    assert clone.hub.rows(DECIDED, "akf-watch") == [("look_later", "self_resolved")]


@pytest.mark.timeout(400)
def test_what_was_made_passes_the_checks_and_its_own_test(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser
    own = "tests/agents/test_quote_chaser.py"

    runs = [
        clone.run("ruff", "check", "--no-cache"),
        clone.run("ruff", "format", "--check", "--no-cache"),
        clone.run("mypy", "--no-incremental", "functions/quote_chaser/main.py", own),
        clone.run("deploy.manifest", "--check"),
        clone.run("deploy.bundle"),
        clone.run(
            "pytest",
            "-q",
            "-n1",
            "-p",
            "no:cacheprovider",
            own,
            "tests/deploy/test_manifest.py::test_make_manifest_would_change_nothing",
        ),
    ]

    assert [run.stdout + run.stderr for run in runs if run.returncode] == []


BAD = {
    "nothing": ({}, "Say which agent"),
    "no events": ({"NAME": "Chaser"}, "Say which agent"),
    "no name": ({"EVENTS": "form.submitted"}, "Say which agent"),
    "a name that is code": ({"NAME": 'Bob"""; import os'}, "NAME has"),
    "a name without letters of ours": ({"NAME": "Боб"}, "SLUG=…"),
    "an unknown type": (
        {"NAME": "Chaser", "EVENTS": "form.submited"},
        "There is no event type form.submited; there are",
    ),
    "an unknown pattern": ({"NAME": "Chaser", "EVENTS": "forms.*"}, "There is no event type forms.*"),
    "an unknown site": ({"NAME": "Chaser", "SITE": "nowhere"}, "SITE is one of prime, akf, cleanjet"),
    "an unknown organization": ({"NAME": "Chaser", "ORG": "nobody"}, "one of trades"),
    "an agent of the hub's own": ({"NAME": "Lead Qualifier"}, "There is an agent lead-qualifier already"),
    "a function that is no agent's": ({"NAME": "Page Token"}, "functions/page_token is there already"),
    "a site's function": ({"NAME": "Ingest Bob"}, "make new-site"),
    "the name of another test": ({"NAME": "Silence"}, "tests/watch/test_silence.py is there already"),
    "a word of Python": ({"NAME": "Class"}, "a word that its own code needs"),
    "a word of its own code": ({"NAME": "Drain"}, "a word that its own code needs"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_made_is_one_sentence_and_changes_nothing(clone: Clone, bad: str) -> None:
    variables, sentence = BAD[bad]
    if variables and bad != "no events":
        variables = {"EVENTS": "form.submitted", **variables}
    before = clone.files()

    refused = new_agent(clone, **variables)

    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert clone.files() == before


def test_the_same_name_for_other_events_is_refused(chaser: tuple[Clone, str]) -> None:
    clone, _ = chaser

    refused = new_agent(clone, NAME="Quote Chaser", EVENTS="booking.placed")

    assert refused.returncode == 2
    assert "There is an agent quote-chaser already, for form.submitted of every site" in refused.stderr


def test_without_a_hub_it_says_how_to_start_one(clone: Clone, tmp_path: Path) -> None:
    refused = clone.run("operate.new_agent", "--state", str(tmp_path / "none"), **CHASER)

    assert refused.returncode == 2
    assert "make run" in refused.stderr


def test_on_a_project_it_is_subscribed_once_its_function_is_deployed(clone: Clone) -> None:
    # The same hub, reached as a project is: by what the environment says, without a state folder.
    hosted: dict[str, Any] = {
        "ADMIN_DATABASE_URL": clone.hub.env["ADMIN_DATABASE_URL"] + "&application_name=hosted",
        "NAME": "Far Away",
        "EVENTS": "lead.qualified",
    }

    early = new_agent(clone, FUNCTIONS_URL="http://127.0.0.1:9", **hosted)
    subscribed = clone.hub.rows("select from public.subscriptions where name = 'far-away'")
    done = new_agent(clone, FUNCTIONS_URL=f"{clone.hub.url}/functions/v1", **hosted)

    assert early.returncode == 2
    assert ("make deploy" in early.stderr, subscribed) == (True, [])
    assert done.returncode == 0, done.stderr
    assert steps(done.stdout) == dict.fromkeys(STEPS[:4], "skipped") | dict.fromkeys(STEPS[4:], "done")
