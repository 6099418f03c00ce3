"""Replay and rehearsal: the past goes back in line, or is decided about again without effects."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.hubs import ROOT, Hub, running_hub

# What the seed publishes.
PUBLISHED = 2
SERVICES = ["switchboard", "heat pump", "lighting", "rewiring please, urgent"]


QUALIFIER = "agent_id = (select id from public.agents where name = 'lead-qualifier')"


@pytest.fixture(scope="module")
def busy_hub(prepared_state: Path) -> Iterator[Hub]:
    """A hub that has scored some forms, with a version 2 that judges them another way."""
    with running_hub(prepared_state) as hub:
        for number in range(12):
            hub.submit(
                "prime", {"email": f"p{number}@example.com", "name": "P", "service": SERVICES[number % 4]}
            )
        assert hub.until(lambda: hub.rows("select count(*) from public.agent_actions") == [(12,)])
        hub.sql(
            "insert into public.agent_versions (org_id, agent_id, version, config)"
            " select versions.org_id, agent_id, 100 + added, jsonb_set(config, '{rules,base}', to_jsonb(10 + 30 * added))"
            " from public.agent_versions as versions join public.agents on agents.id = agent_id, generate_series(0, 1) as added"
            " where agents.name = 'lead-qualifier' and versions.status = 'published'"
        )
        yield hub


@pytest.fixture
def broken(busy_hub: Hub) -> Iterator[Hub]:
    """Every qualifier delivery has died, as after a bad day, and nothing is wrong any more."""
    busy_hub.sql(
        "update public.deliveries set status = 'dead', last_error = 'bad day' where mode = 'live' and status = 'done'"
    )
    yield busy_hub
    busy_hub.sql("update public.deliveries set status = 'done' where mode = 'live' and status = 'dead'")


def effects(hub: Hub) -> list[tuple[Any, ...]]:
    """All that agents have left behind."""
    return hub.rows(
        "select (select count(*) from public.agent_actions), (select count(*) from public.events),"
        " (select md5(string_agg(leads::text, '' order by id)) from public.leads),"
        " (select md5(string_agg(agent_memory::text, '' order by id)) from public.agent_memory),"
        " (select count(*) from public.alerts where closed_at is null)"
    )


def is_over(hub: Hub, replay: str) -> bool:
    return bool(hub.rpc("replay_progress", replay_id=replay).json()["is_over"])


def test_a_dry_run_counts_and_changes_nothing(broken: Hub) -> None:
    answer = broken.rpc("replay_events").json()

    assert answer.pop("began")
    assert answer == {"matched": 12, "more": False, "dry_run": True, "mode": "live", "replay_ids": []}
    assert broken.rows("select distinct status::text from public.deliveries where mode = 'live'") == [
        ("dead",)
    ]


@pytest.mark.parametrize(
    ("filter", "matched"),
    [
        ({"statuses": ["done"]}, 0),
        ({"types": ["form.submitted"]}, 12),
        ({"types": ["lead.qualified"]}, 0),
        ({"site": "prime"}, 12),
        ({"site": "akf"}, 0),
        ({"since": "2999-01-01"}, 0),
        ({"until": "2999-01-01"}, 12),
        ({"limit": 5}, 5),
        ({"contact_id": "00000000-0000-0000-0000-000000000000"}, 0),
    ],
)
def test_a_filter_chooses(broken: Hub, filter: dict[str, Any], matched: int) -> None:
    assert broken.rpc("replay_events", filter=filter).json()["matched"] == matched


def test_what_nobody_says_is_a_dry_run(broken: Hub) -> None:
    answer = broken.rpc("replay_events", filter=None, mode=None, dry_run=None).json()

    assert (answer["matched"], answer["dry_run"], answer["mode"]) == (12, True, "live")
    assert broken.rows("select count(*) from public.deliveries where status = 'dead'") == [(12,)]


def test_who_asks_again_is_given_what_was_not_replayed_yet(broken: Hub) -> None:
    chosen = {"statuses": ["dead", "done"]}

    first = broken.rpc("replay_events", filter=chosen | {"limit": 8}, dry_run=False).json()
    assert broken.until(lambda: is_over(broken, first["replay_ids"][0]))
    rest = broken.rpc("replay_events", filter=chosen | {"replayed_before": first["began"]}).json()

    assert (first["matched"], rest["matched"]) == (8, 4)


def test_a_filter_names_single_events(broken: Hub) -> None:
    events = [event for (event,) in broken.rows("select event_id::text from public.deliveries limit 2")]

    assert broken.rpc("replay_events", filter={"event_ids": events}).json()["matched"] == 2


def test_a_filter_by_contact_means_those_merged_into_it_too(broken: Hub) -> None:
    winner, loser = (
        str(contact) for (contact,) in broken.rows("select contact_id from public.leads order by id limit 2")
    )
    merged = broken.rpc("merge_contacts", winner=winner, loser=loser, reason="Same person.").json()
    try:
        matched = [
            broken.rpc("replay_events", filter={"contact_id": contact}).json()["matched"]
            for contact in (winner, loser)
        ]
    finally:
        broken.rpc("unmerge_contacts", merge_id=merged["merge_id"]).raise_for_status()

    assert matched == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"filter": {"kind": "x"}}, 422, "unknown_filter"),
        ({"filter": {"since": "some day"}}, 422, "unreadable_filter"),
        ({"filter": {"event_ids": "all"}}, 422, "unreadable_filter"),
        ({"filter": {"contact_id": 7}}, 422, "unreadable_filter"),
        ({"filter": {"limit": 0}}, 422, "unreadable_filter"),
        ({"filter": [1]}, 422, "unreadable_filter"),
        ({"mode": "loud"}, 422, "unknown_mode"),
        ({"version": 1}, 422, "version_in_live_mode"),
        ({"mode": "rehearsal"}, 422, "unknown_subscription"),
        ({"subscription": "lead-qualifer"}, 422, "unknown_subscription"),
        ({"filter": {"site": "primo"}}, 422, "unknown_site"),
        (
            {"mode": "rehearsal", "subscription": "lead-qualifier", "filter": {"site": "primo"}},
            422,
            "unknown_site",
        ),
        ({"mode": "rehearsal", "subscription": "lead-qualifier", "version": 999}, 404, "unknown_version"),
        (
            {
                "mode": "rehearsal",
                "subscription": "lead-qualifier",
                "filter": {"replayed_before": "2026-01-01"},
            },
            422,
            "unknown_filter",
        ),
        (
            {"mode": "rehearsal", "subscription": "lead-qualifier", "filter": {"statuses": ["done"]}},
            422,
            "unknown_filter",
        ),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    busy_hub: Hub, arguments: dict[str, Any], status: int, code: str
) -> None:
    answer = busy_hub.rpc("replay_events", **arguments)

    assert (answer.status_code, answer.json()["details"]) == (status, code)


@pytest.mark.parametrize("who", ["CLOSER", "VIEWER"])
def test_only_operators_replay(busy_hub: Hub, who: str) -> None:
    assert busy_hub.rpc("replay_events", who).status_code == 403


def test_a_replay_is_a_row_with_progress_and_doubles_nothing(broken: Hub) -> None:
    before = effects(broken)

    [replay] = broken.rpc("replay_events", dry_run=False).json()["replay_ids"]

    assert broken.until(lambda: is_over(broken, replay))
    progress = broken.rpc("replay_progress", replay_id=replay).json()
    assert (progress["done"], progress["waiting"], progress["failed"]) == (12, 0, [])
    assert effects(broken) == before
    assert broken.rows(
        "select mode::text, matched, asked_by is not null from public.replays where id = %s", replay
    ) == [("live", 12, True)]


def test_a_replay_survives_the_death_of_everything(broken: Hub) -> None:
    before = effects(broken)
    broken.sql("select net.set_faults(delay_ms => 300)")
    [replay] = broken.rpc("replay_events", dry_run=False).json()["replay_ids"]
    os.kill(broken.process_of("gateway"), signal.SIGKILL)
    broken.restart_database()
    broken.sql("select net.clear_faults()")

    assert broken.until(lambda: is_over(broken, replay), 60)
    assert broken.rpc("replay_progress", replay_id=replay).json()["done"] == 12
    assert effects(broken) == before


def test_what_fails_again_is_listed_with_its_error(broken: Hub) -> None:
    broken.sql(
        f"update public.agent_versions set status = 'archived' where {QUALIFIER} and version = {PUBLISHED}"
    )
    try:
        [replay] = broken.rpc("replay_events", filter={"limit": 2}, dry_run=False).json()["replay_ids"]

        assert broken.until(lambda: is_over(broken, replay))
        progress = broken.rpc("replay_progress", replay_id=replay).json()
    finally:
        broken.sql(
            f"update public.agent_versions set status = 'published' where {QUALIFIER} and version = {PUBLISHED}"
        )
    assert progress["dead"] == 2
    assert {failed["error"] for failed in progress["failed"]} == {
        "Permanent: the subscription has no agent with a published version"
    }


def rehearse(hub: Hub, version: int) -> str:
    answer = hub.rpc(
        "replay_events", subscription="lead-qualifier", mode="rehearsal", version=version, dry_run=False
    ).json()
    [replay] = answer["replay_ids"]
    assert hub.until(lambda: is_over(hub, replay))
    return str(replay)


def test_a_rehearsal_decides_and_changes_nothing(busy_hub: Hub) -> None:
    before = effects(busy_hub)

    replay = rehearse(busy_hub, 101)

    assert effects(busy_hub) == before
    assert busy_hub.rows(
        "select count(*), count(result #> '{effects,action,decision}') from public.deliveries where replay_id = %s",
        replay,
    ) == [(12, 12)]


def test_a_version_compared_with_itself_differs_in_nothing(busy_hub: Hub) -> None:
    rehearse(busy_hub, PUBLISHED)
    rehearse(busy_hub, 100)

    compared = busy_hub.rpc("compare_versions", agent="lead-qualifier", a=PUBLISHED, b=100).json()

    assert (compared["compared"], compared["changed"], compared["changes"]) == (12, 0, [])


def test_a_comparison_shows_which_decisions_change_and_why(busy_hub: Hub) -> None:
    rehearse(busy_hub, PUBLISHED)
    rehearse(busy_hub, 101)

    compared = busy_hub.rpc("compare_versions", "VIEWER", agent="lead-qualifier", a=PUBLISHED, b=101).json()

    assert compared["compared"] == compared["changed"] == 12
    live = dict(busy_hub.rows("select event_id::text, (output ->> 'score')::int from public.agent_actions"))
    for change in compared["changes"]:
        assert change["score"] == live[change["event_id"]]
        assert change["new_score"] == min(100, change["score"] + 30)
    moves = {(move["from"], move["to"]) for move in compared["decisions"]}
    assert moves
    assert all(was != would_be for was, would_be in moves)


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        ("replay_progress", {"replay_id": "00000000-0000-0000-0000-000000000000"}, "unknown_replay"),
        ("compare_versions", {"agent": "nobody", "a": 1, "b": 2}, "unknown_agent"),
    ],
)
def test_what_is_not_there_is_not_found(
    busy_hub: Hub, function: str, arguments: dict[str, Any], code: str
) -> None:
    answer = busy_hub.rpc(function, **arguments)

    assert (answer.status_code, answer.json()["details"]) == (404, code)


def test_live_work_goes_before_a_rehearsal(busy_hub: Hub) -> None:
    # In a transaction that is never committed, so that nobody else can take any of it.
    with psycopg.connect(busy_hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute("set local role service_role")
        connection.execute("""set local request.jwt.claims = '{"role": "service_role"}'""")
        connection.execute(
            "select public.replay_events('{}', 'lead-qualifier', 'rehearsal', version => 101, dry_run => false)"
        )
        connection.execute("reset role")
        [(event,)] = connection.execute(
            "insert into public.events (org_id, type, data) select id, 'form.submitted', '{}'"
            " from public.organizations where slug = 'trades' returning id::text"
        )
        [(batch,)] = connection.execute("select hub.claim_deliveries('lead-qualifier', 3, 1)")
        connection.rollback()

    assert [delivery["mode"] for delivery in batch] == ["live", "rehearsal", "rehearsal"]
    assert batch[0]["event"]["id"] == event


def test_a_version_that_cannot_be_read_is_told_at_once(busy_hub: Hub) -> None:
    version = busy_hub.rpc(
        "create_version", "ADMIN", agent="lead-qualifier", config={"rules": {"bands": "none"}}
    ).json()

    said = subprocess.run(
        ["make", "--silent", "rehearse", f"VERSION={version}", f"STATE={busy_hub.state}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # Long before eight tries.
        timeout=30,
    )

    error = f"Version {version} cannot be read: rules.bands should be a valid list."
    assert error in said.stderr
    assert "takes nothing" not in said.stderr
    assert busy_hub.rows(
        "select distinct deliveries.status::text, attempts, last_error from public.deliveries"
        " join public.agent_versions on agent_versions.id = version_id where version = %s",
        version,
    ) == [("dead", 1, error)]


def test_a_rehearsal_prints_what_would_change(busy_hub: Hub) -> None:
    said = subprocess.run(
        ["make", "--silent", "rehearse", "VERSION=101", f"STATE={busy_hub.state}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert said.returncode == 0, said.stderr
    count = busy_hub.rows("select count(*) from public.events where type = 'form.submitted'")[0][0]
    assert (
        f"version 101 against {PUBLISHED}, {count} events, {count} would be judged differently."
        in said.stdout
    )
    assert "→" in said.stdout
