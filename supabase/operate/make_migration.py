"""Writes the next migration: the objects of supabase/schemas that the migrations do not make yet.

    make migration NAME=add_channels     the next file
    make seal                            writes down the hashes of new files; from then on they stay as they are

Functions, views, triggers, policies, rights, comments and rows of the catalogue are written as statements. A table,
a key or an index that changes is a comment with both definitions: a person writes the statements that lead from the one
to the other without losing rows or holding locks.
"""

import argparse
import hashlib
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from emulator import schemas
from emulator.migrations import FILE_NAME, MigrationRefused, migrate
from emulator.postgres import PostgresUnavailable
from emulator.scratch import running_server
from emulator.statements import statements

from operate.differences import Name, Objects, different, objects

PROJECT = Path(__file__).parents[1]
BEGINNING = "-- {}\n\nset lock_timeout = '5s';\nset statement_timeout = '60s';\n"
# pg_dump tells of functions by their names, and before the tables that they read.
UNCHECKED = "set check_function_bodies = off;"
NOWHERE = {"FUNCTIONS_URL": "http://127.0.0.1:9", "HUB_INVOKE_SECRET": "sb_hub_for_nobody"}
BY_HAND = "-- By hand:"
REPLACED = ("FUNCTION", "VIEW", "TRIGGER")
OF_A_TABLE = ("TRIGGER", "POLICY")
WITHIN_A_TABLE = ("DEFAULT", "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT")
CHANGED_BY_HAND = ("TABLE", "TYPE", "INDEX", "SEQUENCE", "SCHEMA", *WITHIN_A_TABLE)
CREATE = re.compile(
    r'^create (?P<type>function|view|trigger|table|type|policy) (?:"(?P<quoted>[^"]+)"|(?:(?P<schema>\w+)\.)?(?P<name>\w+))',
    re.MULTILINE,
)
ON_TABLE = re.compile(r" on (?P<schema>\w+)\.(?P<table>\w+)")
FORCED = re.compile(r"^ALTER TABLE ONLY \S+ FORCE ROW LEVEL SECURITY;$", re.MULTILINE)
RETURNS = re.compile(r"\bRETURNS (.*?)\s+LANGUAGE", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m operate.make_migration")
    parser.add_argument("name", nargs="?", default="", help="what it does, such as add_channels")
    parser.add_argument("--seal", action="store_true", help="write down the hashes of new files instead")
    arguments = parser.parse_args()
    try:
        print(seal(PROJECT) if arguments.seal else write(PROJECT, arguments.name))
    except (MigrationRefused, PostgresUnavailable, schemas.SchemaRefused) as error:
        sys.exit(str(error))


def write(project: Path, name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{2,60}", name):
        raise MigrationRefused("A migration's name says what it does: make migration NAME=add_channels")
    files = _files(project)
    text = next_text(project, name) if files else foundation(project)
    if not text:
        return "The migrations make what the schemas say: there is nothing to write."
    versions = [match["version"] for file in files if (match := FILE_NAME.fullmatch(file.name))]
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    version = max(now, str(int(max(versions, default="0")) + 1))
    path = project / "migrations" / f"{version}_{name}.sql"
    path.write_text(text)
    return f"Wrote migrations/{path.name}. Say in its first lines why; `make seal` when it is done."


def _files(project: Path) -> list[Path]:
    return sorted((project / "migrations").glob("*.sql"))


def foundation(project: Path) -> str:
    """The first migration is the schemas as they are."""
    parts = [BEGINNING.format("The foundation: what supabase/schemas said when the history began.")]
    for file in schemas.files(project):
        parts.append(f"-- {file.relative_to(project / 'schemas')}\n{file.read_text()}")
    return "\n".join(parts)


def next_text(project: Path, name: str) -> str:
    is_now, shall_be = both(project)
    changed = different(is_now, shall_be)
    if not changed:
        return ""
    changed += [each for each in _of_functions_made_anew(changed, is_now, shall_be) if each not in changed]
    written = _written(project)
    made = {each.name for each in changed if each.type == "TABLE" and each not in is_now}
    parts = [BEGINNING.format(f"{name.replace('_', ' ').capitalize()}: what it is for, and why.")]
    if any(each.type == "FUNCTION" and each not in is_now for each in changed):
        parts.append(UNCHECKED)
    parts += [
        _statements(each, is_now.get(each), shall_be.get(each), written)
        for each in changed
        # The schemas' statement of a new table has its keys and defaults.
        if not (each.type in WITHIN_A_TABLE and each.name.split()[0] in made)
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _of_functions_made_anew(changed: list[Name], is_now: Objects, shall_be: Objects) -> list[Name]:
    """Comments and rights that go with a function when another one with its name takes its place."""
    anew = [name for name in changed if _answers_something_else(name, is_now.get(name), shall_be.get(name))]
    beginnings = [(name.schema, f"FUNCTION {name.name.split('(')[0]}(") for name in anew]
    return [
        name
        for name in shall_be
        if name.type in ("ACL", "COMMENT")
        and any(name.schema == schema and name.name.startswith(beginning) for schema, beginning in beginnings)
    ]


def _answers_something_else(name: Name, before: str | None, after: str | None) -> bool:
    return bool(
        name.type == "FUNCTION" and before and after and RETURNS.findall(before) != RETURNS.findall(after)
    )


def both(project: Path) -> tuple[Objects, Objects]:
    """The objects of the migrations, and those of the schemas."""
    with running_server() as server:
        migrated, declared = server.fresh_database(), server.fresh_database()
        migrate(migrated.url(), project, NOWHERE, lambda _: None)
        schemas.load(declared.url(), project)
        return objects(migrated.url(), server.pg_dump), objects(declared.url(), server.pg_dump)


def _written(project: Path) -> dict[Name, str]:
    """The schemas' own statements, with the comments before them, by the object that they make."""
    found: dict[Name, str] = {}
    for file in schemas.files(project):
        for statement in statements(file.read_text()):
            if (made := CREATE.search(statement)) is None:
                continue
            kind, schema, name = made["type"].upper(), made["schema"], made["quoted"] or made["name"]
            if kind in OF_A_TABLE and (on := ON_TABLE.search(statement, made.end())):
                schema, name = on["schema"], f"{on['table']} {name}"
            key = Name(kind, schema, name)
            found[key] = "\n\n".join(filter(None, [found.get(key), _without_heading(statement) + ";"]))
    return found


def _without_heading(statement: str) -> str:
    """The statement without the comment that heads its file: an empty line ends that."""
    heading, gap, rest = statement.partition("\n\n")
    return rest if gap and all(line.startswith("--") for line in heading.splitlines()) else statement


def _statements(name: Name, before: str | None, after: str | None, written: dict[Name, str]) -> str:
    if after is None:
        return _drop(name, before or "")
    source = written.get(Name(name.type, name.schema, name.name.split("(")[0]), after)
    if before is None:
        # The schemas force row level security in a statement of its own, pg_dump among those of the table.
        return "\n".join([source, *FORCED.findall(after)]) if source != after else source
    if name.type in CHANGED_BY_HAND:
        return _by_hand(name, before, after)
    if name.type == "POLICY":
        return f"{_drop(name, before)}\n{source}"
    if name.type == "ACL":
        return "\n".join([*_revoked(before, after), after])
    if name.type in REPLACED:
        # A function that answers another type cannot replace the old one.
        gone = _drop(name, before) if _answers_something_else(name, before, after) else ""
        return f"{gone}\n{CREATE.sub(lambda made: made[0].replace('create', 'create or replace', 1), source)}"
    return source


def _drop(name: Name, before: str) -> str:
    if name.type in OF_A_TABLE:
        table, each = name.name.split(" ", 1)
        return f'drop {name.type.lower()} "{each}" on {name.schema}.{table};'
    if name.type in REPLACED:
        return f"drop {name.type.lower()} {name.schema}.{name.name};"
    if name.type in (*CHANGED_BY_HAND, "ROW"):
        return _by_hand(name, before, "gone")
    # Comments and rights go with their object.
    return ""


def _revoked(before: str, after: str) -> list[str]:
    kept = after.splitlines()
    gone = [line for line in before.splitlines() if line.startswith("GRANT ") and line not in kept]
    return [re.sub("^GRANT (.*) TO ", r"REVOKE \1 FROM ", line) for line in gone]


def _by_hand(name: Name, before: str, after: str) -> str:
    was, shall_be = (re.sub("^", "--   ", text, flags=re.MULTILINE) for text in (before, after))
    return f"{BY_HAND} {name}\n-- It is:\n{was}\n-- It shall be:\n{shall_be}"


def seal(project: Path) -> str:
    sealed, files = hashes(project), _files(project)
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if edited := [name for name in sealed if found.get(name) != sealed[name]]:
        raise MigrationRefused(
            f"{', '.join(edited)} is sealed with another text: databases exist that were made with it. "
            "A change belongs in a new migration."
        )
    if unfinished := [file.name for file in files if BY_HAND in file.read_text()]:
        raise MigrationRefused(f"{', '.join(unfinished)} has parts that wait to be written by hand.")
    lines = [f"{digest}  migrations/{name}\n" for name, digest in found.items()]
    (project / "migrations.sha256").write_text("".join(lines))
    return f"Sealed: {', '.join(name for name in found if name not in sealed) or 'nothing new'}."


def hashes(project: Path) -> dict[str, str]:
    """The hash of each sealed file, as sha256sum writes them."""
    path = project / "migrations.sha256"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split("/", 1)[1]: line.split()[0] for line in lines}


if __name__ == "__main__":
    main()
