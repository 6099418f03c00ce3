"""Insert, upsert, update and delete as SQL."""

from collections.abc import Iterable

from emulator.rest.catalog import Table, TableColumn
from emulator.rest.conditions import comparison, predicates, where
from emulator.rest.errors import Fault, column_not_found, unsupported
from emulator.rest.payload import Rows
from emulator.rest.plan import Node
from emulator.rest.query import Compare, Filter, Query
from emulator.rest.sql import NOTHING, Sql, joined, literal, name, sql, trusted, value

BODY = name("pgrst_body")


def columns_of(table: Table, keys: Iterable[str]) -> list[TableColumn]:
    found = []
    for key in keys:
        if key not in table.columns:
            raise column_not_found(table.name, key)
        found.append(table.columns[key])
    return found


def body_rows(rows: Rows, columns: list[tuple[str, str]], defaults: list[TableColumn]) -> Sql:
    """The body's rows under the alias pgrst_body, each column cast to its type by Postgres itself."""
    is_object = rows.is_object
    if not defaults:
        payload = sql("(select {}::json as rows) pgrst_payload", value(rows.text))
    else:
        filled = _with_defaults(defaults, is_object)
        payload = sql(
            "(select {} as rows from (select {}::jsonb as sent) s) pgrst_payload", filled, value(rows.text)
        )
    if not columns:
        each = sql("(values (1)) _") if is_object else sql("json_array_elements(pgrst_payload.rows) _")
        return sql("{}, lateral (select from {}) {}", payload, each, BODY)
    expand = _expander(is_object=is_object, is_binary=bool(defaults))
    typed = joined(", ", (sql("{} {}", name(column), trusted(kind)) for column, kind in columns))
    names = joined(", ", (name(column) for column, _ in columns))
    return sql(
        "{}, lateral (select {} from {}(pgrst_payload.rows) as _({})) {}", payload, names, expand, typed, BODY
    )


def _expander(*, is_object: bool, is_binary: bool) -> Sql:
    if is_binary:
        return sql("jsonb_to_record") if is_object else sql("jsonb_to_recordset")
    return sql("json_to_record") if is_object else sql("json_to_recordset")


def _with_defaults(columns: list[TableColumn], is_object: bool) -> Sql:
    pairs = (sql("{}, {}", literal(column.name), trusted(column.default or "null")) for column in columns)
    defaults = sql("jsonb_build_object({})", joined(", ", pairs))
    if is_object:
        return sql("{} || sent", defaults)
    return sql(
        "(select coalesce(jsonb_agg({} || element), '[]') from jsonb_array_elements(sent) element)", defaults
    )


def insert(table: Table, rows: Rows, query: Query, *, resolution: str | None, fills_missing: bool) -> Sql:
    columns = columns_of(table, rows.keys)
    conflict = query.on_conflict or table.primary_key if resolution else ()
    merges = resolution == "merge-duplicates" and bool(conflict)
    return sql(
        "{}{}{}",
        _insert_rows(table, columns, rows, fills_missing),
        where([_counted("+")] if merges else []),
        _on_conflict(conflict, columns, merges=merges) if conflict else NOTHING,
    )


def replace_one(table: Table, rows: Rows, query: Query, *, fills_missing: bool) -> Sql:
    """PUT: the one row that the URL's primary key names, inserted or overwritten."""
    if () in query.pages:
        raise Fault(400, "PGRST114", "limit/offset querystring parameters are not allowed for PUT")
    keys = [each for each in query.conditions_at(()) if isinstance(each, Filter) and _is_equality(each)]
    named = sorted(each.field.name for each in keys)
    if (
        not table.primary_key
        or len(keys) != len(query.conditions_at(()))
        or named != sorted(table.primary_key)
    ):
        raise Fault(
            405, "PGRST105", "Filters must include all and only primary key columns with 'eq' operators"
        )
    columns = columns_of(table, rows.keys)
    body = Node(table.name, table, BODY)
    if not set(table.primary_key) <= set(rows.keys):
        raise primary_key_mismatch()
    return sql(
        "{}{}{}",
        _insert_rows(table, columns, rows, fills_missing),
        where([*(comparison(body, each) for each in keys), _counted("+")]),
        _on_conflict(table.primary_key, columns, merges=True),
    )


def primary_key_mismatch() -> Fault:
    return Fault(400, "PGRST115", "Payload values do not match URL in primary key column(s)")


def _is_equality(asked: Filter) -> bool:
    operation = asked.operation
    return (
        isinstance(operation, Compare)
        and operation.operator == "eq"
        and operation.quantifier is None
        and not asked.negated
        and not asked.field.path
    )


def _insert_rows(table: Table, columns: list[TableColumn], rows: Rows, fills_missing: bool) -> Sql:
    defaults = [column for column in columns if column.default] if fills_missing else []
    names = joined(", ", (name(column.name) for column in columns))
    selected = joined(", ", (sql("{}.{}", BODY, name(column.name)) for column in columns))
    body = body_rows(rows, [(column.name, column.type) for column in columns], defaults)
    into = sql("insert into {}", name(*table.key))
    if columns:
        return sql("{} ({}) select {} from {}", into, names, selected, body)
    return sql("{} select from {}", into, body)


def _counted(sign: str) -> Sql:
    """Counts inserts up and merges down again, so that the answer can tell them apart."""
    sent = "coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0)"
    if sign == "+":
        return Sql(f"set_config('pgrst.inserted', ({sent} + 1)::text, true) <> '0'")
    return Sql(f"set_config('pgrst.inserted', ({sent} - 1)::text, true) <> '-1'")


def _on_conflict(target: Iterable[str], columns: list[TableColumn], *, merges: bool) -> Sql:
    names = joined(", ", (name(column) for column in target))
    if not merges or not columns:
        return sql(" on conflict ({}) do nothing", names)
    changes = joined(
        ", ", (sql("{} = excluded.{}", name(column.name), name(column.name)) for column in columns)
    )
    return sql(" on conflict ({}) do update set {}{}", names, changes, where([_counted("-")]))


def update(table: Table, rows: Rows, query: Query, *, fills_missing: bool) -> Sql:
    columns = columns_of(table, rows.keys)
    if not columns:
        return NOTHING
    filters = _filters(table, query, "UPDATE")
    defaults = [column for column in columns if column.default] if fills_missing else []
    body = body_rows(rows, [(column.name, column.type) for column in columns], defaults)
    changes = joined(
        ", ", (sql("{} = {}.{}", name(column.name), BODY, name(column.name)) for column in columns)
    )
    return sql("update {} set {} from {}{}", name(*table.key), changes, body, where(filters))


def delete(table: Table, query: Query) -> Sql:
    return sql("delete from {}{}", name(*table.key), where(_filters(table, query, "DELETE")))


def _filters(table: Table, query: Query, command: str) -> list[Sql]:
    if () in query.pages:
        raise unsupported(f"limit and offset on {command}")
    target = Node(table.name, table, name(*table.key), conditions=query.conditions_at(()))
    if not target.conditions:
        # pg_safeupdate's answer; hosted projects load it for the Data API.
        raise Fault(400, "21000", f"{command} requires a WHERE clause")
    return predicates(target)


def returning(statement: Sql, table: Table, columns: list[str] | None) -> Sql:
    """`columns` as plan.needed_columns gives them: None is all, none is only a count of the rows."""
    whole = name(*table.key)
    if columns is None:
        outputs = sql("{}.*", whole)
    else:
        outputs = joined(", ", (sql("{}.{}", whole, name(column)) for column in columns)) or sql("1")
    if not statement:
        return sql("select {} from {} where false", outputs, whole)
    return sql("{} returning {}", statement, outputs)
