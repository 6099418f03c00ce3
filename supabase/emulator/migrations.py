"""Applies migrations and seed like `supabase db push`, and records them in the CLI's own tables.

So a database that the hub has migrated is up to date for the CLI, and the other way round.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from emulator.statements import statements

FILE_NAME = re.compile(r"(?P<version>\d+)_(?P<name>.*)\.sql")
NEEDS_NO_TRANSACTION = re.compile(r"(create|drop|re)\s*(unique\s+)?index\s+concurrently\b", re.IGNORECASE)
ENVIRONMENT = re.compile(r"env\((?P<name>\w+)\)")
# Two hubs that start on one database take turns.
LOCK = 0x6D697373696F6E
LOCK_TIMEOUT = "10s"
# The record of emulator/seeding.py among the seed files.
USERS = "mission-control/users"

HISTORY = """
  create schema if not exists supabase_migrations;
  create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
  alter table supabase_migrations.schema_migrations add column if not exists statements text[];
  alter table supabase_migrations.schema_migrations add column if not exists name text;
  create table if not exists supabase_migrations.seed_files (path text not null primary key, hash text not null);
"""

type Connection = psycopg.Connection[tuple[Any, ...]]
type Say = Callable[[str], None]


class MigrationRefused(Exception):
    """The files and the database's history do not fit together, or a statement failed."""


@dataclass(frozen=True)
class Migration:
    path: Path
    version: str
    name: str

    @property
    def statements(self) -> list[str]:
        return statements(self.path.read_text())


def migrate(database_url: str, project: Path, environment: Mapping[str, str], say: Say) -> None:
    """Bring the database up to date with a Supabase project folder (config.toml, migrations, seeds)."""
    with psycopg.connect(
        database_url, autocommit=True, options="-c client_min_messages=warning"
    ) as connection:
        connection.execute("select pg_advisory_lock(%s)", [LOCK])
        connection.execute(HISTORY)
        config = project / "config.toml"
        settings = tomllib.loads(config.read_text()).get("db", {}) if config.exists() else {}
        store_vault_secrets(connection, settings.get("vault", {}), environment)
        applied = _apply_missing(connection, project / "migrations")
        for pattern in settings.get("seed", {}).get("sql_paths", ["./seed.sql"]):
            for file in sorted(project.glob(pattern)):
                _seed(connection, project, file, say)
    if applied:
        say(f"applied {applied} migration{'s' if applied > 1 else ''}")


def store_vault_secrets(
    connection: Connection, secrets: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    with connection.transaction():
        for name, reference in secrets.items():
            value = _resolve(reference, environment)
            found = connection.execute(
                "select id, decrypted_secret from vault.decrypted_secrets where name = %s", [name]
            ).fetchone()
            if found is None:
                connection.execute("select vault.create_secret(%s, %s)", [value, name])
            elif found[1] != value:
                connection.execute("select vault.update_secret(%s, %s)", [found[0], value])


def _resolve(reference: str, environment: Mapping[str, str]) -> str:
    match = ENVIRONMENT.fullmatch(reference)
    return environment[match["name"]] if match else reference


def _apply_missing(connection: Connection, folder: Path) -> int:
    files = _migrations(folder)
    history: dict[str, list[str] | None] = dict(
        connection.execute("select version, statements from supabase_migrations.schema_migrations").fetchall()
    )
    _refuse_disorder([file.version for file in files], list(history))
    missing = []
    for file in files:
        if file.version not in history:
            missing.append(file)
        elif history[file.version] not in (None, file.statements):
            raise MigrationRefused(
                f"{file.path.name} is not what this database was made with: its text has changed since. "
                "Check out the version that has the old text, or begin anew with `make reset`."
            )
    for file in missing:
        _apply(connection, file)
    return len(missing)


def _migrations(folder: Path) -> list[Migration]:
    found = [
        Migration(path, match["version"], match["name"])
        for path in folder.iterdir()
        if (match := FILE_NAME.fullmatch(path.name))
    ]
    return sorted(found, key=lambda migration: migration.path.name)


def _refuse_disorder(files: list[str], history: list[str]) -> None:
    if unknown := sorted(set(history) - set(files)):
        raise MigrationRefused(
            f"The database has migrations that are not in migrations/: {', '.join(unknown)}. "
            "Check out the version that has them, or begin anew with `make reset`."
        )
    if late := [
        version for version in files if version not in history and version < max(history, default="")
    ]:
        raise MigrationRefused(
            f"Migrations were added before others that are applied already: {', '.join(late)}. "
            "Give them a later version, or begin anew with `make reset`."
        )


def _apply(connection: Connection, migration: Migration) -> None:
    parts = migration.statements
    if len(parts) == 1 and NEEDS_NO_TRANSACTION.match(_without_comments(parts[0])):
        _execute(connection, migration.path, parts[0])
        _record(connection, migration, parts)
        return
    with connection.transaction():
        connection.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        for part in parts:
            _execute(connection, migration.path, part)
        # The role and settings of a file end with the file.
        connection.execute("reset role")
        connection.execute("reset all")
        _record(connection, migration, parts)


def _without_comments(statement: str) -> str:
    return re.sub(r"--[^\n]*\n|/\*.*?\*/", "", statement, flags=re.DOTALL).strip()


def _execute(connection: Connection, file: Path, statement: str) -> None:
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        # A full disk or a lost connection is not the statement's fault.
        if error.sqlstate is None or error.sqlstate.startswith(("53", "58")):
            raise
        raise MigrationRefused(f"{file.name}: {error}\nin: {statement[:500]}") from error


def _record(connection: Connection, migration: Migration, parts: list[str]) -> None:
    connection.execute(
        "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
        [migration.version, migration.name, parts],
    )


def _seed(connection: Connection, project: Path, file: Path, say: Say) -> None:
    text = file.read_bytes()
    path, digest = f"supabase/{file.relative_to(project)}", hashlib.sha256(text).hexdigest()
    found = connection.execute(
        "select hash from supabase_migrations.seed_files where path = %s", [path]
    ).fetchone()
    if found == (digest,):
        return
    with connection.transaction():
        if found is None:
            for part in statements(text.decode()):
                _execute(connection, file, part)
        else:
            say(f"warning: {file.name} has changed and is not run again; `make reset` begins anew")
        connection.execute(
            "insert into supabase_migrations.seed_files (path, hash) values (%s, %s) "
            "on conflict (path) do update set hash = excluded.hash",
            [path, digest],
        )


def has_users(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        try:
            found = connection.execute("select from supabase_migrations.seed_files where path = %s", [USERS])
        except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable):
            return False
        return found.fetchone() is not None
