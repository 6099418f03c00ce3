"""Differences between two databases of the hub: every object of its schemas, the rows that are code, the schedules.

An object is one entry of pg_dump, named as pg_dump names it.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

SCHEMAS = ("public", "hub", "private")
# The clock makes partitions, so no file does.
PARTITIONS = "private.events_20*"
# Tables whose rows are code: the columns that name a row, and those of its content.
CATALOGUES = {
    "public.role_permissions": (("role", "permission"), ()),
    "public.event_types": (
        ("name",),
        ("description", "aliases", "from_sites", "makes_lead", "schema", "sample"),
    ),
    "private.contact_references": (("table_name", "column_name"), ("on_merge",)),
    "public.invariants": (("name",), ("description", "severity", "pauses", "sql")),
    "public.system_controls": (("name",), ()),
    "cron.job": (("jobname",), ("schedule", "command")),
}
ENTRY = re.compile(
    r"^--\n-- Name: (?P<name>.*?); Type: (?P<type>.*?); Schema: (?P<schema>.*?); Owner: .*\n--\n",
    re.MULTILINE,
)
NOT_THE_DATABASE = re.compile(r"^(\\.*|SET .*;|SELECT pg_catalog\.set_config.*;|-- .*|--)$\n?", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Name:
    type: str
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.type} {self.schema + '.' if self.schema != '-' else ''}{self.name}"


type Objects = dict[Name, str]


def objects(database_url: str, pg_dump: Path) -> Objects:
    """Every object and row, as the statements that make it, in an order in which they can be run."""
    return _entries(_dump(database_url, pg_dump)) | _rows(database_url)


def _dump(database_url: str, pg_dump: Path) -> str:
    schemas = [f"--schema={schema}" for schema in SCHEMAS]
    return subprocess.run(
        [pg_dump, "--schema-only", "--no-owner", f"--exclude-table={PARTITIONS}", *schemas, database_url],
        capture_output=True,
        check=True,
        text=True,
    ).stdout


def _entries(dump: str) -> Objects:
    found = list(ENTRY.finditer(dump))
    ends = [entry.start() for entry in found[1:]] + [len(dump)]
    entries: Objects = {}
    for entry, end in zip(found, ends, strict=True):
        name = Name(entry["type"], entry["schema"], entry["name"])
        text = NOT_THE_DATABASE.sub("", dump[entry.end() : end]).strip()
        # Several policies or rights can stand under one name.
        entries[name] = "\n\n".join(filter(None, [entries.get(name, ""), text]))
    return entries


def _rows(database_url: str) -> Objects:
    with psycopg.connect(database_url) as connection:
        return {
            Name("ROW", table, ", ".join(row[0])): row[1]
            for table, (key, values) in CATALOGUES.items()
            for row in connection.execute(_rows_of(table, key, values))
        }


def _rows_of(table: str, key: tuple[str, ...], values: tuple[str, ...]) -> sql.Composed:
    """A query of each row's name and the statement that makes it."""
    columns = key + values
    if table == "cron.job":
        template = "select cron.schedule(%L, %L, %L);"
    else:
        places = ", ".join(["%L"] * len(key + values))
        update = (
            f" do update set {', '.join(f'{each} = excluded.{each}' for each in values)}"
            if values
            else " do nothing"
        )
        template = (
            f"insert into {table} ({', '.join(key + values)}) values ({places})\n"
            f"on conflict ({', '.join(key)}){update};"
        )
    return sql.SQL(
        "select array[{key}]::text[], format({template}, {columns}) from {table} order by 1"
    ).format(
        key=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in key),
        template=sql.Literal(template),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        table=sql.Identifier(*table.split(".")),
    )


def different(is_now: Objects, shall_be: Objects) -> list[Name]:
    """Names of the objects that are missing or not the same, in the order in which they can be made, then of those that
    are too much, in the order in which they can go."""
    gone = [name for name in reversed(is_now) if name not in shall_be]
    return [name for name in shall_be if is_now.get(name) != shall_be[name]] + gone
