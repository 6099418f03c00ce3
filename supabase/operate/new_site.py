"""Connect a site: python -m operate.new_site, with NAME and URL in the environment.

    NAME="Bob's Plumbing" URL=https://bobs.example python -m operate.new_site --state .state

Makes the site's row and secret, its function with a manifest entry and a test, and sends a test form through the
function; a part that is there already is left as it is. Then it prints the text to paste into the site.

The hub is the one that runs on the state folder, or a project: ADMIN_DATABASE_URL, and FUNCTIONS_URL or GCP_REGION and
GCP_PROJECT. The row stands in supabase/sites/<slug>.sql, a seed: every hub and project of this repository gets it at
its next deployment, and the command also writes it at once.
"""

import base64
import hashlib
import json
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from deploy import manifest
from emulator.state import secret_name, write_private

from operate import scaffold
from operate.hub import Refused, read
from operate.scaffold import TEST_EVENT, NewSite
from operate.snippets import Connection
from operate.target import Database, Target, organization, report, run, shown
from shared import standard_webhooks

SERVED_WITHIN = 20.0


def main() -> int:
    return run("new_site", NewSite.asked_for, connect)


def connect(site: NewSite, hub: Target) -> None:
    connection = Connection(hub.functions_url, site.slug, f"<{secret_name(site.slug)}>")
    print(f"\n  {site.name}: {connection.url}\n")
    with hub.connect() as database:
        _refuse_another(site, database)
        report("row", shown(site.row), add_row(site, database))
        secret, where, is_new = add_secret(site, hub, database)
        report("secret", where, is_new)
        report("function", shown(site.folder), scaffold.write_function(site))
        report("manifest", shown(manifest.MANIFEST), manifest.MANIFEST in _make_manifest())
        report("test", shown(site.test), scaffold.write_test(site))
        if secret is not None:
            connection = Connection(hub.functions_url, site.slug, secret)
        try:
            event, is_new = send_test_event(site, connection, database)
            report("test event", event, is_new)
            if _has_no_services(site, database):
                print(
                    f"\nThe lead qualifier knows no services of {site.slug} yet, and judges its forms by urgency, budget"
                    f" and completeness alone. rpc/create_version gives it some, under rules.services.{site.slug}."
                )
        finally:
            print(f"\n{connection.paste(site.form)}\n")


def _refuse_another(site: NewSite, database: Database) -> None:
    known = database.execute("select name, url from public.sites where slug = %s", [site.slug]).fetchone()
    if known is not None and known != (site.name, site.url):
        raise Refused(
            f"There is a site {site.slug} already: {known[0]} at {known[1]}."
            " Choose another NAME, or add SLUG=… for a name of its own."
        )


# The steps ----------------------------------------------------------------------------------------------------------


def add_row(site: NewSite, database: Database) -> bool:
    if _has_row(site, database):
        return False
    if not site.row.exists():
        scaffold.write_row(site, organization(database, "site"))
    database.execute(site.row.read_bytes())
    if not _has_row(site, database):
        raise Refused(f"{shown(site.row)} made no row: is its organization here?")
    return True


def _has_no_services(site: NewSite, database: Database) -> bool:
    query = (
        "select from public.sites join public.agents on agents.org_id = sites.org_id and agents.kind = 'lead_qualifier'"
        " join public.agent_versions on agent_id = agents.id and agent_versions.status = 'published'"
        " where sites.slug = %s and not coalesce(config #> '{rules,services}' ? sites.slug, false)"
    )
    return database.execute(query, [site.slug]).fetchone() is not None


def _has_row(site: NewSite, database: Database) -> bool:
    return database.execute("select from public.sites where slug = %s", [site.slug]).fetchone() is not None


def add_secret(site: NewSite, hub: Target, database: Database) -> tuple[str | None, str, bool]:
    """The secret, the place where it is kept, and whether it was given to the site now."""
    name = secret_name(site.slug)
    known = _known_secret(site, hub)
    if known is not None and not known.startswith(standard_webhooks.PREFIX):
        raise Refused(
            f"{name} signs nothing: a signing secret is whsec_… (private.new_site_secret makes one)."
        )
    digests = _digests(site, database)
    if known is None and digests:
        return (
            None,
            f"set {name} to have it printed below; private.new_site_secret gives the site another",
            False,
        )
    secret = known or _new_secret()
    # The secret is kept before it is valid: one that nobody has would be worse than one that nobody accepts yet.
    where = _keep_secret(hub, site, secret, is_known=known is not None)
    is_new = hashlib.sha256(secret.encode()).digest() not in digests
    if is_new:
        database.execute("select private.set_site_secret(%s, %s)", [site.slug, secret])
    return secret, where, is_new


def _known_secret(site: NewSite, hub: Target) -> str | None:
    if hub.state is not None:
        return hub.state.keys.site_secrets.get(site.slug)
    return hub.environment.get(secret_name(site.slug)) or None


def _new_secret() -> str:
    """A Standard Webhooks secret. Its key is text, since n8n signs with nothing else."""
    return standard_webhooks.PREFIX + base64.b64encode(secrets.token_hex(24).encode()).decode()


def _digests(site: NewSite, database: Database) -> set[bytes]:
    rows = database.execute(
        "select site_secrets.sha256 from private.site_secrets join public.sites on sites.id = site_secrets.site_id"
        " where sites.slug = %s and site_secrets.kind <> 'page' and coalesce(site_secrets.valid_to, 'infinity') > now()",
        [site.slug],
    )
    return {digest for (digest,) in rows}


def _keep_secret(hub: Target, site: NewSite, secret: str, is_known: bool) -> str:
    name = secret_name(site.slug)
    if hub.state is None:
        return name if is_known else f"{name}={secret} (keep it now: it is not shown again)"
    if not is_known:
        hub.state.add_site_secret(site.slug, secret)
    if name not in read(hub.state.environment):
        written = hub.state.environment.read_text()
        write_private(hub.state.environment, f"{written}{name}={shlex.quote(secret)}\n")
    return f"{name} in {hub.state.environment}"


def _make_manifest() -> list[Path]:
    try:
        return manifest.write()
    except manifest.Undeclared as problem:
        raise Refused(str(problem)) from problem


def send_test_event(site: NewSite, connection: Connection, database: Database) -> tuple[str, bool]:
    known = database.execute(
        "select events.id from public.events join public.sites on sites.org_id = events.org_id and sites.id = events.site_id"
        " where sites.slug = %s and events.data #>> '{form,submission_id}' = %s limit 1",
        [site.slug, TEST_EVENT],
    ).fetchone()
    if known is not None:
        return str(known[0]), False
    return str(_served(connection, site.form)["event_id"]), True


def _served(connection: Connection, form: dict[str, str]) -> dict[str, Any]:
    """The answer of the function, once it is served: a gateway finds a new function by itself."""
    deadline = time.monotonic() + SERVED_WITHIN
    body = json.dumps(form)
    said = ""
    while time.monotonic() < deadline:
        try:
            headers = {**connection.signed(TEST_EVENT, body), "content-type": "application/json"}
            answer = httpx.post(connection.url, content=body, headers=headers, timeout=10)
        except httpx.HTTPError as error:
            said = type(error).__name__
        else:
            if answer.status_code == 202:
                return dict(answer.json())
            said = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(0.2)
    raise Refused(
        f"{connection.url} did not accept a test form: {said}\n"
        "On a project, `make deploy` brings the function there. Then run this again."
    )


if __name__ == "__main__":
    sys.exit(main())
