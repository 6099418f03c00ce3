"""Definitions of tables' rows and of functions' arguments."""

from typing import Any

import orjson

from emulator.rest.catalog import Catalog, Parameter, Relationship, Table, TableColumn
from emulator.rest.openapi.types import items, present, swagger_format, swagger_type
from emulator.rest.openapi.usable import Function


def table(described: Table, catalog: Catalog) -> dict[str, Any]:
    columns = described.columns.values()
    return present(
        description=described.description,
        required=[column.name for column in columns if not column.is_nullable] or None,
        properties={column.name: _column(column, described, catalog) for column in columns} or None,
        type="object",
    )


def arguments(function: Function) -> dict[str, Any]:
    return present(
        description=function.description,
        required=[each.name for each in function.parameters if each.is_required] or None,
        properties={each.name: _argument(each) for each in function.parameters} or None,
        type="object",
    )


def _argument(parameter: Parameter) -> dict[str, Any]:
    kind = parameter.type
    return present(format=swagger_format(kind), items=items(kind), type=swagger_type(kind))


def _column(column: TableColumn, of: Table, catalog: Catalog) -> dict[str, Any]:
    kind = column.plain_type
    return present(
        default=_default(kind, column.default),
        description=_description(column, of, catalog),
        enum=list(column.enum) or None,
        format=swagger_format(kind),
        items=items(kind),
        maxLength=column.max_length,
        type=swagger_type(kind),
    )


def _default(kind: str, expression: str | None) -> Any:
    """The default as JSON, if its expression happens to be JSON."""
    if expression is None:
        return None
    if swagger_type(kind) == "string":
        plain = expression.removesuffix(f"::{kind}")
        expression = '"' + (plain.strip("'") if plain != expression else plain) + '"'
    try:
        return orjson.loads(expression)
    except orjson.JSONDecodeError:
        return None


def _description(column: TableColumn, of: Table, catalog: Catalog) -> str | None:
    notes = []
    if column.name in of.primary_key:
        notes.append("This is a Primary Key.<pk/>")
    reference = _reference(column, of, catalog)
    if reference is not None:
        target, [(_, there)] = reference.target[1], reference.columns
        notes.append(f"This is a Foreign Key to `{target}.{there}`.<fk table='{target}' column='{there}'/>")
    if not notes:
        return column.description
    said = f"{column.description}\n\n" if column.description else ""
    return said + "\n".join(["Note:", *notes])


def _reference(column: TableColumn, of: Table, catalog: Catalog) -> Relationship | None:
    """The foreign key of this column alone; one to a table rather than the same one to a view on it."""
    found = (
        each
        for each in catalog.relationships.get(of.key, ())
        if each.kind in ("many-to-one", "one-to-one")
        and not each.is_inverse
        and each.target[0] == of.schema
        and [here for here, _ in each.columns] == [column.name]
    )
    return min(found, key=lambda each: (each.targets_view, each.target, each.name), default=None)
