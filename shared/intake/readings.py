"""How a form was read: what the data of a site's event says in our words, beside the form as it came."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

# Enough of a text to judge it by; the rest costs time and changes nothing.
READ_UP_TO = 4_000


def _text(value: object) -> object:
    """What is no text was written by something else than a form, and says nothing here."""
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
