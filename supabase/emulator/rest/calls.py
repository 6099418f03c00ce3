"""Functions called over /rpc: which overload, and its call as SQL."""

from collections.abc import Iterable
from difflib import get_close_matches

from emulator.rest.catalog import Catalog, Name, Parameter, Routine
from emulator.rest.conditions import array_literal
from emulator.rest.errors import Fault, NotInCatalog
from emulator.rest.payload import JSON, RAW, Rows
from emulator.rest.sql import NOTHING, Sql, joined, name, sql, trusted, value
from emulator.rest.writes import BODY, body_rows

JSON_TYPES = {"json", "jsonb"}


def choose(
    catalog: Catalog, key: Name, names: frozenset[str], content_type: str, *, is_post: bool
) -> Routine:
    overloads = catalog.overloads(key)
    is_raw = is_post and content_type in RAW
    named = [] if is_raw else [routine for routine in overloads if routine.accepts(names)]
    candidates = named or [
        routine for routine in overloads if is_post and _takes_whole_body(routine, content_type)
    ]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise Fault(
            300,
            "PGRST203",
            "Could not choose the best candidate function between: "
            + ", ".join(routine.signature for routine in candidates),
            hint="Try renaming the parameters or the function itself in the database "
            "so function overloading can be resolved",
        )
    raise not_found(catalog, key, names, content_type, is_post=is_post)


def _takes_whole_body(routine: Routine, content_type: str) -> bool:
    if len(routine.parameters) != 1 or routine.parameters[0].name:
        return False
    kind = routine.parameters[0].type
    return kind in JSON_TYPES if content_type == JSON else RAW.get(content_type) == kind


def not_found(
    catalog: Catalog, key: Name, names: frozenset[str], content_type: str, *, is_post: bool
) -> Fault:
    schema, function = key
    full = f"{schema}.{function}"
    listed = ", ".join(sorted(names))
    message, searched = f"{full}({listed})", f" with parameter{'s' if len(names) > 1 else ''} {listed}"
    if not names:
        message, searched = f"{full} without parameters", " without parameters"
    if is_post and content_type == JSON:
        searched += " or with a single unnamed json/jsonb parameter"
    elif is_post and content_type in RAW:
        message, searched = full, f" with a single unnamed {RAW[content_type]} parameter"
    return NotInCatalog(
        404,
        "PGRST202",
        f"Could not find the function {message} in the schema cache",
        f"Searched for the function {full}{searched}, but no matches were found in the schema cache.",
        _suggestion(catalog, key, listed),
    )


def _suggestion(catalog: Catalog, key: Name, listed: str) -> str | None:
    schema, function = key
    overloads = catalog.overloads(key)
    if overloads:
        known = [", ".join(sorted(each.name for each in routine.parameters)) for routine in overloads]
        close = get_close_matches(listed, known, n=1, cutoff=0.33)
        return f"Perhaps you meant to call the function {schema}.{function}({close[0]})" if close else None
    functions = [each for at, each in catalog.routines if at == schema]
    close = get_close_matches(function, functions, n=1, cutoff=0.75)
    return f"Perhaps you meant to call the function {schema}.{close[0]}" if close else None


def with_rows(routine: Routine, rows: Rows) -> Sql:
    """Called with a JSON object's (or an array's first object's) keys as named arguments."""
    sent = set(rows.keys)
    parameters = [each for each in routine.parameters if each.name in sent]
    if not parameters:
        return _call(routine, NOTHING, NOTHING)
    body = body_rows(rows, [(each.name, each.type) for each in parameters], [])
    arguments = joined(", ", (_argument(each, sql("{}.{}", BODY, name(each.name))) for each in parameters))
    first = NOTHING if rows.is_object else sql(" limit 1")
    source = sql("(select {}.* from {}{}) {}, lateral ", BODY, body, first, BODY)
    return _call(routine, source, arguments)


def with_texts(routine: Routine, pairs: Iterable[tuple[str, str]]) -> Sql:
    """Called with the texts of a query string or a form."""
    sent: dict[str, list[str]] = {}
    for key, content in pairs:
        sent.setdefault(key, []).append(content)
    arguments = []
    for parameter in routine.parameters:
        if parameter.name in sent:
            contents = sent[parameter.name]
            text = array_literal(contents) if parameter.is_variadic else contents[-1]
            arguments.append(_argument(parameter, sql("{}::{}", value(text), trusted(parameter.type))))
    return _call(routine, NOTHING, joined(", ", arguments))


def with_body(routine: Routine, body: str | bytes) -> Sql:
    """Called with the whole body as its one unnamed argument."""
    return _call(routine, NOTHING, sql("{}::{}", value(body), trusted(routine.parameters[0].type)))


def _argument(parameter: Parameter, given: Sql) -> Sql:
    variadic = sql("variadic ") if parameter.is_variadic else NOTHING
    return sql("{}{} := {}", variadic, name(parameter.name), given)


def _call(routine: Routine, source: Sql, arguments: Sql) -> Sql:
    called = sql("{}({})", name(routine.schema, routine.name), arguments)
    if routine.returns_composite:
        return sql("select pgrst_call.* from {}{} pgrst_call", source, called)
    return sql("select pgrst_call.pgrst_scalar from {}(select {} as pgrst_scalar) pgrst_call", source, called)
