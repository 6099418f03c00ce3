"""Bodies that clients send to Auth; fields that nobody here reads are left alone."""

import json
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from emulator.auth.errors import AuthError

# Every token holds the metadata, and a user whose token is longer than LONGEST_TOKEN is locked out.
MOST_METADATA = 4_000


class PasswordGrant(BaseModel):
    email: str = ""
    phone: str = ""
    password: str = ""


class RefreshGrant(BaseModel):
    refresh_token: str = ""


class Change(BaseModel):
    password: str | None = None
    data: dict[str, Any] = {}
    email: str | None = None
    phone: str | None = None


class NewPerson(BaseModel):
    email: str | None = None
    password: str | None = None
    email_confirm: bool = False
    user_metadata: dict[str, Any] | None = None
    app_metadata: dict[str, Any] | None = None
    phone: str | None = None
    password_hash: str | None = None
    role: str | None = None
    ban_duration: str | None = None
    id: str | None = None


async def read[Model: BaseModel](request: Request, model: type[Model]) -> Model:
    text = await request.body()
    try:
        body = model.model_validate_json(text or b"{}")
        # Not every number that Python reads is one of JSON's.
        written = json.dumps(body.model_dump(), allow_nan=False)
    except (ValidationError, ValueError) as error:
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from error
    if "\\u0000" in written:
        raise AuthError(400, "validation_failed", "A text holds a NUL character")
    return body


def refuse_large(metadata: dict[str, Any]) -> None:
    if len(json.dumps(metadata)) > MOST_METADATA:
        raise AuthError(
            422, "validation_failed", f"User metadata cannot be longer than {MOST_METADATA} bytes"
        )
