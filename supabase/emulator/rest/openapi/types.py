"""Postgres types in Swagger's words."""

from typing import Any

TYPES = {
    "boolean": "boolean",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "numeric": "number",
    "real": "number",
    "double precision": "number",
}
FORMATS = {"smallint": "int32", "integer": "int32", "bigint": "int64"}
# Values of these types may be anything.
UNTYPED = ("json", "jsonb")


def swagger_type(kind: str) -> str | None:
    if kind in UNTYPED:
        return None
    return TYPES.get(kind, "array" if kind.endswith("[]") else "string")


def swagger_format(kind: str) -> str:
    return FORMATS.get(kind, kind)


def element(kind: str) -> str:
    """The type that an array is of."""
    return kind.removesuffix("[]")


def items(kind: str) -> dict[str, Any] | None:
    return present(type=swagger_type(element(kind))) if swagger_type(kind) == "array" else None


def present(**fields: Any) -> dict[str, Any]:
    """The fields that there is something to say about."""
    return {name: content for name, content in fields.items() if content is not None}
