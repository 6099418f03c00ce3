"""The scheduler of pg_cron: GMT, one run of a job at a time, nothing is caught up after a stop."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row

APPLICATION = "pg_cron scheduler"
MOST_AT_ONCE = 32
CONNECT_SECONDS = 10

INTERVAL = re.compile(r"\s*(?P<seconds>[1-9]\d?)\s+seconds?\s*", re.IGNORECASE)
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTHS = {name: number for number, name in enumerate(MONTH_NAMES, 1)}
WEEKDAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}

ROLE_SETTINGS = """
  select set_config(split_part(setting, '=', 1), substring(setting from position('=' in setting) + 1), false)
  from pg_db_role_setting
  cross join unnest(setconfig) as setting
  join pg_roles on pg_roles.oid = setrole
  where rolname = %s and setdatabase in (0, (select oid from pg_database where datname = current_database()))
"""

type Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True)
class Minutes:
    """Five cron fields."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    last_day: bool
    every_day_or_weekday: bool

    @classmethod
    def parse(cls, schedule: str) -> "Minutes":
        minutes, hours, days, months, weekdays = NICKNAMES.get(schedule.strip().lower(), schedule).split()
        return cls(
            minutes=_field(minutes, 0, 59),
            hours=_field(hours, 0, 23),
            days=_field(days, 1, 31),
            months=_field(months, 1, 12, MONTHS),
            weekdays=frozenset(day % 7 for day in _field(weekdays, 0, 7, WEEKDAYS)),
            last_day="$" in days,
            every_day_or_weekday=days.startswith("*") or weekdays.startswith("*"),
        )

    def includes(self, moment: datetime) -> bool:
        day = moment.day in self.days or (self.last_day and (moment + timedelta(days=1)).day == 1)
        weekday = moment.isoweekday() % 7 in self.weekdays
        # When both are given, either is enough.
        is_its_day = (day and weekday) if self.every_day_or_weekday else (day or weekday)
        return (
            is_its_day
            and moment.month in self.months
            and moment.hour in self.hours
            and moment.minute in self.minutes
        )


def _field(text: str, lowest: int, highest: int, names: dict[str, int] | None = None) -> frozenset[int]:
    def numbers() -> Iterator[int]:
        for part in text.lower().split(","):
            if part == "$":
                continue
            span, _, step = part.partition("/")
            if span == "*":
                first, last = lowest, highest
            else:
                bounds = [int((names or {}).get(bound, bound)) for bound in span.split("-")]
                first, last = bounds[0], bounds[-1]
            yield from range(first, last + 1, int(step or 1))

    return frozenset(numbers())


@dataclass(frozen=True)
class Job:
    jobid: int
    schedule: str
    command: str
    database: str
    username: str
    active: bool


class Waiting:
    """The scheduler's memory of a job between its runs."""

    def __init__(self, schedule: str, now: datetime) -> None:
        self.schedule = schedule
        self.pending = 0
        self.is_running = False
        interval = INTERVAL.fullmatch(schedule)
        self.every = timedelta(seconds=int(interval["seconds"])) if interval else None
        self.at_start = schedule.strip().lower() == "@reboot"
        self._minutes = None if interval or self.at_start else Minutes.parse(schedule)
        self._due = now + (self.every or timedelta())

    def look_at_clock(self, now: datetime, is_new_minute: bool) -> None:
        if self.every is not None:
            if now >= self._due:
                self._due = max(self._due + self.every, now)
                self.pending = 1
        elif self._minutes is not None and is_new_minute and self._minutes.includes(now):
            self.pending += 1


class Scheduler:
    def __init__(self, records: Connection, database_url: str) -> None:
        self._records = records
        self._database_url = database_url
        self._jobs: dict[int, Job] = {}
        self._waiting: dict[int, Waiting] = {}
        self._minute = _now().replace(second=0, microsecond=0)
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def run(self, notified: Connection, runs: asyncio.TaskGroup) -> None:
        await self._records.execute(
            "update cron.job_run_details set status = 'failed', return_message = 'server restarted', end_time = now()"
            " where status in ('starting', 'connecting', 'sending', 'running')"
        )
        await notified.execute("listen pg_cron")
        await self._load()
        for waiting in self._waiting.values():
            waiting.pending = int(waiting.at_start)
        while True:
            self._start_due(runs)
            to_next_second = 1 - _now().microsecond / 1e6
            async for notification in notified.notifies(timeout=to_next_second, stop_after=1):
                await self._load()
                if asked_for := self._waiting.get(int(notification.payload)):
                    asked_for.pending += 1
            await self._load()
            self._look_at_clock()

    async def _load(self) -> None:
        async with self._records.cursor(row_factory=class_row(Job)) as cursor:
            await cursor.execute("select jobid, schedule, command, database, username, active from cron.job")
            self._jobs = {job.jobid: job async for job in cursor}
        now = _now()
        kept = {
            id: waiting
            for id, waiting in self._waiting.items()
            if id in self._jobs and self._jobs[id].schedule == waiting.schedule
        }
        self._waiting = {id: kept.get(id) or Waiting(job.schedule, now) for id, job in self._jobs.items()}

    def _look_at_clock(self) -> None:
        now = _now()
        minute = now.replace(second=0, microsecond=0)
        is_new_minute, self._minute = minute > self._minute, minute
        for id, waiting in self._waiting.items():
            if self._jobs[id].active:
                waiting.look_at_clock(now, is_new_minute)

    def _start_due(self, runs: asyncio.TaskGroup) -> None:
        for id, waiting in self._waiting.items():
            if waiting.pending and not waiting.is_running:
                waiting.pending -= 1
                waiting.is_running = True
                runs.create_task(self._run_and_release(self._jobs[id], waiting, runs))

    async def _run_and_release(self, job: Job, waiting: Waiting, runs: asyncio.TaskGroup) -> None:
        try:
            async with self._places:
                await self._run(job)
        finally:
            waiting.is_running = False
        # Runs that piled up meanwhile follow back to back.
        self._start_due(runs)

    async def _run(self, job: Job) -> None:
        run_id = await self._record_start(job)
        try:
            message = await self._execute(job, run_id)
            status = "succeeded"
        except psycopg.Error as error:
            message, status = f"ERROR: {error}", "failed"
        await self._records.execute(
            "update cron.job_run_details set status = %s, return_message = %s, end_time = clock_timestamp()"
            " where runid = %s",
            [status, message, run_id],
        )

    async def _record_start(self, job: Job) -> int:
        started = await self._records.execute(
            "insert into cron.job_run_details (jobid, database, username, command, status)"
            " values (%s, %s, %s, %s, 'starting') returning runid",
            [job.jobid, job.database, job.username, job.command],
        )
        row = await started.fetchone()
        assert row is not None
        return int(row[0])

    async def _execute(self, job: Job, run_id: int) -> str:
        url = make_conninfo(self._database_url, dbname=job.database, connect_timeout=CONNECT_SECONDS)
        async with await psycopg.AsyncConnection.connect(
            url, autocommit=True, application_name="pg_cron"
        ) as connection:
            await self._records.execute(
                "update cron.job_run_details set status = 'running', job_pid = %s, start_time = clock_timestamp()"
                " where runid = %s",
                [connection.info.backend_pid, run_id],
            )
            await connection.execute(ROLE_SETTINGS, [job.username])
            await connection.execute(
                sql.SQL("set session authorization {}").format(sql.Identifier(job.username))
            )
            done = await connection.execute(job.command.encode())
            if done.description:
                return f"{done.rowcount} row{'' if done.rowcount == 1 else 's'}"
            return done.statusmessage or ""


def _now() -> datetime:
    return datetime.now(UTC)
