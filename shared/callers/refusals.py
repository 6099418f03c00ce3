"""Refusals: counts, per site, of requests that an instance refused lately or had accepted before, for monitors to see.

The first of a burst is written at once, the rest together every few seconds: an attacker makes this instance write no
more than that, and waits for none of it.
"""

import asyncio
from collections import Counter

from shared import db
from shared.errors import HubError

WRITE_EVERY = 2.0

_counts: Counter[tuple[str, str]] = Counter()
_writing: asyncio.Task[None] | None = None


def count(site: str, reason: str) -> None:
    global _writing
    _counts[site, reason] += 1
    if _writing is None or _writing.done():
        _writing = asyncio.create_task(_write())


async def _write() -> None:
    while _counts:
        taken = dict(_counts)
        _counts.clear()
        rows = [{"site": site, "reason": reason, "count": n} for (site, reason), n in taken.items()]
        try:
            await db.call("count_refusals", refusals=rows)
        except HubError:
            _counts.update(taken)  # the next round takes them along
        await asyncio.sleep(WRITE_EVERY)
