"""SQL text and its bound values, glued together without ever mixing the two.

Text comes from templates in this package, from `name` (always quoted) and from `trusted` (written by
the catalog itself). Text of a request is a `value`, which travels beside the SQL text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

# The mark stands for one bound value. No identifier and no catalog text can contain it.
MARK = "\0"

Value = str | bytes | None


@dataclass(frozen=True, slots=True)
class Sql:
    text: str
    values: tuple[Value, ...] = ()

    def __add__(self, other: "Sql") -> "Sql":
        return Sql(self.text + other.text, self.values + other.values)

    def __bool__(self) -> bool:
        return bool(self.text)

    def numbered(self) -> str:
        """The text with $1, $2 … in place of the marks."""
        first, *rest = self.text.split(MARK)
        return first + "".join(f"${number}{piece}" for number, piece in enumerate(rest, start=1))


NOTHING = Sql("")


def sql(template: LiteralString, *parts: Sql) -> Sql:
    """`template` with each `{}` replaced by the next part."""
    pieces = template.split("{}")
    if len(pieces) != len(parts) + 1:
        raise ValueError(f"{len(parts)} parts for {template!r}")
    text = pieces[0] + "".join(part.text + piece for part, piece in zip(parts, pieces[1:], strict=True))
    return Sql(text, tuple(value for part in parts for value in part.values))


def name(*path: str) -> Sql:
    """A quoted identifier, such as "public"."leads"."id"."""
    return Sql(".".join(map(_quoted, path)))


def literal(text: str) -> Sql:
    """A quoted string constant, for names out of the catalog."""
    return Sql("'" + _without_mark(text).replace("'", "''") + "'")


def value(bound: Value) -> Sql:
    return Sql(MARK, (bound,))


def trusted(text: str) -> Sql:
    """Text that Postgres itself wrote: a type's name, a default's expression."""
    return Sql(_without_mark(text))


def joined(separator: LiteralString, parts: Iterable[Sql]) -> Sql:
    listed = list(parts)
    return Sql(
        separator.join(part.text for part in listed),
        tuple(value for part in listed for value in part.values),
    )


def _quoted(identifier: str) -> str:
    return '"' + _without_mark(identifier).replace('"', '""') + '"'


def _without_mark(text: str) -> str:
    if MARK in text:
        raise ValueError("NUL in SQL text")
    return text
