"""The little languages inside a query parameter: select, filter, logic tree, order, column list."""

import re
from typing import Literal, cast

from emulator.rest.errors import Fault, too_complex
from emulator.rest.query import (
    Column,
    Compare,
    Condition,
    Distinct,
    Embed,
    Field,
    Filter,
    FullText,
    In,
    Is,
    Item,
    Logic,
    Operation,
    Order,
    Path,
)
from emulator.rest.scanner import QUOTED, Scanner, unquoted

DEEPEST_EMBED = 12
DEEPEST_LOGIC = 40
MOST_EMBEDS = 60

COMPARISONS = {
    "eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch",
    "cs", "cd", "ov", "sl", "sr", "nxr", "nxl", "adj",
}  # fmt: skip
QUANTIFIABLE = {"eq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch"}
FULL_TEXT = {"fts", "plfts", "phfts", "wfts"}
STATES = {"null", "not_null", "true", "false", "unknown"}
AGGREGATES = {"sum", "avg", "count", "max", "min"}

TYPE = re.compile(r"[A-Za-z0-9_ $]+")
OPERATOR = re.compile(r"([a-z_]+)(?:\(([^()]*)\))?\.")
LIST_MEMBER = re.compile(r"[^,)]*")
ARRAY = re.compile(r"\{[^{}]*\}")
END_OF_MEMBER = re.compile(r"(?=[,)])|$")
REST = re.compile(r".*", re.DOTALL)
STATE = re.compile(r"[A-Za-z_]+")
NESTED = re.compile(r"(not\.)?(and|or)[ \t]*(?=\()")


def select(text: str) -> tuple[Item, ...]:
    scanner = Scanner(text, "select parameter")
    items = _items(scanner, 0)
    scanner.expect_end()
    return items


def _items(scanner: Scanner, depth: int) -> tuple[Item, ...]:
    if depth > DEEPEST_EMBED:
        raise too_complex(f"embeds more than {DEEPEST_EMBED} levels deep")
    scanner.blank()
    if scanner.ended() or scanner.text.startswith(")", scanner.at):
        return ()
    items = [_item(scanner, depth)]
    while scanner.take(","):
        items.append(_item(scanner, depth))
    return tuple(items)


def _item(scanner: Scanner, depth: int) -> Item:
    scanner.blank()
    if scanner.take("*"):
        scanner.blank()
        return Column(Field("*"))
    if scanner.take("..."):
        return _embed(scanner, scanner.name(), None, depth, is_spread=True)
    alias = _alias(scanner)
    if scanner.take("count()"):
        raise aggregates_not_allowed()
    start = scanner.at
    relation = scanner.name()
    if scanner.text.startswith(("!", "("), scanner.at):
        return _embed(scanner, relation, alias, depth, is_spread=False)
    scanner.at = start
    return _column(scanner, alias)


def _alias(scanner: Scanner) -> str | None:
    start = scanner.at
    name = scanner.name()
    if scanner.take(":") and not scanner.text.startswith(":", scanner.at):
        scanner.blank()
        return name
    scanner.at = start
    return None


def _column(scanner: Scanner, alias: str | None) -> Column:
    field = scanner.field()
    cast_to = _cast(scanner)
    if scanner.take("."):
        function = scanner.match(TYPE)
        if function is None or function.group() not in AGGREGATES or not scanner.take("()"):
            scanner.fail("aggregate function")
        raise aggregates_not_allowed()
    scanner.blank()
    return Column(field, cast_to, alias)


def _cast(scanner: Scanner) -> str | None:
    if not scanner.take("::"):
        return None
    found = scanner.match(TYPE)
    cast_to = found.group().strip() if found else ""
    if not cast_to:
        scanner.fail("letter or digit")
    return cast_to


def _embed(scanner: Scanner, relation: str, alias: str | None, depth: int, *, is_spread: bool) -> Embed:
    scanner.embeds += 1
    if scanner.embeds > MOST_EMBEDS:
        raise too_complex(f"more than {MOST_EMBEDS} embeds")
    hint, is_inner = None, False
    while scanner.take("!"):
        modifier = scanner.name()
        if modifier in ("inner", "left"):
            is_inner = modifier == "inner"
        else:
            hint = modifier
    scanner.expect("(")
    items = _items(scanner, depth + 1)
    scanner.expect(")")
    scanner.blank()
    return Embed(relation, items, alias, hint, is_inner, is_spread)


def aggregates_not_allowed() -> Fault:
    return Fault(400, "PGRST123", "Use of aggregate functions is not allowed")


def tree_path(text: str) -> tuple[Path, Field]:
    """`embed.embed.column->json`, as the name of a filter parameter."""
    scanner = Scanner(text, "tree path")
    names = [scanner.name()]
    while scanner.take("."):
        names.append(scanner.name())
    steps = scanner.json_path()
    scanner.expect_end()
    return tuple(names[:-1]), Field(names[-1], steps)


def filter_on(field: Field, text: str) -> Filter:
    scanner = Scanner(text, "filter")
    negated = scanner.take("not.")
    operation = _operation(scanner, in_logic=False)
    scanner.expect_end()
    return Filter(field, operation, negated)


def _operation(scanner: Scanner, *, in_logic: bool) -> Operation:
    start = scanner.at
    found = scanner.match(OPERATOR)
    if found is None:
        scanner.fail("operator (eq, gt, ...)")
    operator, argument = found.groups()
    if operator in FULL_TEXT:
        return FullText(operator, argument or None, _value(scanner, in_logic))
    if argument is not None and operator in QUANTIFIABLE and argument in ("any", "all"):
        quantifier = cast(Literal["any", "all"], argument)
        return Compare(operator, _value(scanner, in_logic), quantifier)
    if argument is None:
        if operator == "in":
            return In(_list(scanner))
        if operator == "is":
            return Is(_state(scanner))
        if operator == "isdistinct":
            return Distinct(_value(scanner, in_logic))
        if operator in COMPARISONS:
            return Compare(operator, _value(scanner, in_logic))
    scanner.at = start
    return scanner.fail("operator (eq, gt, ...)")


def _value(scanner: Scanner, in_logic: bool) -> str:
    """Inside a logic tree a value ends at a comma or bracket, unless it is quoted or an array literal."""
    if not in_logic:
        return _group(scanner, REST)
    start = scanner.at
    quoted = scanner.match(QUOTED)
    if quoted is not None and scanner.match(END_OF_MEMBER):
        return unquoted(quoted)
    scanner.at = start
    array = scanner.match(ARRAY)
    if array is not None:
        return array.group()
    return _group(scanner, LIST_MEMBER)


def _group(scanner: Scanner, pattern: re.Pattern[str]) -> str:
    found = scanner.match(pattern)
    return found.group() if found else ""


def _list(scanner: Scanner) -> tuple[str, ...]:
    scanner.blank()
    scanner.expect("(")
    members = [_list_member(scanner)]
    while scanner.take(","):
        members.append(_list_member(scanner))
    scanner.expect(")")
    scanner.blank()
    return () if members == [""] else tuple(members)


def _list_member(scanner: Scanner) -> str:
    start = scanner.at
    quoted = scanner.match(QUOTED)
    if quoted is not None and scanner.match(END_OF_MEMBER):
        return unquoted(quoted)
    scanner.at = start
    return _group(scanner, LIST_MEMBER)


def _state(scanner: Scanner) -> Literal["null", "not_null", "true", "false", "unknown"]:
    found = scanner.match(STATE)
    state = found.group().lower() if found else ""
    if state not in STATES:
        scanner.at = found.start() if found else scanner.at
        scanner.fail("isVal: (null, not_null, true, false, unknown)")
    return cast(Literal["null", "not_null", "true", "false", "unknown"], state)


def logic(joint: str, negated: bool, text: str) -> Logic:
    scanner = Scanner(text, "logic tree")
    members = _members(scanner, 0)
    scanner.expect_end()
    return Logic("and" if joint == "and" else "or", members, negated)


def _members(scanner: Scanner, depth: int) -> tuple[Condition, ...]:
    if depth > DEEPEST_LOGIC:
        raise too_complex(f"and/or nested more than {DEEPEST_LOGIC} levels deep")
    scanner.blank()
    scanner.expect("(")
    members = [_member(scanner, depth)]
    while scanner.take(","):
        members.append(_member(scanner, depth))
    scanner.expect(")")
    scanner.blank()
    return tuple(members)


def _member(scanner: Scanner, depth: int) -> Condition:
    scanner.blank()
    nested = scanner.match(NESTED)
    if nested is not None:
        return Logic(
            "and" if nested.group(2) == "and" else "or",
            _members(scanner, depth + 1),
            nested.group(1) is not None,
        )
    field = scanner.field()
    scanner.expect(".")
    negated = scanner.take("not.")
    operation = _operation(scanner, in_logic=True)
    scanner.blank()
    return Filter(field, operation, negated)


def order(text: str) -> tuple[Order, ...]:
    scanner = Scanner(text, "order")
    terms = [_order_term(scanner)]
    while scanner.take(","):
        terms.append(_order_term(scanner))
    scanner.expect_end()
    return tuple(terms)


def _order_term(scanner: Scanner) -> Order:
    field, relation = scanner.field(), None
    if not field.path and scanner.take("("):
        relation, field = field.name, scanner.field()
        scanner.expect(")")
    direction: Literal["asc", "desc"] | None = None
    if scanner.take(".asc"):
        direction = "asc"
    elif scanner.take(".desc"):
        direction = "desc"
    nulls: Literal["first", "last"] | None = None
    if scanner.take(".nullsfirst"):
        nulls = "first"
    elif scanner.take(".nullslast"):
        nulls = "last"
    scanner.blank()
    if not scanner.ended() and not scanner.text.startswith(",", scanner.at):
        scanner.fail('"asc", "desc", "nullsfirst" or "nullslast"')
    return Order(field, relation, direction, nulls)


def names(text: str, what: str) -> tuple[str, ...]:
    scanner = Scanner(text, what)
    scanner.blank()
    found = [scanner.name()]
    while scanner.take(","):
        scanner.blank()
        found.append(scanner.name())
    scanner.expect_end()
    return tuple(dict.fromkeys(found))
