"""Items of a partner's list, each read as the form that it is.

An item has an `id`, a time (`occurred_at`) and perhaps a `kind`; the rest is the form. A source's mapping lists other
names for these or for fields of the form; dots lead into objects.
"""

import json
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from pydantic import TypeAdapter, ValidationError

from shared import log
from shared.errors import HubError, Unprocessable
from shared.intake import bookings
from shared.intake.forms import KIND, Submission
from shared.intake.recording import contact_of
from shared.web import bodies

MAX_ID = 200
_OUTSIDE_THE_FORM = ("id", "occurred_at", "kind")
_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)


class Booking(bookings.Booking):
    names: ClassVar = {"address": "address", "slot": "slot", "date": "date", "time": "time"}


class Reading(Protocol):
    """How a source's items are to be read."""

    mapping: dict[str, str]
    id_prefix: str
    phone_region: str


async def read(item: object, reading: Reading) -> dict[str, Any]:
    """The item as SQL records it; if it cannot be recorded, the parts that could be read, and the reason."""
    found: dict[str, Any] = {"item": json.dumps(item)}
    try:
        # An item is read as strictly as a pushed form: one that jsonb cannot hold is refused here.
        fields = await bodies.parse(found["item"].encode(), "json", b"")
        if not isinstance(fields, dict):
            raise Unprocessable("It is not an object.")
        found["key"] = _key(_at(fields, "id", reading), reading)
        found["kind"] = _kind(_at(fields, "kind", reading))
        time = happened_at(fields, reading)
        found["occurred_at"] = None if time is None else time.isoformat()
        form = _form(fields, reading)
        submission = Submission.model_validate(form)
        found["contact"] = contact_of(submission, reading.phone_region)
        found |= {"form": form, "quarantine": submission.quarantine}
        booking = Booking.model_validate(form | ({"kind": found["kind"]} if found["kind"] else {}))
        is_booking = booking.event[0].startswith("booking")
        found["reading"] = (booking if is_booking else submission).reading(found["contact"])
    except HubError as error:
        found["failure"] = _in_words(error)
    except Exception as error:  # an item that nothing of ours can read is its own failure, and no other's
        log.crash("item_unreadable", error)
        found["failure"] = f"It could not be read: {type(error).__name__}."
    return found


def happened_at(item: dict[str, Any], reading: Reading) -> datetime | None:
    """The time of the item; without a zone it is UTC."""
    value = _at(item, "occurred_at", reading)
    if value is None:
        return None
    try:
        time = _TIME.validate_python(value)
    except ValidationError as error:
        raise Unprocessable.field("occurred_at", "is not a time") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _key(value: object, reading: Reading) -> str:
    if value is None or value == "":
        raise Unprocessable.field("id", "is missing")
    key = str(value).strip()
    if not isinstance(value, str | int) or isinstance(value, bool) or not 0 < len(key) <= MAX_ID:
        raise Unprocessable.field("id", f"is not a text of up to {MAX_ID} characters or a number")
    return reading.id_prefix + key


def _kind(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and KIND.fullmatch(value.lower()):
        return value.lower()
    raise Unprocessable.field("kind", "is not a name such as form.submitted")


def _form(fields: dict[str, Any], reading: Reading) -> dict[str, Any]:
    outside = {reading.mapping.get(name, name) for name in _OUTSIDE_THE_FORM}
    form = {name: value for name, value in fields.items() if name not in outside}
    for name in reading.mapping.keys() - set(_OUTSIDE_THE_FORM):
        value = _at(fields, name, reading)
        if value is not None:
            form[name] = value
    return form


def _at(fields: dict[str, Any], name: str, reading: Reading) -> Any:
    path = reading.mapping.get(name, name)
    if path in fields:
        return fields[path]
    value: Any = fields
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _in_words(error: HubError) -> str:
    return " ".join(
        [error.message, *(f"{detail.get('field', '')} {detail['message']}." for detail in error.details)]
    )
