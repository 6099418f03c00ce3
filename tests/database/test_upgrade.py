"""Upgrade: a hub of the foundation, with users and work in it, gets the later migrations and keeps all of it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator.migrations import migrate
from emulator.scratch import Database, running_server
from support.recorded import submission

PROJECT = Path(__file__).parents[2] / "supabase"
# What the foundation ended with.
LAST = "20261126000000"
VAULT = {"FUNCTIONS_URL": "http://127.0.0.1:9", "HUB_INVOKE_SECRET": "sb_hub_for_nobody"}
AGENT = """
  insert into public.organizations (slug, name, time_zone, locale, phone_region)
    values ('trades', 'Trades', 'Pacific/Auckland', 'en-NZ', 'NZ');
  insert into public.sites (org_id, number, slug, name, url, purpose, connection_method, trigger, time_zone, phone_region)
    select id, 1, 'prime', 'Prime', 'https://prime.example', 'Leads', 'webhook', 'on form submit', time_zone, phone_region
    from public.organizations;
  insert into public.agents (org_id, kind, name) select id, 'lead_qualifier', 'lead-qualifier' from public.organizations;
  insert into public.agent_versions (org_id, agent_id, version, config) select org_id, id, 1, '{"base": 10}' from public.agents;
  select private.publish_version(id, 1) from public.agents;
  insert into public.subscriptions (org_id, name, event_types, target_kind, target, agent_id)
    select org_id, 'lead-qualifier', '{form.submitted}', 'function', 'lead-qualifier', id from public.agents;
"""
KEPT = """
  select 'event', jsonb_build_array(id, type, data, contact_id, subject_id, source, occurred_at, recorded_at) from public.events
  union all select 'identifier', jsonb_build_array(id, contact_id, kind, value) from public.contact_identifiers
  union all select 'contact', jsonb_build_array(id, name) from public.contacts
  union all select 'receipt', jsonb_build_array(source, key, body_sha256, event_id, expires_at) from public.receipts
  union all select 'delivery', jsonb_build_array(id, event_id, status, attempts) from public.deliveries
  union all select 'action', jsonb_build_array(id, event_id, decision, confidence, output) from public.agent_actions
  union all select 'lead', jsonb_build_array(id, contact_id, score) from public.leads
"""
NAMES = {"Jo.Smith@gmail.com": "Jo Smith", "josmith@gmail.com": "Jo Smith", "jo.smith+prime@gmail.com": "Jo"}


class Old:
    """A database of the foundation, in use."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        (folder / "migrations").mkdir()
        shutil.copy(PROJECT / "config.toml", folder)
        for file in sorted((PROJECT / "migrations").glob("*.sql")):
            if file.name[:14] <= LAST:
                shutil.copy(file, folder / "migrations")
        migrate(database.url(), folder, VAULT, lambda _: None)
        database.rows(AGENT)
        [(self.secret,)] = database.rows(
            "select private.set_site_secret('prime', 'a_secret_of_prime_electrical')"
        )

    def submit(self, email: str, key: str, **form: Any) -> dict[str, Any]:
        contact = {"name": NAMES[email], "email": email.lower()}
        [(answer,)] = self.database.rows(
            "select hub.record_submission(%s, %s)",
            self.secret,
            submission({"email": email, **form}, contact, idempotency_key=key),
        )
        return dict(answer)

    def work(self, most: int) -> None:
        """As the qualifier does."""
        [(batch,)] = self.database.rows("select hub.claim_deliveries('lead-qualifier', %s)", most)
        settlements = [
            {
                "id": delivery["id"],
                "lease_token": delivery["lease_token"],
                "outcome": "done",
                "effects": {
                    "action": {
                        "decision": "nurture",
                        "confidence": 0.9,
                        "outcome": "self_resolved",
                        "output": {"score": 42},
                    }
                },
            }
            for delivery in batch
        ]
        self.database.rows("select hub.settle_deliveries(%s)", json.dumps(settlements))

    def upgrade(self, folder: Path) -> None:
        shutil.copy(PROJECT / "config.toml", folder)
        (folder / "migrations").symlink_to(PROJECT / "migrations")
        migrate(self.database.url(), folder, VAULT, lambda _: None)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Old]:
    folder = tmp_path / "old"
    folder.mkdir()
    # Roles are a server's: one that another test left would be somebody else's.
    with running_server() as server:
        yield Old(server.fresh_database(), folder)


def test_everything_of_before_is_still_there_and_known(old: Old, tmp_path: Path) -> None:
    answers = {email: old.submit(email, f"key-{email}") for email in NAMES}
    old.work(2)
    before = old.database.rows(KEPT)
    assert {kind for kind, _ in before} == set(re.findall(r"select '(\w+)'", KEPT))
    new = tmp_path / "new"
    new.mkdir()

    old.upgrade(new)

    kept = old.database.rows(KEPT)
    assert [row for row in before if row not in kept] == []
    # The same key and body is still the same request, and another body is still another one.
    assert {email: old.submit(email, f"key-{email}") for email in NAMES} == {
        email: {**answer, "duplicate": True} for email, answer in answers.items()
    }
    old.work(10)
    assert old.database.rows("select status, count(*) from public.deliveries group by 1") == [("done", 3)]
