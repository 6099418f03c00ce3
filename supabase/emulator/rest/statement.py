"""The one statement of a request: its rows, gathered into the body by Postgres itself."""

from dataclasses import dataclass
from typing import Literal

from emulator.rest.media import Media
from emulator.rest.sql import NOTHING, Sql, joined, sql

# How rows become a body: as they are, as bare scalars, or one composite as an object of its own.
Shape = Literal["rows", "scalar", "scalars", "composite", "nothing"]

ROW = sql("_postgrest_t")
SCALAR = sql("_postgrest_t.pgrst_scalar")

FORMATS = {"text": sql("format text"), "json": sql("format json")}
OPTIONS = {
    "analyze": sql("analyze"),
    "verbose": sql("verbose"),
    "settings": sql("settings"),
    "buffers": sql("buffers"),
    "wal": sql("wal"),
}


@dataclass(frozen=True)
class Result:
    total: int | None
    rows: int
    body: str
    headers: str | None
    status: str | None
    inserted: int | None


def statement(answer: Sql, media: Media, shape: Shape, *, source: Sql = NOTHING, count: Sql = NOTHING) -> Sql:
    """`answer` selects the rows to show; a write or call before it is the `source` it selects from."""
    parts = [sql("pgrst_source as ({})", source)] if source else []
    parts.append(sql("pgrst_answer as ({})", answer))
    if count:
        parts.append(sql("pgrst_count as ({})", count))
    return sql(
        "with {} select {}, count(*), {}, nullif(current_setting('response.headers', true), ''), "
        "nullif(current_setting('response.status', true), ''), "
        "nullif(current_setting('pgrst.inserted', true), '')::int "
        "from (select * from pgrst_answer) _postgrest_t",
        joined(", ", parts),
        sql("(select count(*) from pgrst_count)") if count else sql("null::bigint"),
        _body(media, shape),
    )


def _body(media: Media, shape: Shape) -> Sql:
    if shape == "nothing":
        return sql("''")
    if media.kind == "csv":
        return sql("{} || e'\\n' || {}", CSV_HEADER, CSV_ROWS)
    one = media.kind == "object" or shape in ("scalar", "composite")
    gathered = sql("json_agg({})", SCALAR if shape in ("scalar", "scalars") else ROW)
    if media.strips_nulls:
        gathered = sql("json_strip_nulls({})", gathered)
    return sql("coalesce({} -> 0, 'null')::text" if one else "coalesce({}, '[]')::text", gathered)


CSV_HEADER = sql(
    "coalesce((select string_agg(key, ',') from (select json_object_keys(row_to_json(first)) as key "
    "from (select * from pgrst_answer limit 1) first) keys), '')"
)
CSV_ROWS = sql(
    "coalesce(string_agg(substring(_postgrest_t::text, 2, length(_postgrest_t::text) - 2), e'\\n'), '')"
)


def explained(text: Sql, media: Media) -> Sql:
    options = [FORMATS[media.plan or "text"], *(OPTIONS[option] for option in media.plan_options)]
    return sql("explain ({}) {}", joined(", ", options), text)


def planned_rows(count: Sql) -> Sql:
    return sql("explain (format json) {}", count)
