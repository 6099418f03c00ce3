"""A booking as sites send it: a form with a slot, read as a service, an address, a slot and a recurrence.

A slot is ISO 8601 in the site's own time, `2026-12-01T09:30` or the date alone; any other text stays as written. A
recurrence is once, weekly, fortnightly or monthly; any other text stays as written.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator

from shared.intake.forms import FORM, Choice, Line, Submission

_DATE = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2})|(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{4})"
)
_TIME = re.compile(r"(?<![0-9])([0-9]{1,2})(?:[:.]([0-9]{2}))? ?(am|pm)?(?![0-9])", re.IGNORECASE)
_RECURRENCES = {
    "fortnightly": re.compile(r"fortnight|bi-?weekly|(?:2|two|second|other) ?weeks?"),
    "weekly": re.compile(r"week"),
    "monthly": re.compile(r"month"),
    "once": re.compile(r"\b(?:once|one.?off|one.?time|single|none|no|never)\b"),
}


def _together(slot: object) -> object:
    """A slot may be an object of a date and a time."""
    return " ".join(map(str, slot.values())) if isinstance(slot, dict) else slot


class Booking(Submission):
    """A form that is a booking if it says so or has a slot or a date."""

    address: Choice | None = None
    slot: Annotated[Line | None, BeforeValidator(_together)] = None
    date: Line | None = None
    time: Line | None = None

    @property
    def event(self) -> tuple[str, bool]:
        kind, is_sure = super().event
        if (self.slot or self.date) and (kind == FORM or not is_sure):
            return "booking.placed", True
        return kind, is_sure

    def reading(self, contact: Mapping[str, Any]) -> dict[str, Any]:
        read = super().reading(contact)
        if not self.event[0].startswith("booking"):
            return read
        slot = self.slot or " ".join(part for part in (self.date, self.time) if part)
        booking = {
            "service": self.service,
            "address": self.address,
            "slot": _iso(slot) if slot else None,
            "recurrence": _recurrence(self.recurrence),
        }
        return {name: value for name, value in read.items() if name not in ("date", "time")} | booking


def _iso(slot: str) -> str:
    date = _DATE.search(slot)
    if date is None:
        return slot
    year, month, day = (
        date[long] or date[short] for long, short in (("year", "y"), ("month", "m"), ("day", "d"))
    )
    time = _TIME.search(slot, date.end())
    try:
        at = datetime(int(year), int(month), int(day), *_hour_and_minute(time) if time else ())
    except ValueError:
        return slot
    return at.strftime("%Y-%m-%dT%H:%M" if time else "%Y-%m-%d")


def _hour_and_minute(time: re.Match[str]) -> tuple[int, int]:
    hour, half = int(time[1]), (time[3] or "").lower()
    if half and hour <= 12:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return hour, int(time[2] or 0)


def _recurrence(written: str | None) -> str:
    plain = (written or "once").lower()
    return next((name for name, words in _RECURRENCES.items() if words.search(plain)), plain)
