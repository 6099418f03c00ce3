"""Deployment: the commands that bring migrations and functions to where they run, in order.

    python -m deploy.plan [--dry-run]

Migrations go first, and the first failure ends it. No command holds a secret: functions get theirs from
Secret Manager, and the database's password goes to the Supabase CLI in its environment.
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
from typing import Any
from urllib.parse import unquote

from deploy.bundle import DIST, FUNCTIONS, ROOT

type Manifest = dict[str, dict[str, Any]]

NEEDED = {
    "GCP_PROJECT": "the Google Cloud project",
    "GCP_REGION": "its region, best the database's",
    "SUPABASE_DB_URL": "postgresql://postgres.<ref>@<host>:5432/postgres, direct or in session mode",
    "SUPABASE_DB_PASSWORD": "of role postgres, unless it stands in SUPABASE_DB_URL",
}
PROGRAMS = {"supabase": "the Supabase CLI", "gcloud": "the Google Cloud CLI"}
# What goes along as it stands here; every other setting is a secret.
PUBLIC_SETTINGS = {
    "SUPABASE_URL": "the project's",
    "SUPABASE_PUBLISHABLE_KEY": "the project's",
    "LLM_BASE_URL": "of an OpenAI-compatible endpoint, as in https://api.openai.com/v1",
    "LLM_MODEL": "the model for agents whose version names none",
    "TRUSTED_PROXIES": "how many proxies stand before every function",
    "FUNCTIONS_URL": "below which the functions are",
    "HUB_FUNCTIONS": "the names of all functions, with blanks between",
}
# Of Cloud Run, where one proxy of Google's stands before every function; a load balancer before that is another.
USUAL = {"TRUSTED_PROXIES": "1"}
# Each holds up to four connections, and a small pooler serves 200 clients.
MAX_INSTANCES = 10

ONCE = """\
Once, by hand:

  Secret Manager, readable by the functions' service account:
{secrets}

  psql, as postgres:
    \\password hub_service
    -- DATABASE_URL: postgresql://hub_service.<ref>:…@<pooler host>:6543/postgres
    select vault.create_secret('{functions_url}', 'functions_url');
    select vault.create_secret('…', 'hub_invoke_secret');  -- equal to HUB_INVOKE_SECRET
    select private.set_site_secret('<site>', '…');  -- for each site that has one; make new-site makes one that signs

  A clock outside of the database, for when pg_net or pg_cron stands still:
    gcloud scheduler jobs create http sweep --location {region} --schedule '* * * * *' --http-method POST \\
      --uri {functions_url}/sweep --headers "apikey=$HUB_INVOKE_SECRET" --attempt-deadline 60s

  After each deployment, since pg_net hangs up after two seconds and a batch may take longer:
    gcloud run services update <function that the hub calls> --no-cpu-throttling
"""


@dataclass(frozen=True)
class Command:
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    # Names for the command of what stands in our environment under another: printed as such, never as values.
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        variables += [f'{name}="${source}"' for name, source in self.secrets.items()]
        return " ".join([*variables, shlex.join(self.arguments)])

    def run(self, environment: Mapping[str, str]) -> int:
        secrets = {name: environment[source] for name, source in self.secrets.items()}
        own = {**environment, **self.environment, **secrets}
        return subprocess.run(self.arguments, cwd=ROOT, env=own).returncode


def main() -> int:
    manifest = tomllib.loads((FUNCTIONS / "manifest.toml").read_text())
    environment = _without_password_in_url(os.environ)
    commands = plan(manifest, environment)
    missing = _missing(manifest, environment)
    if "--dry-run" in sys.argv[1:]:
        print(*commands, checklist(manifest, environment), sep="\n\n")
        _say("Before it can be deployed, this is missing:", missing)
        return 0
    print(f"{checklist(manifest, environment)}\n", flush=True)
    missing = missing or _missing_account()
    if missing:
        _say("Nothing was done. Missing:", missing)
        return 2
    for command in commands:
        print(f"\n{command}", flush=True)
        status = command.run(environment)
        if status:
            print(f"\nStopped: this failed with status {status}.", file=sys.stderr)
            return status
    return 0


def plan(manifest: Manifest, environment: Mapping[str, str]) -> list[Command]:
    environment = _completed(manifest, environment)
    functions = [_deploy(name, entry, environment) for name, entry in manifest.items()]
    return [_push_migrations(environment), *functions]


def checklist(manifest: Manifest, environment: Mapping[str, str]) -> str:
    secrets = sorted({name for entry in manifest.values() for name in _secrets(entry, environment)})
    create = [f"    gcloud secrets create {name} --data-file=-" for name in secrets]
    return ONCE.format(
        secrets="\n".join(create),
        functions_url=_completed(manifest, environment)["FUNCTIONS_URL"],
        region=_value("GCP_REGION", environment),
    )


def _completed(manifest: Manifest, environment: Mapping[str, str]) -> dict[str, str]:
    """With what follows from the rest."""
    project, region = _value("GCP_PROJECT", environment), _value("GCP_REGION", environment)
    return {
        **environment,
        "FUNCTIONS_URL": f"https://{region}-{project}.cloudfunctions.net",
        "HUB_FUNCTIONS": " ".join(name.replace("_", "-") for name in manifest),
    }


def _push_migrations(environment: Mapping[str, str]) -> Command:
    # The vault stays as it is: what this environment calls SUPABASE_URL may well be a local hub.
    url = _value("SUPABASE_DB_URL", environment)
    return Command(
        ["supabase", "db", "push", "--remote", url, "--include-seed", "--skip-vault", "--yes"],
        {"PGSSLMODE": environment.get("PGSSLMODE", "require")},
        {"PGPASSWORD": "SUPABASE_DB_PASSWORD"},
    )


def _deploy(name: str, entry: dict[str, Any], environment: Mapping[str, str]) -> Command:
    secrets = ",".join(f"{secret}={secret}:latest" for secret in _secrets(entry, environment))
    public = ",".join(
        f"{name}={_value(name, environment)}"
        for name in _settings(entry, environment)
        if name in PUBLIC_SETTINGS
    )
    options = {
        "project": _value("GCP_PROJECT", environment),
        "region": _value("GCP_REGION", environment),
        "runtime": "python312",
        "source": str((DIST / name).relative_to(ROOT)),
        "entry-point": name,
        "memory": f"{entry['memory']}Mi",
        # With less than a whole one, an instance may serve one request at a time only.
        "cpu": 1,
        "timeout": f"{entry['timeout']}s",
        "concurrency": entry["concurrency"],
        "min-instances": entry.get("min_instances", 0),
        "max-instances": entry.get("max_instances", MAX_INSTANCES),
    }
    return Command(
        [
            *("gcloud", "functions", "deploy", name.replace("_", "-"), "--gen2", "--quiet"),
            # Every endpoint knows its callers itself, and a database that calls one has no Google account.
            *("--trigger-http", "--allow-unauthenticated"),
            *(word for option, value in options.items() for word in (f"--{option}", str(value))),
            *(("--set-secrets", secrets) if secrets else ("--clear-secrets",)),
            *(("--set-env-vars", public) if public else ("--clear-env-vars",)),
        ]
    )


def _secrets(entry: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    return [name for name in _settings(entry, environment) if name not in PUBLIC_SETTINGS]


def _settings(entry: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """With the optional ones when any of them stands in the environment: one alone would not let it start."""
    optional: list[str] = entry.get("optional_settings", [])
    return [*entry["settings"], *(optional if any(environment.get(name) for name in optional) else [])]


def _value(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or USUAL.get(name) or f"<{name}>"


def _without_password_in_url(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the database's password in SUPABASE_DB_PASSWORD only."""
    url = re.fullmatch(r"(\w+://[^:@/]+):(.*)(@[^@]+)", environment.get("SUPABASE_DB_URL", ""))
    if url is None:
        return dict(environment)
    return {**environment, "SUPABASE_DB_URL": url[1] + url[3], "SUPABASE_DB_PASSWORD": unquote(url[2])}


def _missing(manifest: Manifest, environment: Mapping[str, str]) -> list[str]:
    environment = _completed(manifest, environment)
    used = {name for entry in manifest.values() for name in _settings(entry, environment)} - USUAL.keys()
    public = {name: what for name, what in PUBLIC_SETTINGS.items() if name in used}
    settings = [f"{name}: {what}" for name, what in {**NEEDED, **public}.items() if not environment.get(name)]
    return settings + [f"{name}: {what}" for name, what in PROGRAMS.items() if not shutil.which(name)]


def _missing_account() -> list[str]:
    command = ["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"]
    account = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return [] if account else ["a Google account: gcloud auth login"]


def _say(heading: str, lines: list[str]) -> None:
    if lines:
        print(heading, *(f"  {line}" for line in lines), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
