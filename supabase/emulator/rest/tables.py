"""GET, POST, PATCH, PUT and DELETE on a table or view."""

import json
from dataclasses import replace
from urllib.parse import quote

from emulator.rest import payload, reads, url, writes
from emulator.rest.action import (
    Action,
    Answer,
    check_affected,
    check_singular,
    content_headers,
    content_range,
    ranged,
    top_page,
    with_applied,
)
from emulator.rest.asked import Asked
from emulator.rest.catalog import Catalog, Table
from emulator.rest.media import Media
from emulator.rest.plan import SOURCE, Node, needed_columns, plan
from emulator.rest.query import Column, Field, Query
from emulator.rest.sql import NOTHING, Sql, name
from emulator.rest.statement import Result, statement

VARY = {"Vary": "Accept, Prefer, Range"}


def read(asked: Asked, catalog: Catalog) -> Action:
    table = catalog.table((asked.schema, asked.name))
    query = url.parse(asked.parameters)
    source = name(*table.key)
    root = plan(catalog, query, table, table.key, source)
    page = root.page = top_page(asked, root.page)
    cap_embeds(root, asked.max_rows)
    counted, exact = counts(asked, reads.count(root, source))

    def answer(result: Result) -> Answer:
        check_singular(asked, result)
        status, content = ranged(result, page, count_wanted=bool(counted))
        location = f"/{quote(table.name)}" + (f"?{query.canonical}" if query.canonical else "")
        headers = {"Content-Range": content, "Content-Location": location} | VARY | content_headers(asked)
        headers = with_applied(headers, asked, "count", "tx", "handling", "timezone")
        return Answer(status, headers, result.body.encode())

    whole = statement(reads.select(root, source), asked.media, "rows", count=exact)
    return Action(whole, read_only=True, answer=answer, estimate=counted)


def counts(asked: Asked, count: Sql) -> tuple[Sql, Sql]:
    """The SQL to estimate from, and the SQL to count exactly within the statement."""
    match asked.preferences.get("count"):
        case "exact":
            return count, count
        case "planned":
            return count, NOTHING
        case "estimated":
            return count, reads.limited(count, asked.max_rows + 1)
        case _:
            return NOTHING, NOTHING


def cap_embeds(root: Node, max_rows: int) -> None:
    for node in root.walk():
        if node is not root:
            node.page = node.page.capped(max_rows)


def insert(asked: Asked, catalog: Catalog) -> Action:
    table = catalog.table((asked.schema, asked.name))
    query = url.parse(asked.parameters)
    rows = payload.rows(asked.body, asked.content_type, query.columns)
    resolution = asked.preferences.get("resolution")
    write = writes.insert(
        table, rows, query, resolution=resolution, fills_missing=asked.preferences.get("missing") == "default"
    )
    can_conflict = bool(table.primary_key or query.on_conflict)

    def answer(result: Result) -> Answer:
        check_singular(asked, result)
        merged_only = (
            resolution == "merge-duplicates" and result.inserted is not None and result.inserted <= 0
        )
        headers = {"Content-Range": content_range(1, 0, result.rows if counts_rows(asked) else None)}
        keys = ("missing", "return", "count", "tx", "handling", "timezone")
        headers = with_applied(headers, asked, *(("resolution", *keys) if can_conflict else keys))
        if asked.preferences.get("return") == "headers-only" and table.primary_key and result.rows == 1:
            headers["Location"] = location(table, result.body)
        status = 200 if merged_only else 201
        return shown(asked, Answer(status, headers, result.body.encode()))

    return Action(returned(asked, catalog, table, query, write), read_only=False, answer=answer)


def update(asked: Asked, catalog: Catalog) -> Action:
    table = catalog.table((asked.schema, asked.name))
    query = url.parse(asked.parameters)
    rows = payload.rows(asked.body, asked.content_type, query.columns)
    fills_missing = asked.preferences.get("missing") == "default"
    write = writes.update(table, rows, query, fills_missing=fills_missing)

    def answer(result: Result) -> Answer:
        check_singular(asked, result)
        check_affected(asked, result)
        total = result.rows if counts_rows(asked) else None
        headers = {"Content-Range": content_range(0, result.rows - 1, total)}
        keys = ("return", "count", "tx", "missing", "handling", "timezone", "max-affected")
        headers = with_applied(headers, asked, *keys)
        return shown(asked, Answer(204, headers, result.body.encode()))

    return Action(returned(asked, catalog, table, query, write), read_only=False, answer=answer)


def replace_row(asked: Asked, catalog: Catalog) -> Action:
    table = catalog.table((asked.schema, asked.name))
    query = url.parse(asked.parameters)
    rows = payload.rows(asked.body, asked.content_type, None)
    fills_missing = asked.preferences.get("missing") == "default"
    write = writes.replace_one(table, rows, query, fills_missing=fills_missing)

    def answer(result: Result) -> Answer:
        if result.rows != 1:
            raise writes.primary_key_mismatch()
        headers = with_applied({}, asked, "return", "count", "tx", "handling", "timezone")
        found = shown(asked, Answer(204, headers, result.body.encode()))
        if found.status == 200 and (result.inserted or 0) > 0:
            found.status = 201
        return found

    return Action(returned(asked, catalog, table, query, write), read_only=False, answer=answer)


def delete(asked: Asked, catalog: Catalog) -> Action:
    table = catalog.table((asked.schema, asked.name))
    query = url.parse(asked.parameters)
    write = writes.delete(table, query)

    def answer(result: Result) -> Answer:
        check_singular(asked, result)
        check_affected(asked, result)
        headers = {"Content-Range": content_range(1, 0, result.rows if counts_rows(asked) else None)}
        keys = ("return", "count", "tx", "handling", "timezone", "max-affected")
        headers = with_applied(headers, asked, *keys)
        return shown(asked, Answer(204, headers, result.body.encode()))

    return Action(returned(asked, catalog, table, query, write), read_only=False, answer=answer)


def counts_rows(asked: Asked) -> bool:
    return asked.preferences.get("count") in ("exact", "estimated")


def shown(asked: Asked, answer: Answer) -> Answer:
    """The rows only go out when they were asked for."""
    if not asked.preferences.wants_representation:
        return replace(answer, body=b"")
    status = 200 if answer.status == 204 else answer.status
    return Answer(status, answer.headers | content_headers(asked), answer.body)


def returned(asked: Asked, catalog: Catalog, table: Table, query: Query, write: Sql) -> Sql:
    """The write, and on top of it the rows to show: all of them, the key of one, or only how many."""
    if asked.preferences.wants_representation:
        # Filters and pages of the root chose the rows to write; they are not applied again.
        rest = replace(
            query,
            conditions=[(path, each) for path, each in query.conditions if path],
            pages={path: page for path, page in query.pages.items() if path},
        )
        root = plan(catalog, rest, table, table.key, SOURCE)
        cap_embeds(root, asked.max_rows)
        source = writes.returning(write, table, needed_columns(root))
        return statement(reads.select(root, SOURCE), asked.media, "rows", source=source)
    wants_key = asked.method == "POST" and asked.preferences.get("return") == "headers-only"
    if wants_key and table.primary_key:
        columns = [Column(Field(each), cast="text") for each in table.primary_key]
        root = Node(table.name, table, SOURCE, columns=columns)
        source = writes.returning(write, table, list(table.primary_key))
        return statement(reads.select(root, SOURCE), Media("json"), "rows", source=source)
    root = Node(table.name, table, SOURCE)
    return statement(
        reads.select(root, SOURCE), asked.media, "nothing", source=writes.returning(write, table, [])
    )


def location(table: Table, body: str) -> str:
    [key] = json.loads(body)
    pairs = (
        f"{quote(column)}=" + ("is.null" if content is None else f"eq.{quote(content)}")
        for column, content in key.items()
    )
    return f"/{quote(table.name)}?" + "&".join(pairs)


def allowed(table: Table) -> str:
    methods = ["OPTIONS", "GET", "HEAD"]
    methods += ["POST"] if table.insertable else []
    methods += ["PUT"] if table.insertable and table.updatable and table.primary_key else []
    methods += ["PATCH"] if table.updatable else []
    methods += ["DELETE"] if table.deletable else []
    return ",".join(methods)
