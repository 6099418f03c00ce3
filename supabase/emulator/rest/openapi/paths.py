"""The paths of tables and functions, with their methods and parameters."""

from typing import Any

from emulator.rest.catalog import Parameter, Table
from emulator.rest.openapi import definitions
from emulator.rest.openapi.types import element, items, present, swagger_format, swagger_type
from emulator.rest.openapi.usable import Function

OBJECTS = ["application/vnd.pgrst.object+json;nulls=stripped", "application/vnd.pgrst.object+json"]
OK = {"200": {"description": "OK"}}
NO_CONTENT = {"204": {"description": "No Content"}}

ROOT = {
    "get": {
        "tags": ["Introspection"],
        "summary": "OpenAPI description (this document)",
        "produces": ["application/openapi+json", "application/json"],
        "responses": OK,
    }
}


def table(described: Table) -> dict[str, Any]:
    name = described.name
    filters = [f"rowFilter.{name}.{column}" for column in described.columns]
    body = f"body.{name}"
    operation = _operation(name, described.description)

    def taking(*parameters: str) -> dict[str, Any]:
        return operation | {"parameters": [{"$ref": f"#/parameters/{each}"} for each in parameters]}

    rows = {"items": {"$ref": f"#/definitions/{name}"}, "type": "array"}
    found = {"200": {"description": "OK", "schema": rows}, "206": {"description": "Partial Content"}}
    paging = ("select", "order", "range", "rangeUnit", "offset", "limit", "preferCount")
    path = {"get": taking(*filters, *paging) | {"responses": found}}
    if not (described.insertable or described.updatable or described.deletable):
        return path
    return path | {
        "post": taking(body, "select", "preferPost") | {"responses": {"201": {"description": "Created"}}},
        "patch": taking(*filters, body, "preferReturn") | {"responses": NO_CONTENT},
        "delete": taking(*filters, "preferReturn") | {"responses": NO_CONTENT},
    }


def function(described: Function) -> dict[str, Any]:
    operation = _operation(f"(rpc) {described.name}", described.description) | {
        "produces": ["application/json", *OBJECTS],
        "responses": OK,
    }
    body = {"name": "args", "required": True, "in": "body", "schema": definitions.arguments(described)}
    post = operation | {"parameters": [body, {"$ref": "#/parameters/preferParams"}]}
    if described.is_volatile:
        return {"post": post}
    arguments = [_argument(each) for each in described.parameters]
    return {"get": operation | ({"parameters": arguments} if arguments else {}), "post": post}


def _operation(tag: str, comment: str | None) -> dict[str, Any]:
    """A comment's first line is the summary, the rest the description."""
    summary, _, rest = comment.partition("\n") if comment is not None else (None, "", "")
    return present(tags=[tag], summary=summary, description=rest.lstrip("\n") or None)


def _argument(parameter: Parameter) -> dict[str, Any]:
    """In a query string an array is one text in braces; only a variadic parameter is given several times."""
    kind = parameter.type
    named = {"name": parameter.name, "required": parameter.is_required, "in": "query"}
    if parameter.is_variadic:
        each = (items(kind) or {}) | {"format": swagger_format(element(kind))}
        return named | {"type": "array", "items": each, "collectionFormat": "multi"}
    shown = swagger_type(kind)
    is_text = shown is None or shown == "array"
    return named | {"format": swagger_format(kind), "type": "string" if is_text else shown}
