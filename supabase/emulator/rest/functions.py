"""GET, HEAD and POST on /rpc/<function>."""

from emulator.rest import calls, payload, reads, url
from emulator.rest.action import (
    Action,
    Answer,
    check_affected,
    check_singular,
    content_headers,
    ranged,
    top_page,
    with_applied,
)
from emulator.rest.asked import Asked
from emulator.rest.catalog import Catalog, Name, Routine
from emulator.rest.errors import Fault, unsupported
from emulator.rest.plan import SOURCE, Node, plan
from emulator.rest.query import Query
from emulator.rest.sql import Sql, sql
from emulator.rest.statement import Result, Shape, statement
from emulator.rest.tables import VARY, cap_embeds, counts


def call(asked: Asked, catalog: Catalog) -> Action:
    key = (asked.schema, asked.name)
    query = _query(asked, catalog, key)
    routine, called = _called(asked, catalog, key, query)
    if asked.preferences.max_affected is not None and not routine.returns_set:
        raise Fault(
            400,
            "PGRST128",
            "Function must return SETOF or TABLE when max-affected preference is used with handling=strict",
        )
    if "/" in routine.return_type:
        raise unsupported("media type handlers")

    shape = _shape(routine)
    root = _root(catalog, query, routine)
    page = root.page = top_page(asked, root.page)
    cap_embeds(root, asked.max_rows)
    counted, exact = counts(asked, reads.count(root, SOURCE))

    def answer(result: Result) -> Answer:
        check_singular(asked, result)
        check_affected(asked, result)
        status, content = ranged(result, page, count_wanted=bool(counted))
        headers = {"Content-Range": content} | VARY
        headers = with_applied(headers, asked, "count", "tx", "handling", "timezone", "max-affected")
        if routine.returns_void:
            return Answer(204, headers)
        return Answer(status, headers | content_headers(asked), result.body.encode())

    whole = statement(reads.select(root, SOURCE), asked.media, shape, source=called, count=exact)
    return Action(
        whole,
        read_only=asked.is_read or not routine.is_volatile,
        answer=answer,
        estimate=sql("with pgrst_source as ({}) {}", called, counted) if counted else counted,
        settings=routine.settings,
    )


def _query(asked: Asked, catalog: Catalog, key: Name) -> Query:
    if not asked.is_read:
        return url.parse(asked.parameters)
    known = {each.name for routine in catalog.overloads(key) for each in routine.parameters}
    return url.parse(asked.parameters, known.__contains__)


def _called(asked: Asked, catalog: Catalog, key: Name, query: Query) -> tuple[Routine, Sql]:
    if asked.is_read:
        names = frozenset(each for each, _ in query.arguments)
        routine = calls.choose(catalog, key, names, asked.content_type, is_post=False)
        return routine, calls.with_texts(routine, query.arguments)
    if asked.content_type in payload.RAW:
        routine = calls.choose(catalog, key, frozenset(), asked.content_type, is_post=True)
        is_bytes = asked.content_type == "application/octet-stream"
        return routine, calls.with_body(routine, asked.body if is_bytes else payload.decoded(asked.body))
    if asked.content_type == payload.FORM:
        pairs = url.parameters(asked.body, "form")
        routine = calls.choose(
            catalog, key, frozenset(each for each, _ in pairs), asked.content_type, is_post=True
        )
        return routine, calls.with_texts(routine, pairs)
    rows = payload.rows(asked.body or b"{}", asked.content_type, query.columns)
    routine = calls.choose(catalog, key, frozenset(rows.keys), asked.content_type, is_post=True)
    if routine.parameters and not routine.parameters[0].name and len(routine.parameters) == 1:
        return routine, calls.with_body(routine, payload.decoded(asked.body) or "{}")
    return routine, calls.with_rows(routine, rows)


def _shape(routine: Routine) -> Shape:
    if routine.returns_void:
        return "nothing"
    if routine.returns_composite:
        return "rows" if routine.returns_set else "composite"
    return "scalars" if routine.returns_set else "scalar"


def _root(catalog: Catalog, query: Query, routine: Routine) -> Node:
    """Rows of an exposed table can embed what that table can."""
    origin = routine.returns_table or (routine.schema, routine.name)
    return plan(catalog, query, catalog.tables.get(origin), origin, SOURCE)


def allowed(asked: Asked, catalog: Catalog) -> str:
    overloads = catalog.overloads((asked.schema, asked.name))
    if not overloads:
        raise calls.not_found(catalog, (asked.schema, asked.name), frozenset(), "", is_post=False)
    return "OPTIONS,POST" if all(each.is_volatile for each in overloads) else "OPTIONS,GET,HEAD,POST"
