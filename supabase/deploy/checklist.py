"""The checklist: things that a hub needs beside its migrations and functions, and that are not there yet.

The platform is asked first. A part that it does not tell of is listed as for a new project, with the reason.
"""

import shlex
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deploy.platform import NotAsked, Nothing

SERVICES = ("cloudfunctions", "run", "cloudbuild", "artifactregistry", "secretmanager", "cloudscheduler")
CLOCK = "sweep"
PSQL = 'psql "$SUPABASE_DB_URL"'

# The commands that make a secret which nobody hands out.
MADE = {"HUB_INVOKE_SECRET": "openssl rand -hex 32"}
MEANS = {"DATABASE_URL": "postgresql://hub_service.<ref>:<password>@<pooler host>:6543/postgres"}


@dataclass(frozen=True)
class Hub:
    """The hub that is deployed; project and region as a shell reads them."""

    project: str
    region: str
    functions_url: str
    secrets: Collection[str]
    # The functions that the database calls.
    called: Collection[str]


@dataclass(frozen=True)
class Step:
    what: str
    commands: tuple[str, ...]
    # Whether the deployment fails without it.
    is_needed: bool = False


@dataclass(frozen=True)
class Part:
    title: str
    steps: list[Step]
    # The reason for which the platform did not say whether the steps are done.
    not_asked: str | None = None

    def __str__(self) -> str:
        title = self.title
        if self.not_asked:
            title += f" (could not be asked: {self.not_asked})"
        lines = [f"  {title}:"]
        for step in self.steps:
            lines += [f"    {step.what}", *(f"      {command}" for command in step.commands)]
        return "\n".join(lines)


def parts(hub: Hub, platform: Nothing) -> list[Part]:
    """The parts with something left to do, or of which nothing is known."""

    def part(entry: tuple[str, Callable[[Hub, Nothing], Iterator[Step]]]) -> Part:
        title, steps = entry
        try:
            return Part(title, list(steps(hub, platform)))
        except NotAsked as reason:
            return Part(title, list(steps(hub, Nothing())), str(reason))

    first, *others = PARTS.items()
    # A service that is not enabled cannot be asked.
    found = [part(first)]
    with ThreadPoolExecutor() as pool:
        found += pool.map(part, others)
    return [it for it in found if it.steps]


def _services(hub: Hub, platform: Nothing) -> Iterator[Step]:
    enabled = platform.services()
    missing = [name for service in SERVICES if (name := f"{service}.googleapis.com") not in enabled]
    if missing:
        yield Step(
            f"Not enabled: {', '.join(missing)}.",
            (f"gcloud services enable {' '.join(missing)} --project {hub.project}",),
            is_needed=True,
        )


def _secrets(hub: Hub, platform: Nothing) -> Iterator[Step]:
    known = platform.secrets()
    for name in sorted(hub.secrets):
        if name in known and platform.has_version(name):
            continue
        what = (
            f"The secret {name} {'has no version that can be read' if name in known else 'does not exist'}."
        )
        first = f"{MADE[name]} | tr -d '\\n' | " if name in MADE else ""
        verb = "versions add" if name in known else "create"
        commands = [f"{first}gcloud secrets {verb} {name} --data-file=- --project {hub.project}"]
        if name in MEANS:
            what += f" It is {MEANS[name]}, with the password of hub_service."
            commands.insert(0, f"{PSQL} -c '\\password hub_service'")
        yield Step(what, tuple(commands), is_needed=True)


def _access(hub: Hub, platform: Nothing) -> Iterator[Step]:
    known, functions = platform.secrets(), platform.functions()
    # A function that has a secret could read it when it was deployed.
    read = {name for function in functions.values() for name in function.secrets}
    accounts = {function.account for function in functions.values() if function.account}
    for name in sorted(set(hub.secrets) - read):
        number = known[name].split("/")[1] if name in known else "<project number>"
        account = next(iter(sorted(accounts)), f"{number}-compute@developer.gserviceaccount.com")
        member = f"serviceAccount:{account}"
        if name in known and member in platform.readers(name):
            continue
        yield Step(
            f"No role of its own or of the project lets the functions' account read {name}.",
            (
                f"gcloud secrets add-iam-policy-binding {name} --project {hub.project}"
                f" --role roles/secretmanager.secretAccessor --member '{member}'",
            ),
        )


def _database(hub: Hub, platform: Nothing) -> Iterator[Step]:
    vault = platform.vault()
    url = vault.get("functions_url")
    if url is None:
        yield Step(
            "The vault has no functions_url.",
            (f"{PSQL} -c \"select vault.create_secret('{hub.functions_url}', 'functions_url')\"",),
        )
    elif url.rstrip("/") != hub.functions_url:
        yield Step(
            f"The vault's functions_url is {url}, and the functions are at {hub.functions_url}.",
            (
                f"{PSQL} -c \"select vault.update_secret(id, '{hub.functions_url}')"
                " from vault.secrets where name = 'functions_url'\"",
            ),
        )
    if "hub_invoke_secret" not in vault:
        yield Step(
            "The vault has no hub_invoke_secret, which is equal to HUB_INVOKE_SECRET.",
            (
                _invoke_secret(hub),
                "echo \"select vault.create_secret(:'secret', 'hub_invoke_secret')\""
                f' | {PSQL} -v secret="$HUB_INVOKE_SECRET"',
            ),
        )
    for site in platform.sites_without_secret():
        yield Step(
            f"The site {site} has no secret; this makes one and shows it once.",
            (f"{PSQL} -c \"select private.new_site_secret('{site}', kind => 'standard')\"",),
        )


def _clock(hub: Hub, platform: Nothing) -> Iterator[Step]:
    where = f"--location {hub.region} --project {hub.project}"
    uri = f"{hub.functions_url}/{CLOCK}"
    job = platform.jobs().get(CLOCK)
    if job is None:
        yield Step(
            f"No job calls {CLOCK} every minute, for when pg_net or pg_cron stands still.",
            (
                _invoke_secret(hub),
                f"gcloud scheduler jobs create http {CLOCK} {where} --schedule '* * * * *' --http-method POST"
                f' --uri {shlex.quote(uri)} --headers "apikey=$HUB_INVOKE_SECRET" --attempt-deadline 60s',
            ),
        )
        return
    known = (job.get("httpTarget") or {}).get("uri")
    if known != uri:
        yield Step(
            f"The job {CLOCK} calls {known}, not {uri}.",
            (f"gcloud scheduler jobs update http {CLOCK} {where} --uri {shlex.quote(uri)}",),
        )
    if job["state"] != "ENABLED":
        yield Step(f"The job {CLOCK} is paused.", (f"gcloud scheduler jobs resume {CLOCK} {where}",))


def _processors(hub: Hub, platform: Nothing) -> Iterator[Step]:
    for name in platform.throttled(hub.called):
        yield Step(
            f"{name} stands still between requests: the database hangs up after two seconds, and a batch may take longer.",
            (
                f"gcloud run services update {name} --no-cpu-throttling --region {hub.region}"
                f" --project {hub.project}",
            ),
        )


def _invoke_secret(hub: Hub) -> str:
    command = f"gcloud secrets versions access latest --secret HUB_INVOKE_SECRET --project {hub.project}"
    return f"HUB_INVOKE_SECRET=$({command})"


PARTS: dict[str, Callable[[Hub, Nothing], Iterator[Step]]] = {
    "Services of Google Cloud": _services,
    "Secret Manager": _secrets,
    "Access to secrets": _access,
    "Database": _database,
    "Cloud Scheduler": _clock,
    "Cloud Run": _processors,
}
