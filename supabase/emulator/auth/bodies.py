"""What clients send to Auth; fields that nobody here reads are left alone."""

import json
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from emulator.auth.errors import AuthError


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
