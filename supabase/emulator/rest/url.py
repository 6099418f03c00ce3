"""A query string, taken apart into a Query."""

from collections.abc import Callable
from urllib.parse import quote_plus, unquote_to_bytes

from emulator.rest import grammar
from emulator.rest.errors import Fault, contains_nul, invalid_utf8, out_of_range
from emulator.rest.query import Page, Path, Query

RESERVED = {"select", "columns", "on_conflict"}
RESERVED_LAST = {"order", "limit", "offset", "and", "or"}

Parameters = list[tuple[str, str]]


def parameters(text: bytes, where: str = "query string") -> Parameters:
    """The pairs of a query string or of an urlencoded form."""
    pairs = []
    for part in filter(None, text.split(b"&")):
        key, _, content = part.partition(b"=")
        pairs.append((_decoded(key, where), _decoded(content, where)))
    return pairs


def _decoded(text: bytes, where: str) -> str:
    try:
        decoded = unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise invalid_utf8(where) from error
    if "\0" in decoded:
        raise contains_nul()
    return decoded


def canonical(pairs: Parameters) -> str:
    return "&".join(f"{quote_plus(key)}={quote_plus(content)}" for key, content in sorted(pairs))


def parse(pairs: Parameters, is_argument: Callable[[str], bool] | None = None) -> Query:
    """`is_argument` is given for functions called by GET, whose arguments stand between the filters."""
    query = Query(canonical=canonical(pairs))
    limits: dict[Path, int] = {}
    offsets: dict[Path, int] = {}
    for key, content in pairs:
        last = key.rpartition(".")[2]
        if key in RESERVED:
            _reserved(query, key, content)
        elif is_argument is not None and is_argument(key):
            query.arguments.append((key, content))
        elif last not in RESERVED_LAST:
            _filter_or_argument(query, key, content, may_be_argument=is_argument is not None)
        elif last in ("and", "or"):
            _logic(query, key, content)
        elif last == "order":
            query.orders[grammar.tree_path(key)[0]] = grammar.order(content)
        else:
            _number(limits if last == "limit" else offsets, grammar.tree_path(key)[0], content)
    for path in limits.keys() | offsets.keys():
        query.pages[path] = Page(limits.get(path), offsets.get(path, 0))
    return query


def _reserved(query: Query, key: str, content: str) -> None:
    if key == "select":
        query.select = grammar.select(content) or query.select
    elif key == "columns":
        query.columns = grammar.names(content, "columns parameter")
    else:
        query.on_conflict = grammar.names(content, "on_conflict parameter")


def _filter_or_argument(query: Query, key: str, content: str, *, may_be_argument: bool) -> None:
    try:
        path, field = grammar.tree_path(key)
        query.conditions.append((path, grammar.filter_on(field, content)))
    except Fault:
        if not may_be_argument:
            raise
        query.arguments.append((key, content))


def _logic(query: Query, key: str, content: str) -> None:
    path, field = grammar.tree_path(key)
    negated = path[-1:] == ("not",)
    query.conditions.append((path[:-1] if negated else path, grammar.logic(field.name, negated, content)))


def _number(numbers: dict[Path, int], path: Path, content: str) -> None:
    digits = content.removeprefix("-")
    # PostgREST ignores a limit that is no number.
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        return
    if content.startswith("-"):
        raise out_of_range("Limit should be greater than or equal to zero.")
    numbers[path] = int(content)
