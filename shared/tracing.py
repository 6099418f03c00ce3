"""W3C trace context: one trace id from the request in to every event, delivery and log line after it."""

import os
import re
from contextvars import ContextVar
from typing import NamedTuple

# Versions above 00 may append fields; 00 may not, ff is forbidden.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?", re.DOTALL
)


class Trace(NamedTuple):
    trace_id: str
    span_id: str
    flags: str

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def begin(traceparent: bytes | None) -> Trace:
    """Continue the caller's trace with a span of our own, or start one."""
    trace = _continued(traceparent)
    if trace is None:
        random = os.urandom(24).hex()
        trace = Trace(random[:32], random[32:], "01")
    _current.set(trace)
    return trace


def resume(trace_id: str) -> None:
    """Go on in the trace of an event that is handled now."""
    _current.set(Trace(trace_id, os.urandom(8).hex(), "01"))


def trace_id() -> str | None:
    trace = _current.get()
    return trace.trace_id if trace else None


def traceparent() -> str | None:
    """The header for a request that continues this trace."""
    trace = _current.get()
    return trace.traceparent if trace else None


def _continued(traceparent: bytes | None) -> Trace | None:
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or (match[1] == b"00" and match[4] is not None):
        return None
    # Only the flag "sampled" has a meaning that may be handed on.
    sampled = int(match[3], 16) & 1
    return Trace(match[2].decode(), os.urandom(8).hex(), f"0{sampled}")
