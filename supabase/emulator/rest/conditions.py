"""Filters and orders as SQL."""

import re
from collections.abc import Callable, Iterable

from emulator.rest.plan import Node, embed_tested_by
from emulator.rest.query import (
    Compare,
    Condition,
    Distinct,
    Field,
    Filter,
    FullText,
    In,
    Is,
    Operation,
    Order,
)
from emulator.rest.sql import NOTHING, Sql, joined, name, sql, value

OPERATORS = {
    "eq": sql("="),
    "neq": sql("<>"),
    "gt": sql(">"),
    "gte": sql(">="),
    "lt": sql("<"),
    "lte": sql("<="),
    "like": sql("like"),
    "ilike": sql("ilike"),
    "match": sql("~"),
    "imatch": sql("~*"),
    "cs": sql("@>"),
    "cd": sql("<@"),
    "ov": sql("&&"),
    "sl": sql("<<"),
    "sr": sql(">>"),
    "nxr": sql("&<"),
    "nxl": sql("&>"),
    "adj": sql("-|-"),
}
QUANTIFIERS = {"any": sql("any"), "all": sql("all")}
STATES = {
    "null": sql("is null"),
    "not_null": sql("is not null"),
    "true": sql("is true"),
    "false": sql("is false"),
    "unknown": sql("is unknown"),
}
FULL_TEXT = {
    "fts": sql("to_tsquery"),
    "plfts": sql("plainto_tsquery"),
    "phfts": sql("phraseto_tsquery"),
    "wfts": sql("websearch_to_tsquery"),
}
DIRECTIONS = {"asc": sql(" asc"), "desc": sql(" desc"), None: NOTHING}
NULLS = {"first": sql(" nulls first"), "last": sql(" nulls last"), None: NOTHING}

TEXTUAL = {"text", "character varying", "character", "json", "jsonb", "citext", "extensions.citext"}
JSON_TYPES = {"json", "jsonb"}
NEEDS_QUOTES = re.compile(r'(["\\])')

TestEmbed = Callable[[Node, bool], Sql]

# These keywords are no names: quoted, Postgres would not find them.
BUILT_IN_TYPES = {
    "int", "integer", "bigint", "smallint", "real", "float", "double precision", "decimal", "numeric",
    "boolean", "char", "character", "character varying", "varchar", "bit", "bit varying", "interval",
    "time", "time without time zone", "time with time zone",
    "timestamp", "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip


def where(conditions: list[Sql]) -> Sql:
    return sql(" where {}", joined(" and ", conditions)) if conditions else NOTHING


def joined_rows(embed: Node, wanted: bool) -> Sql:
    """Whether the embed's own lateral join found rows."""
    if embed.relationship is not None and embed.relationship.is_to_one:
        found = sql("{} is distinct from null", embed.alias)
    else:
        found = sql("{}.pgrst_count > 0", embed.alias)
    return found if wanted else sql("not ({})", found)


def predicates(node: Node, test_embed: TestEmbed = joined_rows) -> list[Sql]:
    return [condition(node, each, test_embed) for each in node.conditions]


def condition(node: Node, asked: Condition, test_embed: TestEmbed) -> Sql:
    if isinstance(asked, Filter):
        embed = embed_tested_by(node, asked)
        if embed is not None:
            is_null = asked.operation == Is("null")
            return test_embed(embed, is_null == asked.negated)
        return comparison(node, asked)
    members = [condition(node, member, test_embed) for member in asked.members]
    together = sql("({})", joined(" and " if asked.joint == "and" else " or ", members))
    return sql("not {}", together) if asked.negated else together


def comparison(node: Node, asked: Filter) -> Sql:
    column = field_value(node, asked.field)
    if isinstance(asked.operation, FullText):
        column = _document(node, asked.field, asked.operation, column)
    compared = sql("{} {}", column, _tested(asked.operation))
    return sql("not {}", compared) if asked.negated else compared


def _tested(operation: Operation) -> Sql:
    match operation:
        case Compare(operator, wanted, quantifier):
            if operator in ("like", "ilike"):
                wanted = wanted.replace("*", "%")
            if quantifier is None:
                return sql("{} {}", OPERATORS[operator], value(wanted))
            return sql("{} {} ({})", OPERATORS[operator], QUANTIFIERS[quantifier], value(wanted))
        case In(values):
            return sql("= any ({})", value(array_literal(values)))
        case Is(state):
            return STATES[state]
        case Distinct(wanted):
            return sql("is distinct from {}", value(wanted))
        case FullText(operator, language, wanted):
            arguments = [value(each) for each in (language, wanted) if each is not None]
            return sql("@@ {}({})", FULL_TEXT[operator], joined(", ", arguments))


def array_literal(values: Iterable[str]) -> str:
    quoted = (NEEDS_QUOTES.sub(r"\\\1", each) for each in values)
    return "{" + ",".join(f'"{each}"' for each in quoted) + "}"


def _document(node: Node, field: Field, operation: FullText, column: Sql) -> Sql:
    known = node.table.columns.get(field.name) if node.table else None
    if known is None or (not field.path and known.base_type not in TEXTUAL):
        return column
    language = sql("{}, ", value(operation.language)) if operation.language else NOTHING
    return sql("to_tsvector({}{})", language, column)


def column_of(node: Node, column: str) -> Sql:
    return sql("{}.{}", node.reference, name(column))


def field_value(node: Node, field: Field, reference: Sql = NOTHING) -> Sql:
    column = sql("{}.{}", reference or node.reference, name(field.name))
    if not field.path:
        return column
    known = node.table.columns.get(field.name) if node.table else None
    if known is None or known.base_type not in JSON_TYPES:
        column = sql("to_jsonb({})", column)
    for step in field.path:
        key = sql("{}::int" if step.is_index else "{}::text", value(step.key))
        column = sql("{} ->> {}" if step.arrow == "->>" else "{} -> {}", column, key)
    return sql("({})", column)


def cast(expression: Sql, type_name: str) -> Sql:
    """Only type names get here (the grammar saw to it); all but Postgres' keywords are quoted as well."""
    lowered = " ".join(type_name.lower().split())
    target = Sql(lowered) if lowered in BUILT_IN_TYPES else name(lowered)
    return sql("cast({} as {})", expression, target)


def order_by(node: Node) -> Sql:
    if not node.orders:
        return NOTHING
    return sql(" order by {}", joined(", ", (_order_term(node, order) for order in node.orders)))


def _order_term(node: Node, order: Order) -> Sql:
    embed = node.find(order.relation) if order.relation else None
    ordered = field_value(embed, order.field, embed.alias) if embed else field_value(node, order.field)
    return ordered + DIRECTIONS[order.direction] + NULLS[order.nulls]
