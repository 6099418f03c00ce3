"""A new site's files: its row as a seed, its function, its test. A file that is there is left as it is."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from deploy.bundle import FUNCTIONS, ROOT

from operate.hub import Refused
from operate.names import plain, quoted, refuse_bad_name, slug_of

SITES = ROOT / "supabase" / "sites"
TESTS = ROOT / "tests"
# The function that a new site's function is copied from.
PATTERN = FUNCTIONS / "ingest_prime"
# private.arrivals leaves this submission out: it is no sign of the site's life.
TEST_EVENT = "test-event"

ROW = """\
-- The site {name}, made by `make new-site`. Its secret is not here: private.new_site_secret makes one.

insert into public.sites (org_id, number, slug, name, url, time_zone, business_hours, phone_region, allowed_origins)
select
  organizations.id, (select coalesce(max(sites.number), 0) + 1 from public.sites where sites.org_id = organizations.id),
  '{slug}', {quoted_name}, '{url}', organizations.time_zone,
  '{{"mon": ["07:30", "17:30"], "tue": ["07:30", "17:30"], "wed": ["07:30", "17:30"], "thu": ["07:30", "17:30"], "fri": ["07:30", "17:30"]}}',
  organizations.phone_region, '{{{origin}}}'
from public.organizations
where organizations.slug = '{organization}'
on conflict on constraint sites_slug_unique do nothing;
"""

TEST = '''\
"""{function}: its form becomes a contact, a lead and an event, once."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.signing import Sender, give_secret, new_secret

SITE = "{slug}"
FORM = (Path(__file__).parents[1] / "fixtures" / f"ingest-{{SITE}}" / "form.json").read_bytes()


@pytest.fixture
def site(hub: Any) -> Sender:
    return give_secret(hub, SITE, "standard", new_secret("standard"))


def test_its_form_becomes_a_contact_a_lead_and_an_event_once(hub: Any, site: Sender) -> None:
    first, again = site.post(FORM), site.post(FORM)

    assert (first.status_code, first.json()["duplicate"]) == (202, False), first.text
    assert again.json() == {{**first.json(), "duplicate": True}}
    event = hub.rows(
        "select type, sites.slug, data -> 'form', subject_type from public.events"
        " join public.sites on sites.id = events.site_id where events.id = %s",
        first.json()["event_id"],
    )
    assert event == [("form.submitted", SITE, json.loads(FORM), "lead")]


def test_another_secret_is_refused(hub: Any) -> None:
    assert Sender(hub, SITE, "standard", new_secret("standard")).post(FORM).status_code == 401
'''


@dataclass(frozen=True)
class NewSite:
    name: str
    url: str
    slug: str

    @classmethod
    def asked_for(cls, environment: Mapping[str, str]) -> "NewSite":
        name = " ".join(environment.get("NAME", "").split())
        url = environment.get("URL", "").strip().rstrip("/")
        if not name or not url:
            raise Refused('Say which site: make new-site NAME="Bob\'s Plumbing" URL=https://bobs.example')
        refuse_bad_name(name)
        parts = _split(url)
        is_local = parts.hostname in ("localhost", "127.0.0.1")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
            raise Refused(f"URL begins with https://, as in https://bobs.example: {url!r} does not.")
        if not parts.hostname or parts.username or not re.fullmatch(r"[\w./:~%-]+", url):
            raise Refused(
                f"URL is the address of the site's start page, as in https://bobs.example, not {url!r}."
            )
        return cls(name, url, slug_of(name, environment))

    @property
    def origin(self) -> str:
        parts = _split(self.url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    @property
    def row(self) -> Path:
        return SITES / f"{self.slug}.sql"

    @property
    def folder(self) -> Path:
        return FUNCTIONS / self.entry_point

    @property
    def test(self) -> Path:
        return TESTS / "intake" / f"test_{self.entry_point}.py"

    @property
    def entry_point(self) -> str:
        return f"ingest_{self.slug.replace('-', '_')}"

    @property
    def function(self) -> str:
        return f"ingest-{self.slug}"

    @property
    def form(self) -> dict[str, str]:
        return {
            "name": "Test Person",
            "email": f"test@{self.slug}.example.com",
            "message": f"A first form of {self.name}, to see that it arrives.",
            "submission_id": TEST_EVENT,
        }


def write_row(site: NewSite, organization: str) -> None:
    site.row.parent.mkdir(exist_ok=True)
    row = ROW.format(
        name=site.name,
        quoted_name=quoted(site.name),
        slug=site.slug,
        url=site.url,
        origin=site.origin,
        organization=organization,
    )
    site.row.write_text(row)


def write_function(site: NewSite) -> bool:
    if (site.folder / "main.py").exists():
        return False
    site.folder.mkdir(exist_ok=True)
    (site.folder / "main.py").write_text(_renamed((PATTERN / "main.py").read_text(), PATTERN.name, site))
    return True


def _renamed(source: str, entry_point: str, site: NewSite) -> str:
    slug = entry_point.removeprefix("ingest_").replace("_", "-")
    first_line = f'"""Record a form of {plain(site.name) or site.slug}: a contact, a lead and an event, in one transaction.'
    source = source.replace(entry_point, site.entry_point).replace(f'"{slug}"', f'"{site.slug}"')
    return re.sub(r'^"""[^"\n]*', lambda _: first_line, source, count=1)


def write_test(site: NewSite) -> bool:
    fixture = TESTS / "fixtures" / site.function / "form.json"
    written = {
        fixture: json.dumps(site.form, indent=2, ensure_ascii=False) + "\n",
        site.test: TEST.format(function=site.function, slug=site.slug),
    }
    missing = [file for file in written if not file.exists()]
    for file in missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(written[file])
    return bool(missing)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Refused(f"URL cannot be read: {url!r}.") from None
    return parts
