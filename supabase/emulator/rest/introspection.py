"""Reads the schema cache out of pg_catalog."""

from collections import defaultdict
from typing import Any, LiteralString

from psycopg import AsyncConnection

from emulator.rest.catalog import Catalog, Name, Parameter, Relationship, Routine, Table, TableColumn
from emulator.rest.derivation import ForeignKey, Views, all_relationships

TABLES: LiteralString = """
select n.nspname, c.relname, obj_description(c.oid, 'pg_class'), pg_relation_is_updatable(c.oid, true),
  (select array_agg(row_to_json(a) order by a.attnum) from (
     select a.attnum, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
       format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null) as base_type,
       case
         when a.attgenerated <> '' then null
         when a.attidentity <> '' then format('nextval(%L::regclass)',
           pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname))
         else coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault)
       end as default,
       case
         when b.typnamespace = 'pg_catalog'::regnamespace then format_type(b.oid, null)
         else format_type(a.atttypid, a.atttypmod)
       end as plain_type,
       not (a.attnotnull or t.typtype = 'd' and t.typnotnull) as is_nullable,
       information_schema._pg_char_max_length(
         information_schema._pg_truetypid(a, t), information_schema._pg_truetypmod(a, t)) as max_length,
       (select array_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = b.oid) as enum,
       col_description(a.attrelid, a.attnum) as description
     from pg_attribute a
     join pg_type t on t.oid = a.atttypid
     join pg_type b on b.oid = pg_basetype(t.oid)
     left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) a)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'v', 'm', 'f', 'p') and not c.relispartition and n.nspname = any($1)
"""

PRIMARY_KEYS: LiteralString = """
select n.nspname, c.relname, array_agg(a.attname::text order by k.position)
from pg_constraint p
join pg_class c on c.oid = p.conrelid
join pg_namespace n on n.oid = c.relnamespace
cross join unnest(p.conkey) with ordinality k (attnum, position)
join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
where p.contype = 'p'
group by c.oid, n.nspname, c.relname
order by n.nspname, c.relname
"""

FOREIGN_KEYS: LiteralString = """
select k.conname, n1.nspname, c1.relname, n2.nspname, c2.relname,
  (select array_agg(a.attname::text order by u.position)
     from unnest(k.conkey) with ordinality u (attnum, position)
     join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum),
  (select array_agg(a.attname::text order by u.position)
     from unnest(k.confkey) with ordinality u (attnum, position)
     join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum),
  exists (select from pg_index i
     where i.indrelid = k.conrelid and i.indisunique and i.indpred is null and i.indexprs is null
       and (select array_agg(x order by x) from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) x)
         = (select array_agg(x order by x) from unnest(k.conkey) x))
from pg_constraint k
join pg_class c1 on c1.oid = k.conrelid
join pg_namespace n1 on n1.oid = c1.relnamespace
join pg_class c2 on c2.oid = k.confrelid
join pg_namespace n2 on n2.oid = c2.relnamespace
where k.contype = 'f' and k.conparentid = 0
order by k.conname, n1.nspname, c1.relname
"""

VIEWS: LiteralString = """
select c.oid::bigint, n.nspname, c.relname, r.ev_action::text
from pg_rewrite r
join pg_class c on c.oid = r.ev_class
join pg_namespace n on n.oid = c.relnamespace
where r.rulename = '_RETURN' and c.relkind in ('v', 'm')
  and n.nspname not in ('pg_catalog', 'information_schema')
"""

ATTRIBUTES: LiteralString = """
select c.oid::bigint, n.nspname, c.relname, a.attnum, a.attname
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'v', 'm', 'f', 'p') and a.attnum > 0 and not a.attisdropped
  and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
"""

ROUTINES: LiteralString = """
select n.nspname, p.proname, p.provolatile::text, p.proretset, p.prorows, p.pronargdefaults,
  (select array_agg(format_type(u.oid, null) order by u.position)
     from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality u (oid, position)),
  coalesce(p.proargnames, '{}'), coalesce(p.proargmodes::text[], '{}'),
  format_type(p.prorettype, null), t.typtype::text, rn.nspname, rc.relname,
  case when p.pronargs = 1 then an.nspname end, case when p.pronargs = 1 then ac.relname end,
  coalesce(p.proconfig, '{}')
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_type d on d.oid = p.prorettype
join pg_type t on t.oid = coalesce(nullif(d.typbasetype, 0), d.oid)
left join pg_class rc on rc.oid = t.typrelid
left join pg_namespace rn on rn.oid = rc.relnamespace
left join pg_type at on at.oid = p.proargtypes[0]
left join pg_class ac on ac.oid = at.typrelid
left join pg_namespace an on an.oid = ac.relnamespace
where p.prokind = 'f' and n.nspname = any($1)
  and t.oid not in ('trigger'::regtype, 'event_trigger'::regtype)
order by n.nspname, p.proname, p.pronargs, p.oid
"""

ROLE_SETTINGS: LiteralString = """
select r.rolname, split_part(s.line, '=', 1), substr(s.line, strpos(s.line, '=') + 1)
from pg_roles r
join pg_db_role_setting g on g.setrole = r.oid
  and g.setdatabase in (0, (select oid from pg_database where datname = current_database()))
cross join unnest(g.setconfig) s (line)
join pg_settings p on p.name = split_part(s.line, '=', 1)
where p.context = 'user' or has_parameter_privilege(current_user, p.name, 'set')
order by g.setdatabase
"""

TIMEZONES: LiteralString = "select name from pg_timezone_names"

HOISTED = {"statement_timeout", "default_transaction_isolation", "plan_filter.statement_cost_limit"}


async def read_catalog(connection: AsyncConnection[Any], schemas: tuple[str, ...]) -> Catalog:
    async def rows(query: LiteralString, *values: Any) -> list[Any]:
        return await (await connection.execute(query, values)).fetchall()

    async with connection.transaction():
        await connection.execute("set transaction isolation level repeatable read, read only")
        # Without a search path Postgres writes every type's and sequence's name in full.
        await connection.execute("select set_config('search_path', '', true)")
        tables = {
            (schema, name): _table(schema, name, *rest)
            for schema, name, *rest in await rows(TABLES, list(schemas))
        }
        primary_keys = {(schema, name): tuple(key) for schema, name, key in await rows(PRIMARY_KEYS)}
        keys = [_foreign_key(*row) for row in await rows(FOREIGN_KEYS)]
        views = Views(await rows(ATTRIBUTES), await rows(VIEWS))
        described = await rows(ROUTINES, list(schemas))
        settings = await rows(ROLE_SETTINGS)

    tables = views.with_primary_keys(tables, primary_keys)
    relationships = [*all_relationships(tables, keys, views), *_computed(described, tables)]
    return Catalog(tables, _by_origin(relationships), _routines(described), _settings_by_role(settings))


def _table(
    schema: str,
    name: str,
    description: str | None,
    events: int,
    columns: list[dict[str, Any]] | None,
) -> Table:
    return Table(
        schema,
        name,
        {
            column["name"]: TableColumn(
                name=column["name"],
                type=column["type"],
                base_type=column["base_type"],
                default=column["default"],
                plain_type=column["plain_type"],
                is_nullable=column["is_nullable"],
                max_length=column["max_length"],
                enum=tuple(column["enum"] or ()),
                description=column["description"],
            )
            for column in columns or []
        },
        primary_key=(),
        insertable=bool(events & 8),
        updatable=bool(events & 4),
        deletable=bool(events & 16),
        description=description,
    )


def _foreign_key(
    name: str,
    schema: str,
    table: str,
    to_schema: str,
    to_table: str,
    here: list[str],
    there: list[str],
    unique: bool,
) -> ForeignKey:
    return ForeignKey(
        name, (schema, table), (to_schema, to_table), tuple(zip(here, there, strict=True)), unique
    )


def _by_origin(relationships: list[Relationship]) -> dict[Name, tuple[Relationship, ...]]:
    grouped: dict[Name, list[Relationship]] = defaultdict(list)
    for relationship in relationships:
        grouped[relationship.origin].append(relationship)
    return {origin: tuple(found) for origin, found in grouped.items()}


def _computed(described: list[Any], tables: dict[Name, Table]) -> list[Relationship]:
    """Functions from one exposed table's row to rows of another."""
    found = []
    for (
        schema,
        name,
        _,
        returns_set,
        row_estimate,
        *_,
        to_schema,
        to_table,
        of_schema,
        of_table,
        _,
    ) in described:
        origin, target = (of_schema, of_table), (to_schema, to_table)
        if origin in tables and target in tables:
            returns_one = not returns_set or row_estimate == 1
            found.append(
                Relationship(
                    origin, target, "computed", name, function=(schema, name), returns_one=returns_one
                )
            )
    return found


def _routines(described: list[Any]) -> dict[Name, tuple[Routine, ...]]:
    grouped: dict[Name, list[Routine]] = defaultdict(list)
    for row in described:
        routine = _routine(*row)
        grouped[routine.schema, routine.name].append(routine)
    return {key: tuple(found) for key, found in grouped.items()}


def _routine(
    schema: str, name: str, volatility: str, returns_set: bool, _rows: float, default_count: int,
    types: list[str] | None, names: list[str], modes: list[str],
    return_type: str, return_kind: str, to_schema: str | None, to_table: str | None,
    _of_schema: str | None, _of_table: str | None, settings: list[str],
) -> Routine:  # fmt: skip
    types = types or []
    names = names or [""] * len(types)
    modes = modes or ["i"] * len(types)
    inputs = [each for each in zip(names, types, modes, strict=True) if each[2] in "ibv"]
    required = len(inputs) - default_count
    pairs = [tuple(line.split("=", 1)) for line in settings]
    return Routine(
        schema,
        name,
        tuple(
            Parameter(given, kind, is_required=position < required, is_variadic=mode == "v")
            for position, (given, kind, mode) in enumerate(inputs)
        ),
        returns_table=(to_schema, to_table) if to_schema and to_table else None,
        return_type=return_type,
        returns_set=returns_set,
        returns_composite=return_kind == "c" or return_type == "record" or not set("obt").isdisjoint(modes),
        is_volatile=volatility == "v",
        settings=tuple((key, content) for key, content in pairs if key in HOISTED),
    )


def _settings_by_role(rows: list[Any]) -> dict[str, tuple[tuple[str, str], ...]]:
    grouped: dict[str, dict[str, str]] = defaultdict(dict)
    for role, key, content in rows:
        grouped[role][key] = content
    return {role: tuple(settings.items()) for role, settings in grouped.items()}
