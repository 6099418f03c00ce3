"""Retry-After: the time after which a server wants to be asked again."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 86_400.0
_NUMBER = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?")


def seconds(said: str | None) -> float | None:
    """How long to wait, from a number or a date and never more than a day; None when it cannot be read."""
    text = (said or "").strip()
    if _NUMBER.fullmatch(text):
        return min(float(text), LONGEST)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)
    return min(max(wait.total_seconds(), 0.0), LONGEST)
