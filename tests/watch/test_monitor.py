"""The data monitor: it looks every quarter of an hour, opens what is wrong, closes what is over, and writes down both."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from support.hubs import Hub, web

SILENT = "select closed_at is null from public.alerts where kind = 'site_silent' and subject = 'prime'"
LOOKS = "select decision, outcome::text, reasons from public.agent_actions where agent = 'data-monitor' order by id"

type Look = Callable[[], dict[str, Any]]


@pytest.fixture
def org(hub: Hub) -> uuid.UUID:
    """An organization with a monitor that only looks when it is told."""
    name = f"watched-{uuid.uuid4().hex[:10]}"
    org: uuid.UUID = hub.rows(
        "insert into public.organizations (slug, name) values (%s, %s) returning id", name, name
    )[0][0]
    hub.sql("select private.add_data_monitor(%s)", name)
    hub.sql("update public.subscriptions set paused = true where org_id = %s", org)
    return org


@pytest.fixture
def look(hub: Hub, org: uuid.UUID) -> Look:
    def run() -> dict[str, Any]:
        checks = "select private.run_checks(org_id, config, null) from public.agent_versions where org_id = %s and version = 1"
        return dict(hub.rows(checks, org)[0][0])

    return run


@pytest.fixture
def subscription(hub: Hub, org: Any) -> Any:
    """A subscription whose target no function answers."""
    return hub.rows(
        "insert into public.subscriptions (org_id, name, event_types, target) values (%s, 'subscription', '{note.kept}', %s) returning id",
        org,
        f"subscription-{uuid.uuid4().hex[:10]}",
    )[0][0]


def emit(hub: Hub, org: uuid.UUID, count: int = 1) -> None:
    hub.sql(
        "insert into public.events (org_id, type) select %s, 'note.kept' from generate_series(1, %s)",
        org,
        count,
    )


def fail(hub: Hub, org: uuid.UUID, count: int) -> None:
    hub.sql(
        "insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome)"
        " select org_id, id, 1, 'retry' from public.deliveries where org_id = %s limit %s",
        org,
        count,
    )


def alerts(hub: Hub, org: uuid.UUID) -> list[tuple[Any, ...]]:
    return hub.rows(
        "select kind, subject from public.alerts where org_id = %s and closed_at is null order by 1, 2", org
    )


def tick(hub: Hub, minutes: int = 0) -> int:
    return int(hub.rows("select private.tick_monitors(now() + make_interval(mins => %s))", minutes)[0][0])


def found(hub: Hub) -> list[tuple[Any, ...]]:
    """What is open after the monitor has looked because it was time."""
    tick(hub)
    assert hub.until(lambda: bool(hub.rows(LOOKS)))
    return hub.rows("select kind, subject from public.alerts where closed_at is null order by subject")


# The run ------------------------------------------------------------------------------------------------------------------


def test_it_looks_when_it_is_time_and_writes_down_that_nothing_is_wrong(own_hub: Hub) -> None:
    # As cron would, were it a quarter past.
    own_hub.run_job("tick_monitors")

    assert own_hub.until(lambda: len(own_hub.rows(LOOKS)) == 1)
    assert own_hub.rows(LOOKS) == [("all_well", "self_resolved", ["Nothing is wrong."])]
    schedule = own_hub.rows("select schedule from cron.job where jobname = 'tick_monitors'")
    assert schedule == [("*/15 * * * *",)]


def test_two_ticks_of_a_quarter_are_one(own_hub: Hub) -> None:
    made = [tick(own_hub), tick(own_hub), tick(own_hub, minutes=15)]

    assert made == [1, 0, 1]
    assert own_hub.rows("select count(*) from public.events where type = 'monitor.due'") == [(2,)]


def test_a_silent_site_is_one_alert_until_its_next_form(own_hub: Hub) -> None:
    own_hub.sql("update public.sites set business_hours = '{}'")
    own_hub.sql(
        "insert into public.events (id, org_id, site_id, type, source)"
        " select private.uuid_v7(now() - interval '125 minutes'), org_id, id, 'call.received', 'site:prime' from public.sites where slug = 'prime'"
    )
    for minutes in (0, 15):
        tick(own_hub, minutes)
        assert own_hub.until(lambda minutes=minutes: len(own_hub.rows(LOOKS)) == minutes // 15 + 1)
    assert own_hub.rows(SILENT) == [(True,)]
    assert [decision for decision, _, _ in own_hub.rows(LOOKS)] == ["alerts_opened", "alerts_open"]
    said = own_hub.rows("select message from public.alerts where kind = 'site_silent'")[0][0]
    assert said.endswith("If so little is usual for it, raise sites.quiet_alert_after (02:00:00 now).")

    sent = web.post(
        f"{own_hub.url}/functions/v1/ingest-prime",
        json={"email": "jo@example.com"},
        headers={"x-webhook-secret": own_hub.env["PRIME_WEBHOOK_SECRET"]},
    )
    own_hub.run_job("watch")

    assert sent.status_code == 202
    assert own_hub.until(lambda: own_hub.rows(SILENT) == [(False,)])
    told = own_hub.rows("select type from public.events where type like 'alert.%' order by id")
    assert told == [("alert.opened",), ("alert.closed",)]


def test_after_a_pause_it_looks_once_and_not_for_every_quarter_that_passed(own_hub: Hub) -> None:
    own_hub.sql("update public.agents set status = 'paused' where name = 'data-monitor'")
    assert tick(own_hub) == 0
    own_hub.sql(
        "insert into public.events (org_id, type) select id, 'monitor.due' from public.organizations, generate_series(1, 10)"
    )

    own_hub.sql("update public.agents set status = 'idle' where name = 'data-monitor'")

    statuses = "select status::text, count(*) from public.deliveries group by 1 order by 1"
    assert own_hub.until(lambda: own_hub.rows(statuses) == [("done", 1), ("skipped", 9)])
    assert len(own_hub.rows(LOOKS)) == 1


def test_a_monitor_that_does_not_run_makes_the_hub_unready(own_hub: Hub) -> None:
    def ready() -> httpx.Response:
        return web.get(f"{own_hub.url}/functions/v1/ready")

    tick(own_hub)
    assert own_hub.until(lambda: len(own_hub.rows(LOOKS)) == 1)
    assert own_hub.until(lambda: ready().json()["ready"])

    # The server has been up for an hour, and so have the agent and its subscription.
    own_hub.as_superuser(
        "create or replace function private.last_monitored(org_id uuid default null) returns timestamptz language sql as"
        " $$ select max(created_at) from public.agent_actions $$;"
        " update public.agent_actions set created_at = now() - interval '40 minutes'"
    )

    answer = ready()
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["monitored_seconds_ago"] >= 2400


# The checks ---------------------------------------------------------------------------------------------------------------


def test_a_delivery_that_nobody_takes_is_found_until_it_is_taken(
    hub: Hub, org: Any, look: Look, subscription: Any
) -> None:
    emit(hub, org)
    assert look()["open"] == []
    hub.sql(
        "update public.deliveries set run_at = now() - interval '16 minutes' where subscription_id = %s",
        subscription,
    )

    assert look()["opened"] == ["deliveries_stuck subscription"]
    assert look()["opened"] == []
    hub.sql("update public.deliveries set status = 'done' where subscription_id = %s", subscription)
    assert look()["closed"] == ["deliveries_stuck subscription"]


def test_what_is_paused_is_not_stuck(hub: Hub, org: Any, look: Look, subscription: Any) -> None:
    emit(hub, org)
    hub.sql(
        "update public.deliveries set run_at = now() - interval '1 day' where subscription_id = %s",
        subscription,
    )
    hub.sql("update public.subscriptions set paused = true where id = %s", subscription)

    assert look()["open"] == []


def test_a_lease_that_ran_out_long_ago_is_found(hub: Hub, org: Any, look: Look, subscription: Any) -> None:
    hub.sql("update public.subscriptions set paused = true where id = %s", subscription)
    emit(hub, org)
    held = (
        "update public.deliveries set status = 'running', lease_token = gen_random_uuid(),"
        " leased_until = now() - interval '6 minutes' where subscription_id = %s"
    )
    with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute("update public.subscriptions set paused = false where id = %s", [subscription])
        connection.execute(held, [subscription])
        found = connection.execute("select private.run_checks(%s, '{}', null)", [org]).fetchone()
        connection.rollback()  # before the sweep takes it back

    assert found is not None
    assert found[0]["opened"] == ["deliveries_stuck subscription"]
    assert found[0]["open"] == ["1 deliveries to subscription are still held by leases that ran out."]


def test_a_function_that_fails_often_is_found_and_one_that_fails_once_is_not(
    hub: Hub, org: Any, look: Look, subscription: Any
) -> None:
    emit(hub, org, 20)
    fail(hub, org, 4)
    assert look()["open"] == []

    fail(hub, org, 5)

    found = look()
    target = hub.rows("select target from public.subscriptions where id = %s", subscription)[0][0]
    assert found["opened"] == [f"function_failing {target}"]
    assert found["open"] == [f"{target} failed 5 of 20 deliveries within an hour."]


def test_a_rehearsal_that_fails_is_no_alert(hub: Hub, org: Any, look: Look, subscription: Any) -> None:
    emit(hub, org, 20)
    hub.sql("update public.deliveries set mode = 'rehearsal' where org_id = %s", org)
    fail(hub, org, 20)

    assert look()["open"] == []


def test_a_dead_delivery_that_came_back_is_no_alert(
    hub: Hub, org: Any, look: Look, subscription: Any
) -> None:
    emit(hub, org)
    hub.sql(
        "select private.mark_dead(id, 'no') from public.deliveries where subscription_id = %s", subscription
    )
    look()
    assert [kind for kind, _ in alerts(hub, org)] == ["delivery_dead"]

    hub.sql("update public.deliveries set status = 'done' where subscription_id = %s", subscription)
    look()

    assert alerts(hub, org) == []


def test_many_that_die_of_one_reason_are_told_once(hub: Hub, org: Any, subscription: Any) -> None:
    emit(hub, org, 10)

    hub.sql(
        "select private.mark_dead(id, 'no') from public.deliveries where subscription_id = %s", subscription
    )

    assert len(alerts(hub, org)) == 10
    told = hub.rows("select count(*) from public.events where org_id = %s and type = 'alert.opened'", org)
    assert told == [(1,)]


@pytest.mark.parametrize(("contacts", "is_found"), [(5, True), (20, False)])
def test_a_sender_that_loops_is_found_and_a_busy_hour_is_not(
    own_hub: Any, contacts: int, is_found: bool
) -> None:
    for number in range(20):
        own_hub.submit("prime", {"email": f"jo{number % contacts}@example.com", "message": f"No. {number}"})

    assert found(own_hub) == [("duplicates_spike", "prime")] * is_found


def test_a_form_that_is_sent_again_and_again_under_its_key_is_found(own_hub: Hub) -> None:
    answers = [own_hub.submit("akf", {"email": "jo@example.com", "submission_id": "one"}) for _ in range(60)]
    assert [answer["duplicate"] for answer in answers] == [False, *[True] * 59]
    counted = "select sum(count)::int from public.refusals where reason = 'duplicate'"
    assert own_hub.until(lambda: own_hub.rows(counted) == [(59,)])

    assert found(own_hub) == [("duplicates_spike", "akf")]
    assert own_hub.rows("select message from public.alerts") == [
        (
            "59 of the last 60 submissions of AKF Construction are repeats:"
            " 59 under a key that was used, 0 of contacts who had just sent one.",
        )
    ]


def test_a_pull_that_has_no_success_is_found(own_hub: Hub) -> None:
    own_hub.sql(
        "insert into public.pull_sources (org_id, site_id, name, url, last_success_at, created_at, enabled, next_at)"
        " select org_id, id, source.name, 'https://pulled.example/' || source.name, now() - source.ago, now() - source.old,"
        " source.enabled, now() + interval '1 hour' from public.sites cross join (values"
        " ('late', interval '50 minutes', interval '1 day', true), ('fine', interval '40 minutes', interval '1 day', true),"
        " ('fresh', null, interval '0', true), ('never', null, interval '1 day', true),"
        " ('switched-off', interval '1 day', interval '1 day', false)) as source (name, ago, old, enabled) where slug = 'prime'"
    )
    own_hub.sql(
        "insert into public.pull_sources (org_id, site_id, name, url, created_at, next_at)"
        " select org_id, id, 'of-a-closed-shop', 'https://pulled.example', now() - interval '1 day', now() from public.sites where slug = 'akf'"
    )
    own_hub.sql("update public.sites set enabled = false where slug = 'akf'")

    assert found(own_hub) == [("pull_stale", "late"), ("pull_stale", "never")]


def test_items_that_wait_for_a_person_are_one_alert_until_all_are_decided(
    hub: Hub, org: uuid.UUID, look: Look
) -> None:
    hub.sql(
        "with site as (insert into public.sites (org_id, number, slug, name, url)"
        " values (%(org)s, 1, 'list-' || left(%(org)s::text, 13), 'List', 'https://list.example') returning id),"
        " source as (insert into public.pull_sources (org_id, site_id, name, url, next_at)"
        " select %(org)s, id, 'list', 'https://list.example', 'infinity' from site returning id)"
        " insert into public.pull_failures (org_id, source_id, key, item, reason)"
        " select %(org)s, id, 'item-' || n, '{}', 'No address.' from source, generate_series(1, 2) as n",
        org=org,
    )
    decided = "update public.pull_failures set status = %s where org_id = %s and key = %s"

    seen = look()
    assert (seen["opened"], seen["open"]) == (
        ["pull_failed list"],
        ["2 items wait for a decision (pull_failures)."],
    )
    hub.sql(decided, "dismissed", org, "item-1")
    assert look()["open"] == ["1 items wait for a decision (pull_failures)."]
    hub.sql(decided, "retry", org, "item-2")
    assert look()["open"] == ["1 items wait to be read again (pull_failures)."]
    hub.sql(decided, "resolved", org, "item-2")
    assert look()["closed"] == ["pull_failed list"]


def refuse(hub: Hub, site: str, times: int) -> None:
    """So many posts with a wrong secret, each counted."""
    counted = "select coalesce(sum(count), 0)::int from public.refusals where reason = 'secret'"
    before = hub.rows(counted)[0][0]
    for _ in range(times):
        url, wrong = f"{hub.url}/functions/v1/ingest-{site}", {"x-webhook-secret": "wrong"}
        assert web.post(url, json={"email": "jo@example.com"}, headers=wrong).status_code == 401
    assert hub.until(lambda: hub.rows(counted) == [(before + times,)])


def test_a_site_that_refuses_many_signatures_is_found(own_hub: Hub) -> None:
    for number in range(19):
        own_hub.submit("prime", {"email": f"jo{number}@example.com"})
    refuse(own_hub, "prime", 20)
    look = 'select private.run_checks(id, \'{"refused_rate": 0.5, "refused_in_a_row": 100}\', null) from public.organizations'
    assert own_hub.rows(look)[0][0]["open"] == [
        "20 requests to Prime Electrical within an hour had a wrong secret or signature, against 19 that were accepted."
    ]

    # Twenty of forty are not more than half.
    own_hub.submit("prime", {"email": "jo@example.com"})

    assert own_hub.rows(look)[0][0]["closed"] == ["signatures_refused prime"]


def test_a_small_site_with_a_wrong_secret_is_found_until_one_is_accepted(own_hub: Hub) -> None:
    own_hub.sql(
        "insert into public.events (id, org_id, site_id, type, source) select private.uuid_v7(now() - interval '2 minutes'), org_id, id,"
        " 'call.received', 'site:akf' from public.sites where slug = 'akf'"
    )
    look = "select private.run_checks(id, '{}', null) from public.organizations"
    refuse(own_hub, "akf", 4)
    assert own_hub.rows(look)[0][0]["open"] == []
    refuse(own_hub, "akf", 1)

    assert own_hub.rows(look)[0][0]["opened"] == ["signatures_refused akf"]
    own_hub.submit("akf", {"email": "jo@example.com"})
    assert own_hub.rows(look)[0][0]["closed"] == ["signatures_refused akf"]


def test_jobs_that_are_gone_late_or_failing_are_found(own_hub: Hub) -> None:
    own_hub.sql("select cron.schedule('made_up', '* * * * *', 'select 1')")
    org = own_hub.rows("select id from public.organizations")[0][0]
    look = "select private.run_checks(%s, '{}', null)"
    assert own_hub.rows(look, org)[0][0]["open"] == []

    own_hub.sql("select cron.alter_job(jobid, active => false) from cron.job where jobname = 'prune_history'")
    # As if the server had been up for an hour, and this job had last run then.
    own_hub.sql("update private.known_jobs set seen_at = now() - interval '1 hour'")
    found = own_hub.rows(
        "select subject, message from private.check_job_late(%s, '{}', now() + interval '5 minutes')"
        " where subject in ('made_up', 'prune_history', 'sweep_deliveries') order by 1",
        org,
    )

    assert found == [
        ("made_up", "The job made_up should run every 00:01:00 and has not."),
        ("prune_history", "The job prune_history is gone or switched off."),
        ("sweep_deliveries", "The job sweep_deliveries should run every 00:00:05 and has not."),
    ]


def test_a_check_that_fails_is_an_alert_and_stops_no_other(
    hub: Hub, org: Any, look: Look, subscription: Any
) -> None:
    emit(hub, org)
    hub.sql(
        "update public.deliveries set run_at = now() - interval '16 minutes' where subscription_id = %s",
        subscription,
    )
    config = json.dumps({"failure_min": "many", "duplicates_min": "many"})

    found = hub.rows("select private.run_checks(%s, %s, null)", org, config)[0][0]

    assert found["opened"] == ["deliveries_stuck subscription"]
    assert found["failed"] == []  # nothing was there to compare with
    fail(hub, org, 1)
    found = hub.rows("select private.run_checks(%s, %s, null)", org, config)[0][0]
    assert found["failed"] == ["function_failing"]
    assert ("check_failed", "function_failing") in alerts(hub, org)
    look()
    assert alerts(hub, org) == [("deliveries_stuck", "subscription")]
