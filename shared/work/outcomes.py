"""Outcomes of a delivery: its effects, or an exception that says what to do instead."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from shared import log, tracing
from shared.work.envelopes import Delivery


@dataclass(frozen=True, slots=True)
class Done:
    """The effects of a handled delivery; parts left out change nothing."""

    action: dict[str, Any] | None = None
    lead: dict[str, Any] | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None

    def effects(self) -> dict[str, Any]:
        memory = [{"key": key, "value": value} for key, value in self.memory.items()]
        effects = {"action": self.action, "lead": self.lead, "memory": memory, "events": self.events}
        return {name: effect for name, effect in effects.items() if effect}


class Skip(Exception):
    """There is nothing to do for this event."""


class Permanent(Exception):
    """The delivery failed, and would fail again."""


class Retry(Exception):
    def __init__(self, reason: str, after_seconds: int) -> None:
        self.after_seconds = after_seconds
        super().__init__(reason)


class Unreadable(Exception):
    """The version that decides cannot be read; the message says why. A live delivery is retried, since another
    version may be published; a rehearsal is of this one."""


type Handle = Callable[[Delivery], Awaitable[Done]]
type Settlement = dict[str, Any]


async def settled(delivery: Delivery, handle: Handle, seconds: float) -> Settlement:
    tracing.resume(delivery.event.trace_id)
    started = time.perf_counter()
    settlement = await _outcome(delivery, handle, seconds)
    settlement["duration_ms"] = round((time.perf_counter() - started) * 1000)
    log.line(
        "delivery",
        trace_id=delivery.event.trace_id,
        delivery=delivery.id,
        subscription=delivery.subscription,
        attempt=delivery.attempt,
        outcome=settlement["outcome"],
        ms=settlement["duration_ms"],
    )
    return settlement


async def _outcome(delivery: Delivery, handle: Handle, seconds: float) -> Settlement:
    try:
        async with asyncio.timeout(seconds) as limit:
            done = await handle(delivery)
    except Skip as error:
        return settlement_of(delivery, "skipped", error)
    except Permanent as error:
        return settlement_of(delivery, "dead", error)
    except Retry as error:
        return settlement_of(delivery, "retry", error) | {"retry_after_seconds": error.after_seconds}
    except Unreadable as error:
        outcome = "dead" if delivery.mode == "rehearsal" else "retry"
        return settlement_of(delivery, outcome) | {"error": _plain(str(error))}
    except Exception as error:  # a failing handler is that delivery's failure, and nobody else's
        if limit.expired():
            return settlement_of(delivery, "retry") | {"error": f"took longer than {seconds:g} s"}
        log.crash("delivery_failed", error, trace_id=delivery.event.trace_id, delivery=delivery.id)
        return settlement_of(delivery, "retry", error)
    settlement = settlement_of(delivery, "done") | {"effects": done.effects()}
    return settlement if done.result is None else settlement | {"result": done.result}


def settlement_of(delivery: Delivery, outcome: str, error: Exception | None = None) -> Settlement:
    settlement = {"id": str(delivery.id), "lease_token": str(delivery.lease_token), "outcome": outcome}
    if error is not None:
        settlement["error"] = _plain(f"{type(error).__name__}: {error}")
    return settlement


def _plain(text: str) -> str:
    return log.masked(text.replace("\0", ""))
