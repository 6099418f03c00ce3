"""The schemas: the files of supabase/schemas say what the database is, in the order in which they are loaded.

config.toml names that order, for Supabase's own tools too; a pattern adds what an earlier one has not named.
"""

import tomllib
from pathlib import Path

import psycopg


class SchemaRefused(Exception):
    """A file of supabase/schemas does not load."""


def files(project: Path) -> list[Path]:
    config = tomllib.loads((project / "config.toml").read_text())
    patterns = config["db"]["migrations"]["schema_paths"]
    return list(dict.fromkeys(file for pattern in patterns for file in sorted(project.glob(pattern))))


def load(database_url: str, project: Path) -> None:
    """Make the objects of the files in an empty database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for file in files(project):
            try:
                connection.execute(file.read_bytes())
            except psycopg.Error as error:
                raise SchemaRefused(f"{file.relative_to(project)}: {error}") from error
