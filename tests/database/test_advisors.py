"""What the linters of the database say: nothing that is not answered by a reason in .pgrls.toml or here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emulator.state import State
from support.hubs import Hub

ROOT = Path(__file__).parents[2]
# A new database has used hardly an index yet.
ANSWERED = {"unused_index"}


def test_pgrls_finds_no_policy_wanting(hub: Hub) -> None:
    pgrls = Path(sys.executable).with_name("pgrls")
    url = State(hub.state).database_url("supabase_admin")

    found = subprocess.run(
        [pgrls, "lint", "--config", ROOT / ".pgrls.toml", "--database-url", url],
        capture_output=True,
        text=True,
    )

    assert found.returncode == 0, found.stdout + found.stderr


def test_supabases_advisors_find_nothing(hub: Hub, tmp_path: Path) -> None:
    supabase = shutil.which("supabase")
    if supabase is None:
        pytest.skip("no Supabase CLI: `npm install --global supabase@3.1.0` brings it")

    printed = subprocess.run(
        [
            supabase,
            "db",
            "advisors",
            "--remote",
            hub.env["ADMIN_DATABASE_URL"],
            "--level",
            "info",
            "--output-format",
            "json",
        ],
        cwd=tmp_path,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "SUPABASE_TELEMETRY_DISABLED": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    findings = [(each["name"], each["detail"]) for each in json.loads(printed)["results"]]
    assert [finding for finding in findings if finding[0] not in ANSWERED] == []
