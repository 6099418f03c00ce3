"""Settings of the functions, read from the environment here and nowhere else.

One small model per concern, so that a function asks only for its own names. `load` fails with the names
that are missing, empty or malformed, and never with a value.
"""

import os
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

Filled = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Visible = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[\x21-\x7e]+$")]
Url = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^https?://[^/\s]+")]


def _listed(written: object) -> object:
    """What stands between commas, without blanks and without what is empty."""
    return (
        [part for part in map(str.strip, written.split(",")) if part] if isinstance(written, str) else written
    )


class BadSetting(Exception):
    """The function cannot start: a setting is missing, empty or malformed."""


class Settings(BaseModel):
    # Built at the first `load`: settings that a function does not need cost nothing at its start.
    model_config = ConfigDict(frozen=True, defer_build=True, hide_input_in_errors=True)


class Database(Settings):
    url: Filled = Field(alias="DATABASE_URL")


class Hub(Settings):
    """The secret by which the hub's parts know each other; while it changes, the new one and the old one."""

    invoke_secrets: Annotated[tuple[Filled, ...], BeforeValidator(_listed), Field(min_length=1)] = Field(
        alias="HUB_INVOKE_SECRET"
    )


class Front(Settings):
    """The proxies between a client and the function; each names the address that it heard from."""

    proxies: int = Field(alias="TRUSTED_PROXIES", ge=0, le=9)


class Supabase(Settings):
    url: Url = Field(alias="SUPABASE_URL")
    publishable_key: Filled = Field(alias="SUPABASE_PUBLISHABLE_KEY")


class Functions(Settings):
    """The URL below which the functions are."""

    functions_url: Url = Field(alias="FUNCTIONS_URL")


class Deployment(Functions):
    """The names of all functions, with blanks between."""

    functions: Filled = Field(alias="HUB_FUNCTIONS")


class Llm(Settings):
    """All of these or none: without a model each agent decides by its rules."""

    base_url: Url = Field(alias="LLM_BASE_URL")
    api_key: Visible = Field(alias="LLM_API_KEY")
    # The model of versions that name none.
    model: Filled = Field(alias="LLM_MODEL")


class Outgoing(Settings):
    # True for a hub on one machine: its partners may be on it too.
    may_be_local: bool = Field(False, alias="PARTNERS_MAY_BE_LOCAL")


def load[Group: Settings](group: type[Group]) -> Group:
    try:
        return group.model_validate(dict(os.environ))
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors(include_input=False)]
    raise BadSetting("; ".join(problems))


def load_if_set[Group: Settings](group: type[Group]) -> Group | None:
    """None when no name of the group is set; a part of them is as bad as a missing setting."""
    if not any(os.environ.get(name, "").strip() for name in names(group)):
        return None
    return load(group)


def names(group: type[Settings]) -> list[str]:
    return [field.alias or name for name, field in group.model_fields.items()]
