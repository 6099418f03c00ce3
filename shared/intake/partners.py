"""Partner sites as they answer: one page of a list, or the reason why there is none."""

import json
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import BaseModel, Field, ValidationError

from shared import retry_after
from shared.outbound.client import Answer, Client, Forbidden, TooMuch, Unreachable

TIMEOUT = 20.0
MAX_BODY = 5_000_000
MAX_ITEMS = 1_000
_LONGEST_INTEGER = 20


class PartnerFailed(Exception):
    """The partner gave no page; the message says why, in words of ours, and `retry_after` when to ask again."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class Page(BaseModel):
    items: list[Any] = Field(max_length=MAX_ITEMS)
    next_cursor: str | None = Field(
        default=None, max_length=2_000, coerce_numbers_to_str=True, pattern=r"^[^\x00]+$"
    )
    has_more: bool | None = None
    # The partner's list is complete up to here: when we asked, by the slower of the two clocks.
    as_of: datetime


async def page(client: Client, url: str, token: str | None, query: dict[str, str]) -> Page:
    asked_at = datetime.now(UTC)
    answer = await _get(client, url, {"Authorization": f"Bearer {token}"} if token else {}, query)
    if answer.status >= 400:
        raise PartnerFailed(f"answered {answer.status}", retry_after.seconds(answer.header(b"retry-after")))
    if answer.status != 200:
        raise PartnerFailed(f"answered {answer.status}, which is no page")
    try:
        listed = json.loads(answer.body, parse_int=_integer)
        return Page.model_validate({**listed, "as_of": min(asked_at, _date(answer) or asked_at)})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise PartnerFailed(f"answered no page of ours: {where}: {problem['msg']}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise PartnerFailed("answered what is not a JSON object") from error


async def _get(client: Client, url: str, headers: dict[str, str], query: dict[str, str]) -> Answer:
    parts = urlsplit(url)
    # The source's own parameters stay, but for those named as ours are.
    kept = [
        (name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in query
    ]
    asked = parts._replace(query=urlencode([*kept, *query.items()])).geturl()
    accepted = {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        answer = await client.get(asked, headers | accepted, MAX_BODY, TIMEOUT)
    except TooMuch as error:
        raise PartnerFailed(f"answered more than {MAX_BODY / 1e6:g} MB") from error
    except (Forbidden, Unreachable) as error:
        raise PartnerFailed(f"could not be reached: {error}") from error
    if answer.header(b"content-encoding") not in ("", "identity"):
        raise PartnerFailed("answered compressed, which it was asked not to")
    return answer


def _date(answer: Answer) -> datetime | None:
    try:
        at = parsedate_to_datetime(answer.header(b"date"))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _integer(digits: str) -> float:
    # A number that is too long is refused by the item's own reading, and not by the whole page's.
    return int(digits) if len(digits) <= _LONGEST_INTEGER else math.inf
