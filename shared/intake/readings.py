"""Readings: the data of a site's event in our words, beside the form as it came."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

# So much of a text is judged; the rest costs time and changes nothing.
READ_UP_TO = 4_000


def _text(value: object) -> object:
    """A value that is no text was not written by a form, and is read as absent."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


type Text = Annotated[str | None, BeforeValidator(_text)]


class Reading(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    name: Text = None
    email: Text = None
    phone: Text = None
    message: Text = None
    service: Text = None
    budget: Text = None
    area: Text = None
    address: Text = None
    timeframe: Text = None
    recurrence: Text = None
    slot: Text = None
    language: Text = None
    page_url: Text = None
