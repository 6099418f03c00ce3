"""What a form costs: `make bench`.

In one run, on one machine: ingest-prime over HTTP (closed loop at 1, 16 and 64 connections, open loop at 100 a
second) against the same SQL function under pgbench, with everything on: triggers, kicks, qualifier. Four of five
submissions are new, one repeats an earlier one. Every answer's id is compared with the row of its own submission,
because a count of 202s would hide answers that were crossed.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from support.hubs import Hub, free_port, postgres_binary, running_hub

from load.client import Connection

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("SECONDS", "6"))


@dataclass
class Server:
    """One deployed function, served as Cloud Run serves it."""

    port: int
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Of the process that answers, shared pages counted in."""
        status = Path(f"/proc/{self.pids()[-1]}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextlib.contextmanager
def served(hub: Hub, source: Path, target: str, workers: int = 1) -> Iterator[Server]:
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("functions-framework")),
        "--target",
        target,
        "--source",
        str(source),
    ]
    environment = {**os.environ, **hub.env, "PYTHONPATH": str(ROOT), "WORKERS": str(workers)}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield Server(port, process)
        finally:
            process.terminate()


@dataclass
class Sender:
    """Submissions of one run, and what was answered to each."""

    hub: Hub
    run: str
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    sent: int = 0
    latencies: list[float] = field(default_factory=list)
    answers: list[tuple[int, str]] = field(default_factory=list)

    def next(self) -> tuple[int, dict[str, str], bytes]:
        if self.sent and self.chance.random() < 0.2:
            number = self.chance.randrange(self.sent)
        else:
            number = self.sent
            self.sent += 1
        headers = {
            "content-type": "application/json",
            "x-webhook-secret": self.hub.env["PRIME_WEBHOOK_SECRET"],
            "idempotency-key": f"{self.run}-{number}",
        }
        return number, headers, form(self.run, number)

    async def send(self, connection: Connection, due: float | None = None) -> None:
        number, headers, body = self.next()
        started = due or time.perf_counter()
        status, answer = await connection.post("/", headers, body)
        self.latencies.append(time.perf_counter() - started)
        if status != 202:
            raise RuntimeError(f"{status}: {answer}")
        self.answers.append((number, answer["event_id"]))

    def crossed(self) -> int:
        """Answers whose id is not that of their own row."""
        rows = dict(
            self.hub.rows(
                "select (data #>> '{form,number}')::int, id::text from public.events where data #>> '{form,run}' = %s",
                self.run,
            )
        )
        return sum(rows.get(number) != event for number, event in self.answers)

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * share)] * 1000


def form(run: str, number: int) -> bytes:
    return json.dumps(
        {
            "run": run,
            "number": number,
            "name": f"Person {number}",
            "email": f"{run}-{number}@example.com",
            "phone": f"+64 21 {number % 10_000_000:07d}",
            "message": "The switchboard smells burnt, could somebody please come today?",
            "service": "switchboard",
            "page_url": "https://prime-electrical-nu.vercel.app/contact",
            "utm_source": "google",
            "utm_campaign": "spring",
        }
    ).encode()


async def closed_loop(sender: Sender, port: int, connections: int) -> float:
    end = time.perf_counter() + SECONDS

    async def loop() -> None:
        connection = Connection("127.0.0.1", port)
        while time.perf_counter() < end:
            await sender.send(connection)
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(connections)))
    return len(sender.answers) / (time.perf_counter() - started)


async def open_loop(sender: Sender, port: int, rate: float) -> None:
    """Sent when due, whether or not the one before was answered; waiting counts."""
    idle = [Connection("127.0.0.1", port) for _ in range(64)]
    started = time.perf_counter()

    async def one(due: float) -> None:
        connection = idle.pop()
        await sender.send(connection, due)
        idle.append(connection)

    tasks = []
    for number in range(int(rate * SECONDS)):
        due = started + number / rate
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)


PGBENCH = r"""
\set fresh random(1, 5)
\set number random(1, 1000000000)
\if :fresh = 1
  \set number random(1, 200)
\endif
select hub.record_submission(:secret::uuid, jsonb_build_object(
  'kind', 'form.submitted',
  'form', jsonb_build_object('run', :run::text, 'number', :number::int, 'name', 'Person ' || :number::int,
    'email', :run::text || '-' || :number::int || '@example.com', 'phone', '+6421' || :number::int,
    'message', 'The switchboard smells burnt, could somebody please come today?', 'service', 'switchboard',
    'page_url', 'https://prime-electrical-nu.vercel.app/contact', 'utm_source', 'google', 'utm_campaign', 'spring'),
  'reading', jsonb_build_object('name', 'Person ' || :number::int, 'email', :run::text || '-' || :number::int || '@example.com',
    'phone', '+6421' || :number::int,
    'message', 'The switchboard smells burnt, could somebody please come today?', 'service', 'switchboard',
    'page_url', 'https://prime-electrical-nu.vercel.app/contact'),
  'contact', jsonb_build_object('name', 'Person ' || :number::int, 'email', :run::text || '-' || :number::int || '@example.com',
    'phone', '+6421' || :number::int),
  'idempotency_key', :run::text || '-' || :number::int));
"""


def pgbench(hub: Hub, clients: int) -> float:
    secret = hub.rows(
        "select site_secrets.id from private.site_secrets join public.sites on sites.id = site_id where slug = 'prime' and kind = 'static'"
    )[0][0]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PGBENCH)
        script.flush()
        printed = subprocess.run(
            [
                *(
                    postgres_binary("pgbench"),
                    "-n",
                    "-M",
                    "prepared",
                    "-c",
                    str(clients),
                    "-j",
                    str(min(clients, 2)),
                ),
                *(
                    "-T",
                    str(int(SECONDS)),
                    "-D",
                    f"secret={secret}",
                    "-D",
                    f"run=pgbench{clients}",
                    "-f",
                    script.name,
                ),
                hub.env["DATABASE_URL"],
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return float(printed.split("tps = ")[1].split()[0])


def settled(hub: Hub) -> None:
    """Until the qualifier has caught up, so that one measurement does not pay for the last one."""
    hub.until(
        lambda: (
            hub.rows(
                "select count(*) from public.deliveries where status in ('pending', 'running', 'failed')"
            )
            == [(0,)]
        ),
        120,
    )


def measure_throughput(hub: Hub, server: Server) -> None:
    print(
        f"\n{'connections':>12} {'forms/s':>9} {'pgbench/s':>10} {'ratio':>6} {'p50 ms':>7} {'p95 ms':>7} {'CPU µs/form':>12} {'MB':>5} {'crossed':>8}"
    )
    for connections in (1, 16, 64):
        sender = Sender(hub, f"closed{connections}")
        cpu = server.cpu_seconds()
        rate = uvloop.run(closed_loop(sender, server.port, connections))
        cpu = (server.cpu_seconds() - cpu) / len(sender.answers) * 1e6
        settled(hub)
        baseline = pgbench(hub, connections)
        settled(hub)
        print(
            f"{connections:>12} {rate:>9.0f} {baseline:>10.0f} {rate / baseline:>6.2f} {sender.percentile(0.5):>7.2f}"
            f" {sender.percentile(0.95):>7.2f} {cpu:>12.0f} {server.memory_mb():>5.0f} {sender.crossed():>8}"
        )
    sender = Sender(hub, "open100")
    uvloop.run(open_loop(sender, server.port, 100))
    print(
        f"open loop at 100/s: p50 {sender.percentile(0.5):.2f} ms, p95 {sender.percentile(0.95):.2f} ms, crossed {sender.crossed()}"
    )
    settled(hub)


async def burst(sender: Sender, port: int, submissions: int) -> None:
    waiting = iter(range(submissions))

    async def loop() -> None:
        connection = Connection("127.0.0.1", port)
        for _ in waiting:
            await sender.send(connection)
        connection.close()

    await asyncio.gather(*(loop() for _ in range(32)))


def measure_burst(hub: Hub, server: Server) -> None:
    sender = Sender(hub, "burst")
    started = time.perf_counter()
    uvloop.run(burst(sender, server.port, 1000))
    answered = time.perf_counter() - started
    qualified = (
        "select count(*) from public.agent_actions join public.events on events.id = event_id"
        " where events.data #>> '{form,run}' = 'burst'"
    )
    assert hub.until(lambda: hub.rows(qualified) == [(sender.sent,)], 120)
    print(
        f"1,000 submissions at once, {sender.sent} of them new: all committed in {answered:.2f} s,"
        f" all qualified in {time.perf_counter() - started:.2f} s, crossed {sender.crossed()}"
    )


def measure_reaction(hub: Hub, server: Server) -> None:
    """From the event's commit to the commit of the qualifier's action, by the database's own clock."""
    hub.as_superuser("alter system set track_commit_timestamp = on")
    hub.restart_database()
    sender = Sender(hub, "reaction")
    uvloop.run(open_loop(sender, server.port, 20))
    settled(hub)
    waits = sorted(
        float(row[0])
        for row in hub.rows(
            "select extract(epoch from pg_xact_commit_timestamp(agent_actions.xmin) - pg_xact_commit_timestamp(events.xmin)) * 1000"
            " from public.events join public.agent_actions on event_id = events.id where events.data #>> '{form,run}' = 'reaction'"
        )
    )
    print(
        f"event committed → action committed at 20 forms/s: p50 {statistics.median(waits):.0f} ms,"
        f" p95 {waits[int(len(waits) * 0.95)]:.0f} ms, worst {waits[-1]:.0f} ms, of {len(waits)}"
    )


def measure_cold_start(hub: Hub, source: Path) -> None:
    times = []
    for attempt in range(5):
        started = time.perf_counter()
        with served(hub, source, "ingest_prime") as server:
            sender = Sender(hub, f"cold{attempt}")
            uvloop.run(
                first_answer(
                    lambda sender=sender, server=server: sender.send(Connection("127.0.0.1", server.port))
                )
            )
            times.append(time.perf_counter() - started)
    print(f"cold start, process start → first stored event: median {statistics.median(times) * 1000:.0f} ms")


async def first_answer[Answer](send: Callable[..., Awaitable[Answer]]) -> Answer:
    while True:
        with contextlib.suppress(OSError):
            return await send()
        await asyncio.sleep(0.002)


def main() -> None:
    source = ROOT / "functions" / "ingest_prime" / "main.py"
    with running_hub() as hub:
        # Counted as ever, and never reached.
        hub.sql("update public.sites set max_per_second = 1000000")
        measure_cold_start(hub, source)
        with served(hub, source, "ingest_prime") as server:
            uvloop.run(first_answer(lambda: Sender(hub, "warm").send(Connection("127.0.0.1", server.port))))
            measure_throughput(hub, server)
            measure_burst(hub, server)
            measure_reaction(hub, server)


if __name__ == "__main__":
    main()
