"""A query resolved against the catalog: every embed has its relationship, every filter its place."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from emulator.rest import relationships
from emulator.rest.catalog import Catalog, Name, Relationship, Table
from emulator.rest.errors import Fault, not_embedded
from emulator.rest.query import (
    EVERYTHING,
    Column,
    Condition,
    Embed,
    Filter,
    Is,
    Logic,
    Order,
    Page,
    Path,
    Query,
)
from emulator.rest.sql import Sql, name

SOURCE = name("pgrst_source")
# Postgres cuts identifiers at 63 bytes; the number at the end has to survive.
LONGEST_ALIAS_BYTES = 50


@dataclass
class Node:
    """One level of the answer: the root, or an embed."""

    label: str
    table: Table | None
    # How this level's columns are qualified.
    reference: Sql
    depth: int = 0
    number: int = 0
    columns: list[Column] = field(default_factory=list)
    embeds: "list[Node]" = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    orders: tuple[Order, ...] = ()
    page: Page = EVERYTHING
    # Only embeds have these.
    embed: Embed | None = None
    relationship: Relationship | None = None
    parent: "Node | None" = None

    @property
    def alias(self) -> Sql:
        """The lateral join's name in the level above."""
        return name(f"pgrst_embed_{self.number}")

    @property
    def is_empty(self) -> bool:
        return not self.columns and all(embed.is_empty for embed in self.embeds)

    def find(self, label: str) -> "Node | None":
        """The embed of this alias, or of this relation's name if it has no alias."""
        by_label = (embed for embed in self.embeds if embed.label == label)
        by_relation = (each for each in self.embeds if each.embed and each.embed.relation == label)
        return next(by_label, None) or next(by_relation, None)

    def walk(self) -> "Iterator[Node]":
        yield self
        for embed in self.embeds:
            yield from embed.walk()


def plan(catalog: Catalog, query: Query, table: Table | None, origin: Name, reference: Sql) -> Node:
    """Relationships start at `origin`; the root's rows are called `reference` in SQL."""
    planner = _Planner(catalog)
    root = planner.level(query.select, Node(origin[1], table, reference), origin)
    for path in sorted(query.paths(), key=len):
        node = _at(root, path)
        node.conditions = query.conditions_at(path)
        node.orders = query.orders.get(path, ())
        node.page = query.pages.get(path, EVERYTHING)
    for node in root.walk():
        _check_conditions(node, node.conditions)
        _check_orders(node)
    return root


class _Planner:
    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.numbered = 0

    def level(self, items: tuple[Column | Embed, ...], node: Node, origin: Name) -> Node:
        for item in items:
            if isinstance(item, Column):
                node.columns.append(item)
            else:
                node.embeds.append(self.embedded(item, node, origin))
        return node

    def embedded(self, embed: Embed, parent: Node, origin: Name) -> Node:
        relationship = relationships.find(self.catalog, origin, embed.relation, embed.hint)
        self.numbered += 1
        depth = parent.depth + 1
        node = Node(
            embed.label,
            self.catalog.table(relationship.target),
            name(_alias(relationship.target[1], depth)),
            depth,
            self.numbered,
            embed=embed,
            relationship=relationship,
            parent=parent,
        )
        return self.level(embed.items, node, relationship.target)


def _alias(table: str, depth: int) -> str:
    return table.encode()[:LONGEST_ALIAS_BYTES].decode(errors="ignore") + f"_{depth}"


def _at(root: Node, path: Path) -> Node:
    node = root
    for label in path:
        found = node.find(label)
        if found is None:
            raise not_embedded(label)
        node = found
    return node


def _check_conditions(node: Node, conditions: "list[Condition] | tuple[Condition, ...]") -> None:
    for condition in conditions:
        if isinstance(condition, Logic):
            _check_conditions(node, condition.members)
        elif embed_tested_by(node, condition) is None:
            continue
        elif not isinstance(condition.operation, Is) or condition.operation.state not in ("null", "not_null"):
            raise Fault(
                400,
                "PGRST120",
                f"Bad operator on the '{condition.field.name}' embedded resource",
                "Only is null or not is null filters are allowed on embedded resources",
            )


def embed_tested_by(node: Node, condition: Filter) -> Node | None:
    """`relation=is.null` asks whether the embed found anything; a column of that name comes first."""
    if condition.field.path or (node.table and condition.field.name in node.table.columns):
        return None
    return next((embed for embed in node.embeds if embed.label == condition.field.name), None)


def _check_orders(node: Node) -> None:
    for order in node.orders:
        if order.relation is None:
            continue
        embed = node.find(order.relation)
        if embed is None:
            raise not_embedded(order.relation)
        if embed.relationship is None or not embed.relationship.is_to_one:
            raise Fault(
                400,
                "PGRST118",
                f"A related order on '{order.relation}' is not possible",
                f"'{node.label}' and '{order.relation}' do not form a many-to-one or one-to-one relationship",
            )


def needed_columns(node: Node) -> list[str] | None:
    """The columns that a write has to return for this answer; None is every column."""
    needed: dict[str, None] = {}
    for column in node.columns:
        if column.is_star:
            return None
        needed[column.field.name] = None
    for embed in node.embeds:
        relationship = embed.relationship
        if relationship is None or relationship.function is not None:
            return None
        pairs = relationship.junction.to_origin if relationship.junction else relationship.columns
        needed.update((here, None) for here, _ in pairs)
    for order in node.orders:
        if order.relation is None:
            needed[order.field.name] = None
    return list(needed)


def output_names(node: Node) -> list[str]:
    names: list[str] = []
    for column in node.columns:
        if column.is_star:
            names.extend(node.table.columns if node.table else ())
        else:
            names.append(column.label)
    for embed in node.embeds:
        if embed.embed and embed.embed.is_spread:
            names.extend(output_names(embed))
        elif not embed.is_empty:
            names.append(embed.label)
    return names
