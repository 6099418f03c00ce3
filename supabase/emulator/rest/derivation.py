"""Relationships that follow from foreign keys: their inverses, across junctions, and through views."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from emulator.rest.catalog import Junction, Kind, Name, Relationship, Table

INVERSE: dict[Kind, Kind] = {"many-to-one": "one-to-many", "one-to-one": "one-to-one"}

# A view's stored query, as pg_rewrite prints it. Its own output columns are the target entries at this depth.
TOKEN = re.compile(r"\\.|[(){}]|:(resno|resorigtbl|resorigcol) (\d+)", re.DOTALL)
ENTRY_DEPTH = 4


@dataclass(frozen=True)
class ForeignKey:
    name: str
    table: Name
    target: Name
    columns: tuple[tuple[str, str], ...]
    is_unique: bool


class Views:
    """The views, each column with the table's column that it shows."""

    def __init__(self, attributes: Iterable[Any], definitions: Iterable[Any]) -> None:
        self._names: dict[tuple[int, int], tuple[Name, str]] = {
            (oid, number): ((schema, table), column) for oid, schema, table, number, column in attributes
        }
        origins: dict[tuple[int, int], tuple[int, int]] = {}
        self._keys: dict[Name, list[tuple[int, int]]] = defaultdict(list)
        for oid, schema, view, definition in definitions:
            for number, origin in _shown_columns(definition):
                origins[oid, number] = origin
                self._keys[schema, view].append((oid, number))
        self._shown = {view: self._resolved(columns, origins) for view, columns in self._keys.items()}

    def _resolved(
        self, columns: list[tuple[int, int]], origins: dict[tuple[int, int], tuple[int, int]]
    ) -> dict[tuple[Name, str], str]:
        shown: dict[tuple[Name, str], str] = {}
        for column in columns:
            origin = column
            while origin in origins:
                origin = origins[origin]
            if origin in self._names and column in self._names:
                shown.setdefault(self._names[origin], self._names[column][1])
        return shown

    def showing(self, table: Name, columns: Iterable[str]) -> Iterator[tuple[Name, dict[str, str]]]:
        """Every view with all of these columns of the table, and what it calls them."""
        wanted = list(columns)
        for view, shown in self._shown.items():
            names = {column: shown[table, column] for column in wanted if (table, column) in shown}
            if len(names) == len(wanted):
                yield view, names

    def __contains__(self, name: Name) -> bool:
        return name in self._shown

    def with_primary_keys(
        self, tables: dict[Name, Table], primary_keys: dict[Name, tuple[str, ...]]
    ) -> dict[Name, Table]:
        """A view has the keys of all tables that it shows the whole key of, exposed or not."""
        found = {key: replace(table, primary_key=primary_keys.get(key, ())) for key, table in tables.items()}
        for key, columns in primary_keys.items():
            for view, names in self.showing(key, columns):
                if view in found:
                    shown = tuple(names[column] for column in columns)
                    found[view] = replace(found[view], primary_key=found[view].primary_key + shown)
        return found


def _shown_columns(definition: str) -> Iterator[tuple[int, tuple[int, int]]]:
    depth, number, table = 0, 0, 0
    for token in TOKEN.finditer(definition):
        field, content = token.groups()
        if field is None:
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(token.group(), 0)
        elif depth != ENTRY_DEPTH:
            continue
        elif field == "resno":
            number = int(content)
        elif field == "resorigtbl":
            table = int(content)
        elif table:
            yield number, (table, int(content))


def all_relationships(
    tables: dict[Name, Table], keys: Iterable[ForeignKey], views: Views
) -> list[Relationship]:
    references = [each for key in keys for each in _references(key, views) if each.origin in tables]
    exposed = [each for each in references if each.target in tables]
    inverses = [_inverse(each, each.origin in views) for each in exposed]
    return [*exposed, *inverses, *_across_junctions(tables, exposed, views)]


def _references(key: ForeignKey, views: Views) -> Iterator[Relationship]:
    here = [column for column, _ in key.columns]
    there = [column for _, column in key.columns]
    origins = [(key.table, {column: column for column in here}), *views.showing(key.table, here)]
    targets = [(key.target, {column: column for column in there}), *views.showing(key.target, there)]
    for origin, names in origins:
        for target, target_names in targets:
            yield Relationship(
                origin,
                target,
                "one-to-one" if key.is_unique else "many-to-one",
                key.name,
                tuple((names[column], target_names[to]) for column, to in key.columns),
                targets_view=target in views,
            )


def _inverse(relationship: Relationship, targets_view: bool) -> Relationship:
    return Relationship(
        relationship.target,
        relationship.origin,
        INVERSE[relationship.kind],
        relationship.name,
        tuple((there, here) for here, there in relationship.columns),
        targets_view=targets_view,
        is_inverse=True,
    )


def _across_junctions(
    tables: dict[Name, Table], references: Iterable[Relationship], views: Views
) -> Iterator[Relationship]:
    """Two foreign keys inside one primary key make their targets many-to-many."""
    by_table: dict[Name, list[Relationship]] = defaultdict(list)
    for reference in references:
        if {here for here, _ in reference.columns} <= set(tables[reference.origin].primary_key):
            by_table[reference.origin].append(reference)
    for table, found in by_table.items():
        for first in found:
            for second in found:
                if first.name != second.name:
                    junction = Junction(
                        table,
                        (first.name, second.name),
                        tuple((there, here) for here, there in first.columns),
                        second.columns,
                    )
                    yield Relationship(
                        first.target,
                        second.target,
                        "many-to-many",
                        table[1],
                        junction=junction,
                        targets_view=second.target in views,
                    )
