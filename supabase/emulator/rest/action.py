"""The action of a request: one statement, and how its result becomes an answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emulator.rest.asked import Asked
from emulator.rest.catalog import Catalog
from emulator.rest.errors import Fault, not_singular, out_of_range, too_many_affected
from emulator.rest.headers import checked, merged
from emulator.rest.query import Page
from emulator.rest.sql import NOTHING, Sql
from emulator.rest.statement import Result


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Action:
    statement: Sql
    read_only: bool
    answer: Callable[[Result], Answer]
    # Selects one row per row of the whole result, for count=planned and count=estimated.
    estimate: Sql = NOTHING
    settings: tuple[tuple[str, str], ...] = ()


Builder = Callable[[Asked, Catalog], Action]


def top_page(asked: Asked, page: Page) -> Page:
    return page.within(asked.range).capped(asked.max_rows)


def ranged(result: Result, page: Page, *, count_wanted: bool) -> tuple[int, str]:
    """Status and Content-Range of a page of rows."""
    total = result.total if count_wanted else None
    first, last = page.offset, page.offset + result.rows - 1
    if total is not None and first > total:
        raise out_of_range(f"An offset of {first} was requested, but there are only {total} rows.")
    status = 206 if total is not None and result.rows < total else 200
    return status, content_range(first, last, total)


def content_range(first: int, last: int, total: int | None) -> str:
    rows = f"{first}-{last}" if first <= last and total != 0 else "*"
    return f"{rows}/{'*' if total is None else total}"


def check_singular(asked: Asked, result: Result) -> None:
    if asked.media.is_singular and result.rows != 1:
        raise not_singular(result.rows)


def check_affected(asked: Asked, result: Result) -> None:
    limit = asked.preferences.max_affected
    if limit is not None and result.rows > limit:
        raise too_many_affected(result.rows)


def content_headers(asked: Asked) -> dict[str, str]:
    headers = {"Content-Type": asked.media.content_type}
    return headers | ({"Content-Profile": asked.schema} if asked.names_profile else {})


def with_applied(headers: dict[str, str], asked: Asked, *keys: str) -> dict[str, str]:
    applied = asked.preferences.applied(*keys)
    return headers | ({"Preference-Applied": applied} if applied else {})


def overridden(answer: Answer, result: Result) -> Answer:
    """A function may set status and headers of its own, through response.status and response.headers."""
    status = answer.status if result.status is None else _status(result.status)
    headers = answer.headers
    if result.headers is not None:
        headers = merged(headers, _headers(result.headers))
    return Answer(status, headers, answer.body)


def _status(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 200 <= int(text[:4]) <= 599):
        raise Fault(500, "PGRST112", "response.status guc must be a valid status code")
    return int(text)


def _headers(text: str) -> dict[str, str]:
    try:
        listed: Any = json.loads(text)
        headers: dict[str, str] = {}
        for each in listed:
            [(key, content)] = checked(each).items()
            headers[key] = f"{headers[key]}, {content}" if key in headers else content
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid_headers() from error
    return headers


def _invalid_headers() -> Fault:
    return Fault(
        500,
        "PGRST111",
        "response.headers guc must be a JSON array composed of objects with a single key and a string value",
    )
