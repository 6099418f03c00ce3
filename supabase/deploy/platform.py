"""The platform: gcloud and supabase are asked, by commands that only read, for the parts that are there already.

An answer that does not come is NotAsked, with the reason in the CLI's words. `Nothing` answers as a new project does.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

PATIENCE_SECONDS = 60
READERS = ("roles/secretmanager.secretAccessor", "roles/secretmanager.admin", "roles/owner")

_VAULT = """\
select name, case name when 'functions_url' then decrypted_secret end as value from vault.decrypted_secrets
where name in ('functions_url', 'hub_invoke_secret')"""
_IS_MIGRATED = "select to_regclass('private.site_secrets') is not null as value"
_SITES = """\
select slug as name from public.sites where enabled and not exists (
  select from private.site_secrets where site_secrets.site_id = sites.id and site_secrets.kind <> 'page'
  and coalesce(site_secrets.valid_to, 'infinity') > now()) order by slug"""


class NotAsked(Exception):
    """The platform did not answer; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Deployed:
    """A function as it runs now: its settings, the names of its secrets, and its service account."""

    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    account: str = ""

    @property
    def names(self) -> list[str]:
        return [*self.variables, *sorted(self.secrets)]

    def __contains__(self, name: str) -> bool:
        return name in self.variables or name in self.secrets


class Nothing:
    """A project and a database where nothing was done yet."""

    def services(self) -> set[str]:
        return set()

    def functions(self) -> dict[str, Deployed]:
        return {}

    def secrets(self) -> dict[str, str]:
        """Each secret with its resource name."""
        return {}

    def has_version(self, secret: str) -> bool:
        """Whether the secret's newest version can be read."""
        return False

    def readers(self, secret: str) -> set[str]:
        return set()

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {}

    def throttled(self, functions: Collection[str]) -> list[str]:
        """The functions that have a processor only while they serve a request."""
        return list(functions)

    def vault(self) -> dict[str, str | None]:
        """The two secrets by which the database calls functions, with the value of the URL, which is no secret."""
        return {}

    def sites_without_secret(self) -> list[str]:
        return ["<site>"]


class Platform(Nothing):
    def __init__(self, environment: Mapping[str, str], database: Mapping[str, str]) -> None:
        self._environment = environment
        self._database = database
        self._enabled: set[str] | None = None
        for name in ("GCP_PROJECT", "GCP_REGION"):
            if not environment.get(name):
                raise NotAsked(f"{name} is not set")
        if not shutil.which("gcloud"):
            raise NotAsked("gcloud is not installed")
        command = ("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
        if not self._run(command, {}).strip():
            raise NotAsked("there is no Google account: gcloud auth login")

    def services(self) -> set[str]:
        if self._enabled is None:
            listed = self._gcloud("services", "list", "--enabled", fields="config.name")
            self._enabled = {it["config"]["name"] for it in listed}
        return self._enabled

    def functions(self) -> dict[str, Deployed]:
        listed = self._listed(
            "cloudfunctions",
            *("functions", "list", "--v2", f"--regions={self._region}"),
            fields="name,serviceConfig.environmentVariables,serviceConfig.secretEnvironmentVariables,"
            "serviceConfig.serviceAccountEmail",
        )
        return {_last(it["name"]): _deployed(it.get("serviceConfig") or {}) for it in listed}

    def secrets(self) -> dict[str, str]:
        listed = self._listed("secretmanager", "secrets", "list", fields="name")
        return {_last(it["name"]): it["name"] for it in listed}

    def has_version(self, secret: str) -> bool:
        # Functions take the newest, whatever its state; the newest comes first.
        newest = self._gcloud("secrets", "versions", "list", secret, "--limit=1", fields="name,state")
        return any(it["state"] == "ENABLED" for it in newest)

    def readers(self, secret: str) -> set[str]:
        policies = (
            self._gcloud("secrets", "get-iam-policy", secret),
            self._gcloud("projects", "get-iam-policy", self._project, project=False),
        )
        return {
            member
            for policy in policies
            for binding in policy.get("bindings") or []
            if binding["role"] in READERS
            for member in binding["members"]
        }

    def jobs(self) -> dict[str, dict[str, Any]]:
        # Not its headers: they hold a secret.
        listed = self._listed(
            "cloudscheduler",
            *("scheduler", "jobs", "list", f"--location={self._region}"),
            fields="name,state,httpTarget.uri",
        )
        return {_last(it["name"]): it for it in listed}

    def throttled(self, functions: Collection[str]) -> list[str]:
        listed = self._listed(
            "run",
            *("run", "services", "list", f"--region={self._region}"),
            fields="metadata.name,spec.template.metadata.annotations",
        )
        found = (it["metadata"]["name"] for it in listed if not _has_processor(it))
        return sorted(set(found).intersection(functions))

    def vault(self) -> dict[str, str | None]:
        return {it["name"]: it["value"] for it in self._query(_VAULT)}

    def sites_without_secret(self) -> list[str]:
        if not self._query(_IS_MIGRATED)[0]["value"]:
            return super().sites_without_secret()
        return [it["name"] for it in self._query(_SITES)]

    @property
    def _project(self) -> str:
        return self._environment["GCP_PROJECT"]

    @property
    def _region(self) -> str:
        return self._environment["GCP_REGION"]

    def _listed(self, service: str, *arguments: str, fields: str) -> Any:
        """The list of a service; empty when it is not enabled, since gcloud cannot ask it then."""
        if self._enabled is not None and f"{service}.googleapis.com" not in self._enabled:
            return []
        return self._gcloud(*arguments, fields=fields)

    def _gcloud(self, *arguments: str, fields: str = "", project: bool = True) -> Any:
        whose = ("--project", self._project) if project else ()
        # Asked about a service that is not enabled, gcloud would offer to enable it.
        silence = {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "CLOUDSDK_CORE_SHOULD_PROMPT_TO_ENABLE_API": "false"}
        shape = f"json({fields})" if fields else "json"
        return _json(self._run(("gcloud", *arguments, *whose, f"--format={shape}"), silence))

    def _query(self, sql: str) -> Any:
        url = self._environment.get("SUPABASE_DB_URL")
        if not url:
            raise NotAsked("SUPABASE_DB_URL is not set")
        if not shutil.which("supabase"):
            raise NotAsked("supabase is not installed")
        command = ("supabase", "db", "query", "--remote", url, "--read-only", "--output-format", "json", sql)
        return _json(self._run(command, self._database))

    def _run(self, command: tuple[str, ...], more: Mapping[str, str]) -> str:
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **more},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise NotAsked(f"{command[0]} did not answer within {PATIENCE_SECONDS} s") from None
        if done.returncode:
            raise NotAsked(_reason(done))
        return done.stdout


def _deployed(service: dict[str, Any]) -> Deployed:
    return Deployed(
        service.get("environmentVariables") or {},
        frozenset(it["key"] for it in service.get("secretEnvironmentVariables") or []),
        service.get("serviceAccountEmail") or "",
    )


def _has_processor(service: dict[str, Any]) -> bool:
    template = service.get("spec", {}).get("template", {}).get("metadata", {})
    annotations = template.get("annotations") or {}
    return bool(annotations.get("run.googleapis.com/cpu-throttling") == "false")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise NotAsked("the answer is no JSON") from None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The error of the CLI, on one line: supabase says it in JSON."""
    try:
        said = str(json.loads(done.stdout)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = done.stderr
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # gcloud may warn of something else first.
    wrong = [line for line in lines if line.startswith("ERROR")] or lines
    return wrong[0].removeprefix("ERROR: ") if wrong else f"it failed with status {done.returncode}"
