"""Deployment: what is printed is what is run, in order and without a secret in sight, or nothing is."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MANIFEST = tomllib.loads((ROOT / "functions" / "manifest.toml").read_text())
PASSWORD = "p@ss#word/with:every'thing"
SETTINGS = {
    "GCP_PROJECT": "a project; with 'quotes'",
    "GCP_REGION": "australia-southeast1",
    "SUPABASE_DB_URL": "postgresql://postgres.abc@pooler.example.com:5432/postgres",
    "SUPABASE_DB_PASSWORD": PASSWORD,
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_abc",
}
# Stands in for a CLI: writes down how it was called, answers `auth list`, and fails when it is told to.
PROGRAM = """#!{python}
import json, os, sys
name = os.path.basename(sys.argv[0])
if sys.argv[1:3] == ["auth", "list"]:
    print(os.environ.get("ACCOUNT", ""))
    sys.exit()
with open({calls!r}, "a") as calls:
    print(json.dumps([name, *sys.argv[1:], os.environ.get("PGPASSWORD")]), file=calls)
sys.exit(3 if os.environ.get("FAILS") in sys.argv else 0)
"""

type Deploy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[list[str]]]:
    """How the CLIs were called, in order; last in each is the database's password as it came along."""
    path = tmp_path / "calls"
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("supabase", "gcloud"):
        (folder / name).write_text(PROGRAM.format(python=sys.executable, calls=str(tmp_path / "calls")))
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def environment(programs: Path) -> dict[str, str]:
    return {
        **SETTINGS,
        "PATH": str(programs),
        "PYTHONPATH": str(ROOT / "supabase"),
        "ACCOUNT": "me@example.com",
    }


@pytest.fixture
def deploy(environment: dict[str, str]) -> Deploy:
    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.plan", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env={**environment, **changed}, capture_output=True, text=True
        )

    return run


def printed(dry_run: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^.*(?:supabase db push|gcloud functions deploy).*$", dry_run.stdout, re.MULTILINE)


def flags(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return {word: value for word, value in zip(words, [*words[1:], ""], strict=True) if word[:2] == "--"}


def test_a_dry_run_prints_migrations_and_then_each_function_of_the_manifest(
    deploy: Deploy, calls: Any
) -> None:
    done = deploy("--dry-run")

    push, *functions = printed(done)
    assert done.returncode == 0
    assert calls() == []
    assert flags(push)["--remote"] == SETTINGS["SUPABASE_DB_URL"]
    for (name, entry), command in zip(MANIFEST.items(), functions, strict=True):
        assert shlex.split(command)[:4] == ["gcloud", "functions", "deploy", name.replace("_", "-")]
        given = flags(command)
        assert given["--entry-point"] == name
        assert given["--source"] == f"dist/{name}"
        assert given["--project"] == SETTINGS["GCP_PROJECT"]
        assert given["--region"] == SETTINGS["GCP_REGION"]
        assert given["--memory"] == f"{entry['memory']}Mi"
        assert given["--timeout"] == f"{entry['timeout']}s"
        assert given["--concurrency"] == str(entry["concurrency"])
        variables = [given[flag] for flag in ("--set-secrets", "--set-env-vars") if flag in given]
        assert sorted(re.findall(r"(\w+)=", ",".join(variables))) == sorted(entry["settings"])
        assert {"--gen2", "--trigger-http", "--min-instances", "--max-instances"} <= given.keys()


def test_what_must_be_set_once_is_listed(deploy: Deploy) -> None:
    listed = deploy("--dry-run").stdout

    assert all(name in listed for entry in MANIFEST.values() for name in entry["settings"])
    assert all(
        name in listed for name in ("functions_url", "hub_invoke_secret", "hub_service", "set_site_secret")
    )


def test_a_model_goes_along_when_the_environment_names_one(deploy: Deploy) -> None:
    done = deploy("--dry-run", LLM_BASE_URL="https://model.example/v1", LLM_MODEL="small")

    given = next(flags(command) for command in printed(done) if "lead-qualifier" in command)
    assert given["--set-env-vars"] == "LLM_BASE_URL=https://model.example/v1,LLM_MODEL=small"
    assert "LLM_API_KEY=LLM_API_KEY:latest" in given["--set-secrets"].split(",")
    assert "gcloud secrets create LLM_API_KEY" in done.stdout
    assert "LLM_" not in deploy("--dry-run").stdout


def test_a_part_of_a_model_is_not_deployed(deploy: Deploy, calls: Any) -> None:
    done = deploy(LLM_BASE_URL="https://model.example/v1")

    assert done.returncode == 2
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == ["LLM_MODEL"]
    assert calls() == []


def test_it_runs_what_it_prints(
    deploy: Deploy, calls: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    script = "\n".join(printed(deploy("--dry-run")))
    subprocess.run(["/bin/sh", "-e", "-c", script], cwd=ROOT, env=environment, check=True)
    by_hand = calls()
    (tmp_path / "calls").unlink()

    done = deploy()

    assert done.returncode == 0
    assert calls() == by_hand
    assert [call[0] for call in by_hand] == ["supabase", *("gcloud" for _ in MANIFEST)]
    assert by_hand[0][-1] == PASSWORD


@pytest.mark.parametrize(
    "url", [SETTINGS["SUPABASE_DB_URL"], f"postgresql://postgres:{PASSWORD}@db.example.com/postgres"]
)
def test_the_password_is_on_no_command_line_and_in_no_output(deploy: Deploy, calls: Any, url: str) -> None:
    printed, run = deploy("--dry-run", SUPABASE_DB_URL=url), deploy(SUPABASE_DB_URL=url)

    assert (printed.returncode, run.returncode) == (0, 0)
    assert calls()[0][-1] == PASSWORD
    arguments = [argument for call in calls() for argument in call[:-1]]
    assert not any(
        "ss#word" in text for text in (*arguments, printed.stdout, printed.stderr, run.stdout, run.stderr)
    )


def test_the_services_password_is_set_without_a_statement_that_holds_it(deploy: Deploy) -> None:
    printed = deploy("--dry-run").stdout

    assert "\\password hub_service" in printed
    assert not re.search(r"alter role .* password", printed)


@pytest.mark.parametrize(("fails", "reached"), [("push", 1), ("ingest-prime", 2)])
def test_the_first_failure_ends_it(deploy: Deploy, calls: Any, fails: str, reached: int) -> None:
    done = deploy(FAILS=fails)

    assert done.returncode == 3
    assert "Stopped" in done.stderr
    assert len(calls()) == reached


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_setting_is_named_and_nothing_is_run(deploy: Deploy, calls: Any, name: str) -> None:
    done = deploy(**{name: ""})

    assert done.returncode == 2
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == [name]
    assert calls() == []


@pytest.mark.parametrize("name", ["supabase", "gcloud"])
def test_a_missing_program_is_named_and_nothing_is_run(
    deploy: Deploy, calls: Any, programs: Path, name: str
) -> None:
    (programs / name).unlink()

    done = deploy()

    assert done.returncode == 2
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == [name]
    assert calls() == []


def test_without_a_google_account_nothing_is_run(deploy: Deploy, calls: Any) -> None:
    done = deploy(ACCOUNT="")

    assert done.returncode == 2
    assert "gcloud auth login" in done.stderr
    assert calls() == []


def test_a_dry_run_without_credentials_prints_the_commands_and_what_is_missing(deploy: Deploy) -> None:
    done = deploy("--dry-run", **dict.fromkeys(SETTINGS, ""), PATH=os.devnull)

    assert done.returncode == 0
    assert len(printed(done)) == 1 + len(MANIFEST)
    assert all(f"<{name}>" in done.stdout for name in SETTINGS if name != "SUPABASE_DB_PASSWORD")
    assert all(name in done.stderr for name in (*SETTINGS, "supabase", "gcloud"))
