"""The relationship that an embed means."""

from collections.abc import Iterable
from typing import Any

from emulator.rest.catalog import Catalog, Name, Relationship
from emulator.rest.errors import Fault, NotInCatalog


def find(catalog: Catalog, origin: Name, target: str, hint: str | None) -> Relationship:
    candidates = [
        relationship
        for relationship in catalog.relationships.get(origin, ())
        if _is_meant(relationship, target, hint)
    ]
    computed = [relationship for relationship in candidates if relationship.function is not None]
    # A computed relationship replaces the detected ones of the same name.
    candidates = computed or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise _ambiguous(origin[1], target, candidates)
    raise _not_found(origin, target, hint)


def _is_meant(relationship: Relationship, target: str, hint: str | None) -> bool:
    if relationship.function is not None:
        return target == relationship.name
    if relationship.is_self:
        return _is_meant_of_self(relationship, target, hint)
    names_target = target == relationship.target[1]
    if hint is not None:
        return names_target and hint in _hints(relationship)
    if names_target:
        return True
    if relationship.targets_view or relationship.junction is not None:
        return False
    return target == relationship.name or target in _single_column(relationship, 0)


def _is_meant_of_self(relationship: Relationship, target: str, hint: str | None) -> bool:
    names_target = target == relationship.target[1]
    if relationship.kind == "one-to-many":
        return names_target and (
            hint is None or hint in (relationship.name, *_single_column(relationship, 1))
        )
    if relationship.kind == "many-to-one":
        return hint is None and target in _single_column(relationship, 0)
    return names_target and hint is not None and hint in _hints(relationship)


def _hints(relationship: Relationship) -> set[str]:
    """The hints that may stand after the `!`: a constraint, a column of either side, or the junction."""
    if relationship.junction is not None:
        return {relationship.junction.table[1]}
    return {relationship.name, *_single_column(relationship, 0), *_single_column(relationship, 1)}


def _single_column(relationship: Relationship, side: int) -> tuple[str, ...]:
    return (relationship.columns[0][side],) if len(relationship.columns) == 1 else ()


def _not_found(origin: Name, target: str, hint: str | None) -> Fault:
    schema, table = origin
    with_hint = f" using the hint '{hint}'" if hint else ""
    return NotInCatalog(
        400,
        "PGRST200",
        f"Could not find a relationship between '{table}' and '{target}' in the schema cache",
        f"Searched for a foreign key relationship between '{table}' and '{target}'{with_hint} "
        f"in the schema '{schema}', but no matches were found.",
    )


def _ambiguous(origin: str, target: str, candidates: Iterable[Relationship]) -> Fault:
    listed = list(candidates)
    choices = ", ".join(f"'{each.target[1]}!{_hint_for(each)}'" for each in listed)
    return Fault(
        300,
        "PGRST201",
        f"Could not embed because more than one relationship was found for '{origin}' and '{target}'",
        [_described(each) for each in listed],
        f"Try changing '{target}' to one of the following: {choices}. "
        "Find the desired relationship in the 'details' key.",
    )


def _hint_for(relationship: Relationship) -> str:
    return relationship.junction.table[1] if relationship.junction else relationship.name


def _described(relationship: Relationship) -> dict[str, Any]:
    if relationship.junction is not None:
        junction = relationship.junction
        first, second = junction.constraints
        how = (
            f"{junction.table[1]} using {first}({_listed(junction.to_origin, 1)}) "
            f"and {second}({_listed(junction.to_target, 0)})"
        )
    else:
        here, there = relationship.origin[1], relationship.target[1]
        how = (
            f"{relationship.name} using {here}({_listed(relationship.columns, 0)}) "
            f"and {there}({_listed(relationship.columns, 1)})"
        )
    return {
        "cardinality": relationship.kind,
        "embedding": f"{relationship.origin[1]} with {relationship.target[1]}",
        "relationship": how,
    }


def _listed(pairs: tuple[tuple[str, str], ...], side: int) -> str:
    return ", ".join(pair[side] for pair in pairs)
