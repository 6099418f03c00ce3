"""The hub that a command changes: the one that runs on STATE, or a project that the environment names."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from deploy.bundle import ROOT
from emulator.state import State, StateUnusable

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


def run[Asked](
    command: str, asked_for: Callable[[Mapping[str, str]], Asked], do: Callable[[Asked, Target], None]
) -> int:
    """Do what the environment asks for to the hub that it or STATE names; what cannot be done is said in a sentence."""
    parser = argparse.ArgumentParser(prog=f"python -m operate.{command}")
    parser.add_argument("--state", type=Path, default=Path(".state"), help="of the hub that runs here")
    arguments = parser.parse_args()
    try:
        do(asked_for(os.environ), Target.found(arguments.state, os.environ))
    except BrokenPipeError:
        # Nobody reads on, as in `make new-site | head`: Python must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # those that have a sentence; any other is a fault of ours
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return 2
    return 0


def _sentence(error: Exception) -> str | None:
    match error:
        case Refused() | StateUnusable():
            return str(error)
        case psycopg.OperationalError():
            return f"The database cannot be reached: {error}"
        case psycopg.ProgrammingError() if error.sqlstate is None:
            return f"ADMIN_DATABASE_URL cannot be read: {error}"
        case psycopg.DatabaseError():
            return f"The database refused: {error.diag.message_primary or error}"
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return f"This is no address that can be asked: {error}"
        case OSError():
            return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    return None


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
