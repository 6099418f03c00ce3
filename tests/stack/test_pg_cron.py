"""pg_cron's stand-in: schedules in GMT, one run of a job at a time, a history, and nothing caught up."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from emulator.cron import Minutes, Waiting
from support.hubs import Hub

NEVER = "0 0 30 2 *"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
def job(hub: Hub) -> Iterator[str]:
    name = f"job-{uuid.uuid4().hex[:12]}"
    yield name
    hub.sql("select cron.unschedule(jobid) from cron.job where jobname = %s", name)


def runs(hub: Hub, job: str) -> list[tuple[Any, ...]]:
    return hub.rows(
        "select status, return_message from cron.job_run_details join cron.job using (jobid)"
        " where jobname = %s order by runid",
        job,
    )


def has_ended(hub: Hub, job: str, times: int = 1) -> bool:
    return hub.until(lambda: sum(status in ("succeeded", "failed") for status, _ in runs(hub, job)) == times)


# The clock ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "moment", "is_due"),
    [
        ("* * * * *", "2026-11-21 12:34", True),
        ("34 12 * * *", "2026-11-21 12:34", True),
        ("34 12 * * *", "2026-11-21 13:34", False),
        ("*/15 * * * *", "2026-11-21 12:45", True),
        ("*/15 * * * *", "2026-11-21 12:46", False),
        ("5-10/5 * * * *", "2026-11-21 12:10", True),
        ("0 9 * * mon-fri", "2026-11-20 09:00", True),
        ("0 9 * * mon-fri", "2026-11-21 09:00", False),
        ("0 9 * * 7", "2026-11-22 09:00", True),
        ("0 9 * * 0", "2026-11-22 09:00", True),
        ("0 9 1 * mon", "2026-11-23 09:00", True),  # day and weekday given: either is enough
        ("0 9 1 * mon", "2026-12-01 09:00", True),
        ("0 9 1 * mon", "2026-12-02 09:00", False),
        ("0 9 $ * *", "2026-11-30 09:00", True),
        ("0 9 $ * *", "2026-11-29 09:00", False),
        ("0 9 $ 2 *", "2028-02-29 09:00", True),
        ("0 0 1 jan *", "2027-01-01 00:00", True),
        ("@hourly", "2026-11-21 12:00", True),
        ("@daily", "2026-11-21 12:00", False),
        ("@weekly", "2026-11-22 00:00", True),
        (NEVER, "2026-11-21 00:00", False),
    ],
)
def test_a_schedule_says_which_minutes(schedule: str, moment: str, is_due: bool) -> None:
    assert Minutes.parse(schedule).includes(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is is_due


def test_an_interval_counts_from_when_the_job_was_seen() -> None:
    waiting = Waiting("10 seconds", NOW)

    due = []
    for second in range(31):
        waiting.look_at_clock(NOW + timedelta(seconds=second), is_new_minute=second == 0)
        due.append(waiting.pending)
        waiting.pending = 0

    assert [second for second, pending in enumerate(due) if pending] == [10, 20, 30]


def test_while_it_runs_an_interval_piles_up_one_run_and_minutes_pile_up_all() -> None:
    interval, minutes = Waiting("1 second", NOW), Waiting("* * * * *", NOW)

    for minute in range(1, 6):
        for waiting in (interval, minutes):
            waiting.look_at_clock(NOW + timedelta(minutes=minute), is_new_minute=True)

    assert (interval.pending, minutes.pending) == (1, 5)


# Jobs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    ["* * * * *", "1,2,30-40/5 0 $ jan-mar mon", "59 seconds", "1 second", "@reboot", "@Daily", "0 0 * * 7"],
)
def test_a_valid_schedule_is_taken(hub: Hub, job: str, schedule: str) -> None:
    hub.sql("select cron.schedule(%s, %s, 'select 1'), cron.unschedule(%s)", job, schedule, job)


@pytest.mark.parametrize(
    "schedule",
    ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "60 seconds", "0 seconds",
     "5 minutes", "*/0 * * * *", "5/2 * * * *", "9-5 * * * *", "* * * foo *", "1 seconds * * *", "@often"],
)  # fmt: skip
def test_an_invalid_schedule_is_refused(hub: Hub, job: str, schedule: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="invalid schedule"):
        hub.sql("select cron.schedule(%s, %s, 'select 1')", job, schedule)


def test_seconds_run_by_themselves(hub: Hub, job: str) -> None:
    hub.sql("select cron.schedule(%s, '1 second', 'select 1')", job)

    assert hub.until(lambda: len(runs(hub, job)) >= 3)
    assert runs(hub, job)[0] == ("succeeded", "1 row")


def test_a_run_is_a_session_of_the_jobs_owner_with_its_settings(hub: Hub, job: str) -> None:
    hub.sql(
        "select cron.schedule(%s, %s, $$create table public.cron_witness as select session_user, current_user as now_user,"
        " current_setting('search_path') as path, pg_backend_pid() as pid$$)",
        job,
        NEVER,
    )

    hub.sql("select cron.run_now(%s)", job)
    assert has_ended(hub, job)

    [(witness, user, path, pid)] = hub.rows("select * from public.cron_witness")
    [(recorded, owner)] = hub.rows(
        "select job_pid, d.username from cron.job_run_details d join cron.job using (jobid) where jobname = %s",
        job,
    )
    hub.sql("drop table public.cron_witness")
    assert (witness, user, owner, path) == ("postgres", "postgres", "postgres", '"$user", public, extensions')
    assert pid == recorded
    assert runs(hub, job) == [("succeeded", "SELECT 1")]


def test_a_failing_run_says_why(hub: Hub, job: str) -> None:
    hub.sql("select cron.schedule(%s, %s, 'select 1/0')", job, NEVER)

    hub.sql("select cron.run_now(%s)", job)

    assert has_ended(hub, job)
    [(status, message)] = runs(hub, job)
    assert status == "failed"
    assert message.startswith("ERROR: division by zero")


def test_several_statements_are_one_transaction(hub: Hub, job: str) -> None:
    hub.sql("select cron.schedule(%s, %s, 'create table public.half (); select 1/0')", job, NEVER)

    hub.sql("select cron.run_now(%s)", job)

    assert has_ended(hub, job)
    assert hub.rows("select to_regclass('public.half')") == [(None,)]


def test_one_run_at_a_time(hub: Hub, job: str) -> None:
    hub.sql("select cron.schedule(%s, %s, 'select pg_sleep(0.3)')", job, NEVER)

    for _ in range(3):
        hub.sql("select cron.run_now(%s)", job)

    assert has_ended(hub, job, times=3)
    assert hub.rows(
        "select count(*) from cron.job_run_details a join cron.job_run_details b using (jobid) join cron.job using (jobid)"
        " where jobname = %s and a.runid < b.runid and b.start_time < a.end_time",
        job,
    ) == [(0,)]


def test_a_second_schedule_of_a_name_changes_the_job_but_does_not_wake_it(hub: Hub, job: str) -> None:
    [(first,)] = hub.rows("select cron.schedule(%s, '* * * * *', 'select 1')", job)
    hub.sql("select cron.alter_job(%s, active => false)", first)

    [(second,)] = hub.rows("select cron.schedule(%s, '5 * * * *', 'select 2')", job)

    assert first == second
    assert hub.rows("select schedule, command, active from cron.job where jobname = %s", job) == [
        ("5 * * * *", "select 2", False)
    ]


def test_unscheduling_an_absent_job_raises(hub: Hub) -> None:
    with pytest.raises(psycopg.Error, match="could not find valid entry for job 'absent'"):
        hub.sql("select cron.unschedule('absent')")


@pytest.mark.parametrize(
    "statement",
    [
        "update cron.job set active = false",
        "insert into cron.job (schedule, command) values ('* * * * *', 'select 1')",
        "select cron.schedule_in_database('mine', '* * * * *', 'select 1', 'postgres', 'supabase_admin')",
    ],
)
def test_postgres_changes_jobs_through_functions_and_only_its_own(hub: Hub, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        hub.sql(statement)


def test_what_ran_when_the_database_died_is_marked_failed(own_hub: Hub) -> None:
    own_hub.sql("select cron.schedule('long', %s, 'select pg_sleep(60)')", NEVER)
    own_hub.run_job("long")
    assert own_hub.until(lambda: ("running", None) in runs(own_hub, "long"))

    own_hub.restart_database()

    assert own_hub.until(lambda: runs(own_hub, "long") == [("failed", "server restarted")])
