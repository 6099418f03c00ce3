"""Partner sites as they answer: one page of a list, or the reason why there is none."""

import asyncio
import json
import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

TIMEOUT = 20.0
MAX_BODY = 5_000_000
MAX_ITEMS = 1_000
_LONGEST_INTEGER = 20


class PartnerFailed(Exception):
    """There is no page: what came instead, in words of ours, and when the partner wants to be asked again."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Page(BaseModel):
    items: list[Any] = Field(max_length=MAX_ITEMS)
    next_cursor: str | None = Field(
        default=None, max_length=2_000, coerce_numbers_to_str=True, pattern=r"^[^\x00]+$"
    )
    has_more: bool | None = None
    # The partner's list is complete up to here: when we asked, by the slower of the two clocks.
    as_of: datetime


async def page(url: str, token: str | None, query: dict[str, str]) -> Page:
    asked_at = datetime.now(UTC)
    answer = await _get(url, {"Authorization": f"Bearer {token}"} if token else {}, query)
    if answer.status >= 400:
        raise PartnerFailed(f"answered {answer.status}", _retry_after(answer.headers))
    if answer.status != 200:
        raise PartnerFailed(f"answered {answer.status}, which is no page")
    try:
        listed = json.loads(answer.body, parse_int=_integer)
        return Page.model_validate({**listed, "as_of": min(asked_at, _date(answer.headers) or asked_at)})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise PartnerFailed(f"answered no page of ours: {where}: {problem['msg']}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise PartnerFailed("answered what is not a JSON object") from error


async def _get(url: str, headers: dict[str, str], query: dict[str, str]) -> Answer:
    """The one call that leaves the hub: to this address and no other, for so long and so many bytes."""
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            httpx.AsyncClient(
                verify=_trusted(), follow_redirects=False, trust_env=False, timeout=TIMEOUT
            ) as client,
            client.stream(
                "GET",
                httpx.URL(url).copy_merge_params(query),
                headers={**headers, "Accept": "application/json", "Accept-Encoding": "identity"},
            ) as response,
        ):
            if response.headers.get("content-encoding", "identity") != "identity":
                raise PartnerFailed("answered compressed, which it was asked not to")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BODY:
                    raise PartnerFailed(f"answered more than {MAX_BODY / 1e6:g} MB")
            return Answer(response.status_code, response.headers, bytes(body))
    except TimeoutError as error:
        raise PartnerFailed(f"did not answer within {TIMEOUT:g} s") from error
    # A ValueError is a token that no header can carry.
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise PartnerFailed(f"could not be reached: {type(error).__name__}") from error


@cache
def _trusted() -> ssl.SSLContext:
    # Reading all the authorities takes longer than a page.
    return httpx.create_ssl_context(trust_env=False)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, or a date."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    at = _http_date(value)
    return None if at is None else max(0.0, at.timestamp() - time.time())


def _date(headers: Mapping[str, str]) -> datetime | None:
    return _http_date(headers.get("date", ""))


def _http_date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _integer(digits: str) -> float:
    # What is too long to be a number is for the item's own reading to refuse, not for the whole page's.
    return int(digits) if len(digits) <= _LONGEST_INTEGER else math.inf
