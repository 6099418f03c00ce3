"""The query of a URL, as a typed tree."""

from dataclasses import dataclass, field
from typing import Literal

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow of a JSON path: `->key`, `->>key`, `->0`."""

    arrow: Literal["->", "->>"]
    key: str
    is_index: bool


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    path: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A member of select: `alias:column->json->>key::cast`, or `*`."""

    field: Field
    cast: str | None = None
    alias: str | None = None

    @property
    def is_star(self) -> bool:
        return self.field == Field("*")

    @property
    def label(self) -> str:
        """The key under which it goes out."""
        if self.alias is not None:
            return self.alias
        keys = [step.key for step in self.field.path if not step.is_index]
        return keys[-1] if keys else self.field.name


@dataclass(frozen=True, slots=True)
class Embed:
    """A member of select: `alias:relation!hint!inner(…)`, or `...relation(…)`."""

    relation: str
    items: "tuple[Column | Embed, ...]"
    alias: str | None = None
    hint: str | None = None
    is_inner: bool = False
    is_spread: bool = False

    @property
    def label(self) -> str:
        return self.alias or self.relation


Item = Column | Embed


@dataclass(frozen=True, slots=True)
class Compare:
    operator: str
    value: str
    quantifier: Literal["any", "all"] | None = None


@dataclass(frozen=True, slots=True)
class In:
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Is:
    state: Literal["null", "not_null", "true", "false", "unknown"]


@dataclass(frozen=True, slots=True)
class Distinct:
    value: str


@dataclass(frozen=True, slots=True)
class FullText:
    operator: str
    language: str | None
    value: str


Operation = Compare | In | Is | Distinct | FullText


@dataclass(frozen=True, slots=True)
class Filter:
    field: Field
    operation: Operation
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Logic:
    joint: Literal["and", "or"]
    members: "tuple[Condition, ...]"
    negated: bool = False


Condition = Filter | Logic


@dataclass(frozen=True, slots=True)
class Order:
    field: Field
    relation: str | None = None
    direction: Literal["asc", "desc"] | None = None
    nulls: Literal["first", "last"] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    limit: int | None = None
    offset: int = 0

    @property
    def is_everything(self) -> bool:
        return self.limit is None and self.offset == 0

    def capped(self, most: int) -> "Page":
        return Page(most if self.limit is None else min(self.limit, most), self.offset)

    def within(self, other: "Page") -> "Page":
        """The rows that are on both pages."""
        offset = max(self.offset, other.offset)
        ends = [page.offset + page.limit for page in (self, other) if page.limit is not None]
        return Page(max(0, min(ends) - offset) if ends else None, offset)


EVERYTHING = Page()


@dataclass
class Query:
    """Conditions, orders and pages are keyed by the embed they belong to; () is the root."""

    select: tuple[Item, ...] = (Column(Field("*")),)
    conditions: list[tuple[Path, Condition]] = field(default_factory=list)
    orders: dict[Path, tuple[Order, ...]] = field(default_factory=dict)
    pages: dict[Path, Page] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] | None = None
    arguments: list[tuple[str, str]] = field(default_factory=list)
    canonical: str = ""

    def conditions_at(self, path: Path) -> list[Condition]:
        return [condition for at, condition in self.conditions if at == path]

    def paths(self) -> set[Path]:
        return {path for path, _ in self.conditions} | self.orders.keys() | self.pages.keys()
