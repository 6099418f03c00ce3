"""Pulls: the list of a partner site, read page by page and recorded as if the site had pushed it.

SQL says which source is due and holds how far it was read; the end of each page is written together with the cursor
after it. A pull that dies anywhere is claimed again and goes on from the last page that was recorded.
"""

import asyncio
import json
from collections import Counter
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from shared import db, log
from shared.errors import HubError
from shared.intake import items, partners
from shared.intake.partners import Page, PartnerFailed
from shared.outbound.client import Client

AT_ONCE = 4
DEADLINE = 45.0
# No partner keeps the others waiting: the rest of its list comes at the next tick.
PAGES_AT_ONCE = 200
EMPTY_PAGES = 20
# One transaction records so many items well within the time that a call may take.
ITEMS_AT_ONCE = 200
# A lease lasts longer than a page may take.
LEASE = 50


class Source(BaseModel):
    id: UUID
    lease_token: UUID
    name: str
    url: str
    token: str | None
    paging: Literal["cursor", "since"]
    page_size: int
    mapping: dict[str, str]
    id_prefix: str
    cursor: str | None
    phone_region: str
    retries: list[str]


class LeaseLost(Exception):
    """Another pull has this source now, or somebody has changed how far it was read."""


async def pull_due() -> dict[str, int]:
    """Pull the due sources, a few at once, until none is due or the deadline is there; answers counts."""
    ends_at = asyncio.get_running_loop().time() + DEADLINE
    counts: Counter[str] = Counter(pulled=0, failed_pulls=0, recorded=0, duplicates=0, failed=0)
    pulls = [_pull_one_after_another(ends_at, counts) for _ in range(AT_ONCE)]
    # A pull that cannot go on leaves its source to the next tick; the others end their pages.
    for failure in filter(None, await asyncio.gather(*pulls, return_exceptions=True)):
        raise failure
    return dict(counts)


async def _pull_one_after_another(ends_at: float, counts: Counter[str]) -> None:
    while asyncio.get_running_loop().time() < ends_at:
        claimed = await db.call("claim_pull", lease_seconds=LEASE)
        if claimed is None:
            return
        await _pull(Source.model_validate(claimed), ends_at, counts)


async def _pull(source: Source, ends_at: float, counts: Counter[str]) -> None:
    is_complete, error, retry_after = False, None, None
    try:
        is_complete = await Pull(source, counts).run(ends_at)
        counts["pulled"] += 1
    except LeaseLost:
        return
    except PartnerFailed as failure:
        error, retry_after = log.masked(str(failure)), failure.retry_after
        counts["failed_pulls"] += 1
        log.line("pull_failed", source=source.id, error=error)
    await db.call(
        "release_pull",
        source_id=source.id,
        lease_token=source.lease_token,
        is_complete=is_complete,
        error=error,
        retry_after_seconds=retry_after,
    )


class Pull:
    """One source, from where it was read last to the end of its list."""

    def __init__(self, source: Source, counts: Counter[str]) -> None:
        self._source = source
        self._counts = counts
        self._cursor = source.cursor
        self._asked_from = {source.cursor}

    async def run(self, ends_at: float) -> bool:
        """Read on; answers whether the end was reached, or False when the time was up before."""
        if self._source.retries:
            await self._record([json.loads(item) for item in self._source.retries])
        async with Client() as client:
            return await self._read(client, ends_at)

    async def _read(self, client: Client, ends_at: float) -> bool:
        empty = 0
        for _ in range(PAGES_AT_ONCE):
            page = await partners.page(client, self._source.url, self._source.token, self._query())
            following = self._following(page)
            if not self._has_more(page):
                await self._record(page.items, following, complete_until=page.as_of)
                return True
            # The items of a page are recorded even if its cursor is wrong.
            is_new = following is not None and following not in self._asked_from
            await self._record(page.items, following if is_new else None)
            if not is_new:
                raise PartnerFailed("said that there is more, and not where")
            empty = 0 if page.items else empty + 1
            if empty == EMPTY_PAGES:
                raise PartnerFailed(f"answered {EMPTY_PAGES} empty pages and said that there is more")
            self._asked_from.add(following)
            if asyncio.get_running_loop().time() >= ends_at:
                return False
        return False

    def _query(self) -> dict[str, str]:
        query = {"limit": str(self._source.page_size)}
        return query if self._cursor is None else {**query, self._source.paging: self._cursor}

    def _has_more(self, page: Page) -> bool:
        if page.has_more is None and self._source.paging == "since":
            return len(page.items) >= self._source.page_size
        return bool(page.has_more)

    def _following(self, page: Page) -> str | None:
        if self._source.paging == "cursor" or page.next_cursor:
            return page.next_cursor
        # A time in the future would leave out all that happens until then.
        times = [time for item in page.items if (time := self._time_of(item)) and time <= page.as_of]
        return max(times).isoformat() if times else None

    def _time_of(self, item: object) -> datetime | None:
        try:
            return items.happened_at(item, self._source) if isinstance(item, dict) else None
        except HubError:
            return None

    async def _record(
        self, listed: list[Any], next_cursor: str | None = None, complete_until: datetime | None = None
    ) -> None:
        read = [await items.read(item, self._source) for item in listed]
        parts = [read[at : at + ITEMS_AT_ONCE] for at in range(0, len(read), ITEMS_AT_ONCE)]
        for part in parts[:-1]:
            await self._record_part(part)
        await self._record_part(parts[-1] if parts else [], next_cursor, complete_until)
        self._cursor = next_cursor or self._cursor

    async def _record_part(
        self, part: list[Any], next_cursor: str | None = None, complete_until: datetime | None = None
    ) -> None:
        outcome = await db.call(
            "record_page",
            source_id=self._source.id,
            lease_token=self._source.lease_token,
            items=part,
            read_from=self._cursor,
            next_cursor=next_cursor,
            complete_until=complete_until,
            lease_seconds=LEASE,
        )
        if not outcome.pop("is_ours"):
            raise LeaseLost
        self._counts.update(outcome)
