"""Deployment: the commands that bring migrations and functions to where they run, in order.

    python -m deploy.plan [--dry-run]

Migrations go first, and the first failure ends it. No command holds a secret: functions get theirs from
Secret Manager, and the database's password goes to the Supabase CLI in its environment. The platform is asked about each
step to be done by hand, and the step is named while it is not done.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from deploy import checklist
from deploy.bundle import DIST, FUNCTIONS, ROOT
from deploy.platform import NotAsked, Nothing, Platform
from deploy.settings import PUBLIC, Entry, Environment, Functions, Manifest, problems, remarks, settings

NEEDED = {
    "GCP_PROJECT": "the Google Cloud project",
    "GCP_REGION": "its region, best the database's",
    "SUPABASE_DB_URL": "postgresql://postgres.<ref>@<host>:5432/postgres, direct or in session mode",
    "SUPABASE_DB_PASSWORD": "of role postgres, unless it stands in SUPABASE_DB_URL",
}
PROGRAMS = {"supabase": "the Supabase CLI", "gcloud": "the Google Cloud CLI"}


@dataclass(frozen=True)
class Command:
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    # The command's names for secrets that our environment has under another name: names are printed, never values.
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        variables += [f'{name}="${source}"' for name, source in self.secrets.items()]
        return " ".join([*variables, shlex.join(self.arguments)])

    def run(self, environment: Mapping[str, str]) -> int:
        secrets = {name: environment[source] for name, source in self.secrets.items()}
        own = {**environment, **self.environment, **secrets}
        return subprocess.run(self.arguments, cwd=ROOT, env=own).returncode


@dataclass(frozen=True)
class Standing:
    """The parts that are there already, as far as the platform told."""

    platform: Nothing
    functions: Functions
    not_asked: str | None = None

    @classmethod
    def asked(cls, environment: Environment) -> "Standing":
        try:
            platform = Platform(environment, _database(environment))
            return cls(platform, platform.functions())
        except NotAsked as reason:
            return cls(Nothing(), None, str(reason))


def main() -> int:
    manifest: Manifest = tomllib.loads((FUNCTIONS / "manifest.toml").read_text())
    environment = _completed(manifest, _without_password_in_url(os.environ))
    is_dry_run = "--dry-run" in sys.argv[1:]
    standing = Standing.asked(environment)
    commands = plan(manifest, environment, standing.functions)
    if is_dry_run:
        print(*commands, "", sep="\n\n")
    print(*remarks(manifest, environment, standing.functions), sep="\n", end="\n\n")
    needed = _say_by_hand(manifest, environment, standing)
    missing = _missing(manifest, environment, standing.functions)
    if is_dry_run:
        _say("Before it can be deployed, this is missing:", missing)
        return 0
    missing = missing or ([standing.not_asked] if standing.not_asked else needed)
    if missing:
        _say("Nothing was done. Missing:", missing)
        return 2
    for command in commands:
        print(f"\n{command}", flush=True)
        status = command.run(environment)
        if status:
            print(f"\nStopped: this failed with status {status}.", file=sys.stderr)
            return status
    print()
    _say_by_hand(manifest, environment, Standing.asked(environment))
    return 0


def plan(manifest: Manifest, environment: Environment, functions: Functions = None) -> list[Command]:
    deployments = [_deploy(name, entry, environment, functions) for name, entry in manifest.items()]
    return [_push_migrations(environment), *deployments]


def _completed(manifest: Manifest, environment: Environment) -> dict[str, str]:
    """The environment with the settings that follow from others."""
    project, region = _value("GCP_PROJECT", environment), _value("GCP_REGION", environment)
    return {
        **environment,
        "FUNCTIONS_URL": f"https://{region}-{project}.cloudfunctions.net",
        "HUB_FUNCTIONS": " ".join(name.replace("_", "-") for name in manifest),
    }


def _push_migrations(environment: Environment) -> Command:
    # The vault stays as it is: SUPABASE_URL in this environment may well be a local hub.
    url = _value("SUPABASE_DB_URL", environment)
    return Command(
        ["supabase", "db", "push", "--remote", url, "--include-seed", "--skip-vault", "--yes"],
        {"PGSSLMODE": environment.get("PGSSLMODE", "require")},
        {"PGPASSWORD": "SUPABASE_DB_PASSWORD"},
    )


def _database(environment: Environment) -> dict[str, str]:
    """The environment of the Supabase CLI."""
    password = environment.get("SUPABASE_DB_PASSWORD", "")
    return {"PGSSLMODE": environment.get("PGSSLMODE", "require"), "PGPASSWORD": password}


def _deploy(name: str, entry: Entry, environment: Environment, functions: Functions) -> Command:
    given = settings(name, entry, environment, functions)
    options = {
        "project": _value("GCP_PROJECT", environment),
        "region": _value("GCP_REGION", environment),
        "runtime": "python312",
        "source": str((DIST / name).relative_to(ROOT)),
        "entry-point": name,
        "memory": f"{entry['memory']}Mi",
        # With less than a whole processor, an instance may serve one request at a time only.
        "cpu": 1,
        "timeout": f"{entry['timeout']}s",
        "concurrency": entry["concurrency"],
        "min-instances": entry["min_instances"],
        "max-instances": entry["max_instances"],
    }
    # Settings that these do not name stay as they are, unlike with --set-env-vars and --set-secrets.
    changes = {
        "remove-secrets": given.removed_secrets,
        "remove-env-vars": given.removed_variables,
        "update-secrets": [f"{secret}={secret}:latest" for secret in given.secrets],
        "update-env-vars": [f"{variable}={value}" for variable, value in given.variables.items()],
    }
    options |= {option: ",".join(them) for option, them in changes.items() if them}
    return Command(
        [
            *("gcloud", "functions", "deploy", name.replace("_", "-"), "--gen2", "--quiet"),
            # Every endpoint knows its callers itself, and a database that calls one has no Google account.
            *("--trigger-http", "--allow-unauthenticated"),
            *(word for option, value in options.items() for word in (f"--{option}", str(value))),
        ]
    )


def _value(name: str, environment: Environment) -> str:
    return environment.get(name) or f"<{name}>"


def _without_password_in_url(environment: Environment) -> dict[str, str]:
    """The environment with the database's password in SUPABASE_DB_PASSWORD only."""
    url = re.fullmatch(r"(\w+://[^:@/]+):(.*)(@[^@]+)", environment.get("SUPABASE_DB_URL", ""))
    if url is None:
        return dict(environment)
    return {**environment, "SUPABASE_DB_URL": url[1] + url[3], "SUPABASE_DB_PASSWORD": unquote(url[2])}


def _missing(manifest: Manifest, environment: Environment, functions: Functions) -> list[str]:
    found = [settings(name, entry, environment, functions) for name, entry in manifest.items()]
    unset = {name: PUBLIC[name] for name in PUBLIC if any(name in it.missing for it in found)}
    unset = {name: what for name, what in NEEDED.items() if not environment.get(name)} | unset
    missing = [f"{name}: {what}" for name, what in unset.items()]
    missing += [f"{name}: {what}" for name, what in PROGRAMS.items() if not shutil.which(name)]
    return missing + list(dict.fromkeys(problems(manifest, environment, functions)))


def _say_by_hand(manifest: Manifest, environment: Environment, standing: Standing) -> list[str]:
    """Print the steps left to do by hand; answers those that a deployment cannot do without."""
    given = [settings(name, entry, environment, standing.functions) for name, entry in manifest.items()]
    # Cloud Scheduler waits for the answer, as the database does not.
    called = [name.replace("_", "-") for name, entry in manifest.items() if entry["caller"] == "hub"]
    hub = checklist.Hub(
        project=shlex.quote(_value("GCP_PROJECT", environment)),
        region=shlex.quote(_value("GCP_REGION", environment)),
        functions_url=environment["FUNCTIONS_URL"],
        secrets={secret for it in given for secret in it.secrets},
        called=[name for name in called if name != checklist.CLOCK],
    )
    parts = checklist.parts(hub, standing.platform)
    if standing.not_asked:
        print(
            f"What is there already could not be asked: {standing.not_asked}. A new project needs, by hand:"
        )
    else:
        print("Left to do by hand:" if parts else "Asked of the platform: nothing is left to do by hand.")
    print(*parts, sep="\n\n", flush=True)
    return [step.what for part in parts if not part.not_asked for step in part.steps if step.is_needed]


def _say(heading: str, lines: list[str]) -> None:
    if lines:
        print(heading, *(f"  {line}" for line in lines), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
