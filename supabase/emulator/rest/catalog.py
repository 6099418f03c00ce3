"""The schema cache: tables, relationships and functions of the exposed schemas."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from emulator.rest.errors import NotInCatalog

Name = tuple[str, str]
Kind = Literal["many-to-one", "one-to-many", "one-to-one", "many-to-many", "computed"]


@dataclass(frozen=True)
class TableColumn:
    name: str
    type: str
    base_type: str
    default: str | None
    # For the OpenAPI description: what a domain is made of, and no length.
    plain_type: str
    is_nullable: bool
    max_length: int | None
    enum: tuple[str, ...]
    description: str | None


@dataclass(frozen=True)
class Table:
    schema: str
    name: str
    columns: dict[str, TableColumn]
    primary_key: tuple[str, ...]
    insertable: bool
    updatable: bool
    deletable: bool
    description: str | None

    @property
    def key(self) -> Name:
        return self.schema, self.name


@dataclass(frozen=True)
class Junction:
    table: Name
    constraints: tuple[str, str]
    # (column of the origin, column of the junction) and (column of the junction, column of the target)
    to_origin: tuple[tuple[str, str], ...]
    to_target: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Relationship:
    origin: Name
    target: Name
    kind: Kind
    # The foreign key's constraint, or the function of a computed relationship.
    name: str
    columns: tuple[tuple[str, str], ...] = ()
    junction: Junction | None = None
    function: Name | None = None
    returns_one: bool = False
    targets_view: bool = False
    # The foreign key points the other way, from the target to the origin.
    is_inverse: bool = False

    @property
    def is_to_one(self) -> bool:
        return self.kind in ("many-to-one", "one-to-one") or self.returns_one

    @property
    def is_self(self) -> bool:
        return self.origin == self.target


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    is_required: bool
    is_variadic: bool


@dataclass(frozen=True)
class Routine:
    schema: str
    name: str
    parameters: tuple[Parameter, ...]
    # The table whose rows it returns, if it is one.
    returns_table: Name | None
    return_type: str
    returns_set: bool
    returns_composite: bool
    is_volatile: bool
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def returns_void(self) -> bool:
        return self.return_type == "void"

    @property
    def signature(self) -> str:
        shown = ", ".join(f"{parameter.name} => {parameter.type}" for parameter in self.parameters)
        return f"{self.schema}.{self.name}({shown})"

    def accepts(self, names: frozenset[str]) -> bool:
        required = {parameter.name for parameter in self.parameters if parameter.is_required}
        return required <= names <= {parameter.name for parameter in self.parameters}


@dataclass(frozen=True)
class Catalog:
    tables: dict[Name, Table]
    relationships: dict[Name, tuple[Relationship, ...]]
    routines: dict[Name, tuple[Routine, ...]]
    role_settings: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def table(self, key: Name) -> Table:
        found = self.tables.get(key)
        if found is None:
            raise self._table_not_found(*key)
        return found

    def _table_not_found(self, schema: str, name: str) -> NotInCatalog:
        siblings = [table for at, table in self.tables if at == schema]
        close = get_close_matches(name, siblings, n=1, cutoff=0.75)
        hint = f"Perhaps you meant the table '{schema}.{close[0]}'" if close else None
        message = f"Could not find the table '{schema}.{name}' in the schema cache"
        return NotInCatalog(404, "PGRST205", message, hint=hint)

    def overloads(self, key: Name) -> tuple[Routine, ...]:
        return self.routines.get(key, ())
