"""status: every part of the hub as ok, degraded or not configured, computed from what is so."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.hubs import Hub, running_hub, web


@pytest.fixture(scope="module")
def watched(prepared_state: Path) -> Iterator[Hub]:
    with running_hub(prepared_state) as hub:
        hub.submit("prime", {"email": "jo@example.com", "message": "The switchboard smells burnt."})
        yield hub


def ask(hub: Hub, who: str = "VIEWER") -> httpx.Response:
    return web.get(
        f"{hub.url}/functions/v1/status", headers={"authorization": f"Bearer {hub.token(who)}"}, timeout=30
    )


def parts(hub: Hub) -> dict[tuple[str, str], tuple[str, str]]:
    said = ask(hub).raise_for_status().json()
    every = [*said["components"], *(part for it in said["organizations"] for part in it["components"])]
    return {(part["kind"], part["name"]): (part["state"], part["reason"]) for part in every}


def test_every_function_agent_job_provider_and_site_is_told(watched: Hub) -> None:
    told = parts(watched)

    assert {name for kind, name in told if kind == "site"} >= {"prime", "akf", "cleanjet"}
    assert {name for kind, name in told if kind == "agent"} >= {
        "lead-qualifier",
        "data-monitor",
        "email-responder",
    }
    jobs = {name for (name,) in watched.rows("select jobname from cron.job where active")}
    assert {name for kind, name in told if kind == "job"} >= jobs - {"tick_monitors"}
    assert told["function", "ingest-prime"] == ("ok", "It answers.")
    assert told["function", "status"] == ("ok", "It answers.")
    assert told["provider", "llm"][0] == "not configured"
    assert told["agent", "email-responder"] == ("not configured", "There is no agent of this kind.")


def test_a_site_is_ok_once_something_came_and_its_static_secret_is_told(watched: Hub) -> None:
    told = parts(watched)

    assert told["site", "prime"][0] == "ok"
    assert "weak" in told["site", "prime"][1]
    assert told["site", "akf"] == ("not configured", told["site", "akf"][1])
    assert "Nothing has come from it yet." in told["site", "akf"][1]


def test_a_site_that_can_sign_in_by_nothing_is_told(watched: Hub) -> None:
    ended = "update private.site_secrets set valid_to = %s from public.sites where sites.id = site_id and slug = 'cleanjet'"
    watched.sql(ended + " and kind <> 'page'", "now")
    watched.sql("update public.sites set allowed_origins = '{}' where slug = 'cleanjet'")

    told = parts(watched)["site", "cleanjet"]
    watched.sql(ended, None)

    assert told == ("not configured", "It has no secret to prove itself with.")


def test_whatever_is_wrong_with_a_site_is_told_the_worst_first(watched: Hub) -> None:
    opened = "select private.open_alert(org_id, %s, 'prime', %s, %s, site_id => id) from public.sites where slug = 'prime'"
    watched.sql(opened, "duplicates_spike", "warning", "It repeats itself.")
    watched.sql(opened, "made_up", "critical", "It burns.")
    wrong = parts(watched)["site", "prime"]
    watched.sql("update public.alerts set closed_at = now() where subject = 'prime'")

    assert wrong[0] == "degraded"
    assert wrong[1].startswith("It burns. It repeats itself.")
    assert parts(watched)["site", "prime"][0] == "ok"


def test_a_site_that_sends_what_nobody_knows_is_degraded_until_it_has_a_name(watched: Hub) -> None:
    watched.submit("akf", {"email": "jo@example.com", "kind": "garden.party"})
    state, reason = parts(watched)["site", "akf"]

    watched.sql(
        "insert into public.event_types (name, description) values ('garden.party', 'An invitation.')"
    )
    named = parts(watched)["site", "akf"]
    watched.sql("delete from public.event_types where name = 'garden.party'")

    assert (state, "garden.party" in reason) == ("degraded", True)
    assert (named[0], "garden.party" in named[1]) == ("ok", False)


def test_what_is_wrong_is_degraded_with_its_reason(watched: Hub) -> None:
    watched.sql("update public.agents set status = 'paused' where name = 'lead-qualifier'")
    try:
        assert parts(watched)["agent", "lead-qualifier"] == ("degraded", "It is paused.")
        assert ask(watched).json()["state"] == "degraded"
    finally:
        watched.sql("update public.agents set status = 'idle' where name = 'lead-qualifier'")
    assert watched.until(lambda: parts(watched)["agent", "lead-qualifier"][0] == "ok")

    watched.sql("update public.system_controls set is_on = true")
    try:
        assert parts(watched)["agent", "lead-qualifier"] == (
            "degraded",
            "Everything is paused (system_controls).",
        )
    finally:
        watched.sql("update public.system_controls set is_on = false")

    watched.sql("select private.mark_dead(deliveries.id, 'no luck') from public.deliveries limit 1")
    assert parts(watched)["agent", "lead-qualifier"] == (
        "degraded",
        "1 deliveries are dead and wait for a replay.",
    )


def test_a_pull_tells_until_when_everything_is_here_or_why_not(watched: Hub) -> None:
    watched.sql(
        "insert into public.pull_sources (org_id, site_id, name, url, enabled, last_started_at, last_success_at, watermark,"
        " last_error, failures, next_at) select org_id, id, given.name, 'https://partner.example', given.enabled, now(), now() - given.ago,"
        " timestamptz '2026-11-21 09:30Z', given.error, 2, now() + interval '1 hour' from public.sites cross join (values"
        " ('fine', true, interval '0', null), ('switched-off', false, interval '0', null), ('late', true, interval '1 day', null),"
        " ('failing', true, interval '0', 'answered 500')) as given (name, enabled, ago, error) where slug = 'prime'"
    )
    watched.sql(
        "insert into public.pull_sources (org_id, site_id, name, url, next_at)"
        " select org_id, id, 'new', 'https://partner.example', now() + interval '1 hour' from public.sites where slug = 'prime'"
    )
    watched.sql(
        "insert into public.pull_sources (org_id, site_id, name, url, pushes, gaps, items, last_started_at, last_success_at, watermark,"
        " next_at) select org_id, id, given.name, 'https://partner.example', given.pushes, 7, 9, now(), now() - given.ago,"
        " timestamptz '2026-11-12 09:30Z', now() + interval '1 hour' from public.sites join (values"
        " ('prime', 'waiting', false, interval '0'), ('prime', 'reconciling', true, interval '0'),"
        " ('cleanjet', 'of-a-closed-shop', false, interval '1 day')) as given (site, name, pushes, ago) on given.site = sites.slug"
    )
    watched.sql(
        "insert into public.pull_failures (org_id, source_id, key, item, reason) select org_id, id, 'item-' || n, '{}', 'No address.'"
        " from public.pull_sources, generate_series(1, 3) as n where name = 'waiting'"
    )
    watched.sql("update public.sites set enabled = false where slug = 'cleanjet'")

    told = {name: part for (kind, name), part in parts(watched).items() if kind == "pull"}
    watched.sql("update public.sites set enabled = true where slug = 'cleanjet'")

    assert told.pop("late")[0] == "degraded"
    assert told == {
        "fine": ("ok", "Everything until 2026-11-21 09:30 UTC is here."),
        "switched-off": ("not configured", "It is switched off."),
        "failing": ("degraded", "The last 2 pulls failed: it answered 500."),
        "new": ("not configured", "It was never pulled."),
        "waiting": ("degraded", "3 items wait for a decision (pull_failures)."),
        "reconciling": (
            "ok",
            "Everything until 2026-11-12 09:30 UTC is here. 7 of its items came by no push so far.",
        ),
        "of-a-closed-shop": ("not configured", "Its site is switched off."),
    }


def test_a_job_that_fails_is_degraded(watched: Hub) -> None:
    watched.sql("select private.check_job_late(id, '{}', now()) from public.organizations")
    watched.sql("select cron.unschedule('prune_history')")

    state, reason = parts(watched)["job", "prune_history"]

    assert (state, reason) == ("degraded", "The job prune_history is gone or switched off.")


def test_only_those_who_may_see_it_are_told(watched: Hub) -> None:
    assert web.get(f"{watched.url}/functions/v1/status").status_code == 401
    assert ask(watched, "CLOSER").status_code == 403
