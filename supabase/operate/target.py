"""The hub that a command changes: the one that runs on STATE, or a project that the environment names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from deploy.bundle import ROOT
from emulator.state import State

from operate.hub import Refused, read

type Database = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Target:
    """`state` is there when the hub runs on this machine."""

    database_url: str
    state: State | None
    environment: Mapping[str, str]

    @classmethod
    def found(cls, folder: Path, environment: Mapping[str, str]) -> "Target":
        state = State(folder.resolve())
        local = read(state.environment)
        database_url = environment.get("ADMIN_DATABASE_URL") or local.get("ADMIN_DATABASE_URL")
        if not database_url:
            raise Refused(
                f"No hub runs on {state.folder}. Start one with `make run`, or set ADMIN_DATABASE_URL to a project's."
            )
        if database_url == local.get("ADMIN_DATABASE_URL"):
            return cls(database_url, state, local)
        return cls(database_url, None, environment)

    @property
    def functions_url(self) -> str:
        if self.state is not None:
            return f"{self.environment['SUPABASE_URL']}/functions/v1"
        if self.environment.get("FUNCTIONS_URL"):
            return self.environment["FUNCTIONS_URL"].rstrip("/")
        region, project = self.environment.get("GCP_REGION"), self.environment.get("GCP_PROJECT")
        if not region or not project:
            raise Refused("Say where the functions are: FUNCTIONS_URL=…, or GCP_REGION and GCP_PROJECT.")
        return f"https://{region}-{project}.cloudfunctions.net"

    def connect(self) -> Database:
        return psycopg.connect(self.database_url, autocommit=True, connect_timeout=10)


def organization(database: Database, what: str) -> str:
    """The slug of ORG, or of the only organization."""
    asked = os.environ.get("ORG")
    rows = database.execute("select slug from public.organizations where closed_at is null order by slug")
    slugs = [str(slug) for (slug,) in rows]
    if asked in slugs:
        return str(asked)
    if asked or len(slugs) != 1:
        raise Refused(f"Say whose {what} it is: ORG=…, one of {', '.join(slugs) or 'none that are here'}.")
    return slugs[0]


def report(step: str, where: str, is_new: bool) -> None:
    print(f"  {step:<12}{'done' if is_new else 'skipped':<10}{where}", flush=True)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))
