"""The tables and functions of a schema that a role may use, asked of the database in that role."""

from dataclasses import dataclass
from typing import Any, LiteralString

from emulator.rest.catalog import Catalog, Parameter, Table
from emulator.rest.database import Transaction
from emulator.rest.sql import sql, value

COMMENT: LiteralString = (
    "select obj_description(n.oid, 'pg_namespace') from pg_namespace n where n.nspname = {}"
)

TABLES: LiteralString = """
select c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = {}
  and (pg_has_role(c.relowner, 'usage')
    or has_table_privilege(c.oid, 'select, insert, update, delete, truncate, references, trigger')
    or has_any_column_privilege(c.oid, 'select, insert, update, references'))
order by c.relname
"""

# Types are written as the role's search path finds them. Without names a function has one parameter at most,
# of a type that a whole body can be.
FUNCTIONS: LiteralString = """
select p.proname, obj_description(p.oid, 'pg_proc'), p.provolatile = 'v',
  (select json_agg(json_build_array(i.name, i.type, i.position <= p.pronargs - p.pronargdefaults, i.mode = 'v')
     order by i.position)
   from (select coalesce(u.name, '') as name, u.type::regtype::text as type, coalesce(u.mode, 'i') as mode,
       row_number() over (order by u.position) as position
     from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes)
       with ordinality u (type, name, mode, position)
     where coalesce(u.mode, 'i') in ('i', 'b', 'v')) i)
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = {} and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
  and has_function_privilege(p.oid, 'execute')
  and (p.pronargs = 0 or p.proargnames is not null
    or p.pronargs = 1 and p.proargtypes[0] in
      ('bytea'::regtype, 'json'::regtype, 'jsonb'::regtype, 'text'::regtype, 'xml'::regtype))
"""


@dataclass(frozen=True)
class Function:
    name: str
    description: str | None
    is_volatile: bool
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Usable:
    comment: str | None
    tables: tuple[Table, ...]
    functions: tuple[Function, ...]


async def read(transaction: Transaction, schema: str, catalog: Catalog) -> Usable:
    [[comment]] = await transaction.rows(sql(COMMENT, value(schema)))
    names = [name for (name,) in await transaction.rows(sql(TABLES, value(schema)))]
    functions = [
        Function(name, description, is_volatile, tuple(Parameter(*each) for each in parameters or ()))
        for name, description, is_volatile, parameters in await transaction.rows(
            sql(FUNCTIONS, value(schema))
        )
    ]
    return Usable(
        comment,
        tuple(catalog.tables[schema, name] for name in names if (schema, name) in catalog.tables),
        tuple(sorted(functions, key=_overloads_by_size)),
    )


def _overloads_by_size(function: Function) -> tuple[Any, ...]:
    """One path stands for all functions of a name: that of the last of them."""
    parameters = [(each.name, each.type) for each in function.parameters]
    return function.name, len(parameters), function.description or "", parameters
