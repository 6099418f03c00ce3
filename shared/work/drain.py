"""Deliveries: claim those that are due for a target, handle each, settle each, until none is left.

A handler answers `Done` with the effects of the delivery, or raises: `Skip` when there is nothing to do,
`Permanent` when no retry can help, `Retry` to say when, anything else for a retry when SQL thinks best. SQL writes the
effects in the transaction that settles the delivery, and only while the lease is still held.
"""

import asyncio
import signal
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ValidationError

from shared import db, log
from shared.errors import HubError, Unavailable
from shared.work.envelopes import Delivery
from shared.work.outcomes import Handle, Settlement, settled, settlement_of

# SQL kicks a target at most once in 100 ms and trusts it to look again meanwhile. Twice that, since an event
# may have been written, and not kicked for, some time before its commit lets anybody see it.
LINGER = (0.04, 0.06, 0.1)
GRACE = 5.0
SETTLE_ATTEMPTS = 4


class Kick(BaseModel):
    """The body that the hub posts to a function that has work: a hint, nothing more."""

    target: str | None = None


@dataclass(slots=True)
class Summary:
    """The numbers of deliveries that one drain claimed, and how they ended."""

    claimed: int = 0
    done: int = 0
    retried: int = 0
    dead: int = 0
    skipped: int = 0
    released: int = 0
    lost: int = 0
    # True when another drain was at work, which looks again instead.
    joined: bool = False


_UNREADABLE = {"outcome": "retry", "error": "the delivery has a shape that this function does not know"}
# The status that SQL answers for a settlement, and the count that it adds to; any other is lost.
_COUNTED_AS = {
    "done": "done",
    "failed": "retried",
    "dead": "dead",
    "skipped": "skipped",
    "pending": "released",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How much a drain does at once, and how long it may take; times in seconds."""

    batch: int = 20
    concurrency: int = 8
    # A lease is extended for as long as its handler runs.
    lease: int = 30
    handler_timeout: float = 20
    # After the deadline no handler is begun, and those that run have `grace` to end.
    deadline: float = 50
    grace: float = GRACE


async def drain(target: str, handle: Handle, pace: Pace = Pace()) -> dict[str, Any]:
    """Handle the deliveries due for `target` until none is left, the deadline is there or the process must stop.

    When the process must stop, handlers that run have GRACE to end.
    """
    at_work = _drains.get(target)
    if at_work and at_work.loop is asyncio.get_running_loop():
        at_work.look_again()
        return asdict(Summary(joined=True))
    _stop_at_sigterm()
    work = _drains[target] = Drain(target, handle, pace)
    try:
        return asdict(await work.run())
    finally:
        if _drains.get(target) is work:
            del _drains[target]


class Drain:
    def __init__(self, target: str, handle: Handle, pace: Pace) -> None:
        self.loop = asyncio.get_running_loop()
        self._target = target
        self._handle = handle
        self._pace = pace
        self._ends_at = self.loop.time() + pace.deadline
        self._kicked = asyncio.Event()
        self._stopping = False
        self._waiting: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[Settlement], Delivery] = {}
        self._summary = Summary()

    def look_again(self) -> None:
        self._kicked.set()

    def stop(self) -> None:
        self._stopping = True
        self._kicked.set()

    async def run(self) -> Summary:
        heartbeat = asyncio.create_task(self._keep_leases())
        try:
            await self._work()
            await self._finish()
        finally:
            heartbeat.cancel()
            await self._give_back()
        return self._summary

    async def _work(self) -> None:
        lingered = 0
        while not self._is_over():
            self._kicked.clear()
            await self._claim()
            self._start_waiting()
            if self._running:
                await self._wait_and_settle(self._ends_at)
                lingered = 0
            elif self._kicked.is_set():
                lingered = 0
            elif lingered < len(LINGER):
                await self._pause(LINGER[lingered])
                lingered += 1
            else:
                break

    def _is_over(self) -> bool:
        return self._stopping or self.loop.time() >= self._ends_at

    async def _claim(self) -> None:
        room = self._pace.batch - len(self._waiting) - len(self._running)
        if room <= 0:
            return
        try:
            rows = await db.call(
                "claim_deliveries", target=self._target, batch_size=room, lease_seconds=self._pace.lease
            )
        except Unavailable:
            if self._running:
                return  # those are settled first, and then it is tried again
            raise
        self._summary.claimed += len(rows)
        unreadable = []
        for row in rows:
            try:
                self._waiting.append(Delivery.model_validate(row))
            except ValidationError as error:
                log.crash("delivery_unreadable", error, delivery=row["id"])
                unreadable.append({"id": row["id"], "lease_token": row["lease_token"]} | _UNREADABLE)
        await self._settle(unreadable)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._pace.concurrency:
            delivery = self._waiting.popleft()
            task = asyncio.create_task(settled(delivery, self._handle, self._pace.handler_timeout))
            self._running[task] = delivery

    async def _wait_and_settle(self, until: float) -> None:
        """Settle together all that have ended, as soon as one has; a kick ends the wait as well."""
        kicked = asyncio.create_task(self._kicked.wait())
        await asyncio.wait(
            {*self._running, kicked},
            timeout=max(0.0, until - self.loop.time()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        kicked.cancel()
        ended = [task for task in self._running if task.done()]
        settlements = [task.result() for task in ended if not task.cancelled()]
        # Taken out before they are settled: an ended delivery needs its lease no longer than the settling takes.
        for task in ended:
            del self._running[task]
        await self._settle(settlements)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._kicked.wait()
        except TimeoutError:
            pass

    async def _finish(self) -> None:
        """Release deliveries that were not started, and let the rest end."""
        waiting, self._waiting = self._waiting, deque()
        await self._settle([settlement_of(delivery, "release") for delivery in waiting])
        began = self.loop.time()
        while self._running and self.loop.time() < self._grace_ends_at(began):
            self._kicked.clear()
            await self._wait_and_settle(self._grace_ends_at(began))

    def _grace_ends_at(self, began: float) -> float:
        return began + (min(GRACE, self._pace.grace) if self._stopping else self._pace.grace)

    async def _give_back(self) -> None:
        """Release all that is still held at the end, or when the drain itself has failed."""
        held = [*self._waiting, *self._running.values()]
        for task in self._running:
            task.cancel()
        self._waiting.clear()
        self._running.clear()
        await self._settle([settlement_of(delivery, "release") for delivery in held])

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._pace.lease / 3)
            held = [*self._waiting, *self._running.values()]
            if not held:
                continue
            leases = [{"id": str(it.id), "lease_token": str(it.lease_token)} for it in held]
            try:
                kept = set(await db.call("extend_leases", leases=leases, lease_seconds=self._pace.lease))
            except HubError:
                continue  # the next beat tries again while the lease still runs
            self._drop({it.id for it in held if str(it.id) not in kept})

    def _drop(self, lost: set[UUID]) -> None:
        """Cancel the handlers of deliveries that another process has now: SQL would refuse to settle them."""
        for task, delivery in list(self._running.items()):
            if delivery.id in lost and task.cancel():
                self._summary.lost += 1
        waiting = [it for it in self._waiting if it.id not in lost]
        self._summary.lost += len(self._waiting) - len(waiting)
        self._waiting = deque(waiting)

    async def _settle(self, settlements: list[Settlement]) -> None:
        if not settlements:
            return
        try:
            answers = await self._settle_in_time(settlements)
        except Unavailable as error:
            # Their leases run out, and they are handled again.
            log.crash("unsettled", error, target=self._target, deliveries=len(settlements))
            self._summary.lost += len(settlements)
            return
        except (HubError, TypeError, ValueError) as error:
            await self._settle_apart(settlements, error)
            return
        for answer in answers:
            counter = _COUNTED_AS.get(answer["status"], "lost")
            setattr(self._summary, counter, getattr(self._summary, counter) + 1)

    async def _settle_in_time(self, settlements: list[Settlement]) -> list[dict[str, str]]:
        for attempt in range(1, SETTLE_ATTEMPTS):
            try:
                return await db.call("settle_deliveries", settlements=settlements)  # type: ignore[no-any-return]
            except Unavailable:
                await asyncio.sleep(0.25 * 2**attempt)
        return await db.call("settle_deliveries", settlements=settlements)  # type: ignore[no-any-return]

    async def _settle_apart(self, settlements: list[Settlement], error: Exception) -> None:
        """Settle one by one, because one cannot be written at all, for a NUL in its result: the others are settled."""
        if len(settlements) > 1:
            failed = None
            for settlement in settlements:
                try:
                    await self._settle([settlement])
                except HubError as problem:
                    failed = problem
            if failed:
                raise failed
        elif "effects" in settlements[0] or "result" in settlements[0]:
            log.crash("unsettled", error, target=self._target, delivery=settlements[0]["id"])
            plain = {name: settlements[0][name] for name in ("id", "lease_token", "duration_ms")}
            await self._settle(
                [plain | {"outcome": "retry", "error": f"could not be settled: {type(error).__name__}"}]
            )
        else:
            raise error


_drains: dict[str, Drain] = {}
_is_listening = False


def _stop_at_sigterm() -> None:
    """Tell drains of SIGTERM: a server that must stop waits for its requests, and so for them."""
    global _is_listening
    server_stops = signal.getsignal(signal.SIGTERM)
    if (
        _is_listening
        or threading.current_thread() is not threading.main_thread()
        or not callable(server_stops)
    ):
        return

    def stop(number: int, frame: Any) -> None:
        for work in _drains.values():
            work.loop.call_soon_threadsafe(work.stop)
        server_stops(number, frame)

    signal.signal(signal.SIGTERM, stop)
    _is_listening = True
