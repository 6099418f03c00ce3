"""Deployment: what is printed is what is run, in order and without a secret in sight, or nothing is."""

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
from support import clis
from support.clis import SECRETS, Platform

ROOT = Path(__file__).parents[2]
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
URL = f"https://{SETTINGS['GCP_REGION']}-{SETTINGS['GCP_PROJECT']}.cloudfunctions.net"
MODEL = {"LLM_API_KEY": "secret", "LLM_BASE_URL": "https://model.example/v1", "LLM_MODEL": "small"}

type Deploy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path, URL)


@pytest.fixture
def environment(platform: Platform) -> dict[str, str]:
    return {
        **SETTINGS,
        "PATH": str(platform.programs),
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


def changes(done: subprocess.CompletedProcess[str], name: str) -> dict[str, list[str]]:
    """What a deployment changes of a function's settings, by the flag."""
    given = next(flags(command) for command in printed(done) if f"deploy {name} " in command)
    return {flag: given[flag].split(",") for flag in given if flag.endswith(("-env-vars", "-secrets"))}


def deployed(platform: Platform, **more: dict[str, str]) -> None:
    """Each function has what it needs from an earlier deployment, and these have more."""
    functions = []
    for name, entry in MANIFEST.items():
        known = dict.fromkeys(entry["settings"], "before") | more.get(name, {})
        secrets = [it for it, value in known.items() if it in SECRETS or value == "secret"]
        variables = {it: value for it, value in known.items() if it not in secrets}
        functions.append(clis.function(name, variables, secrets))
    platform.answer({"functions list": functions})


def test_a_dry_run_prints_migrations_and_then_each_function_of_the_manifest(
    deploy: Deploy, platform: Platform
) -> None:
    done = deploy("--dry-run")

    push, *functions = printed(done)
    assert done.returncode == 0
    assert platform.calls() == []
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
        variables = [given[flag] for flag in ("--update-secrets", "--update-env-vars") if flag in given]
        assert sorted(re.findall(r"(\w+)=", ",".join(variables))) == sorted(entry["settings"])
        assert {"--gen2", "--trigger-http", "--min-instances", "--max-instances"} <= given.keys()


def test_it_runs_what_it_prints(deploy: Deploy, platform: Platform, environment: dict[str, str]) -> None:
    script = "\n".join(printed(deploy("--dry-run")))
    subprocess.run(["/bin/sh", "-e", "-c", script], cwd=ROOT, env=environment, check=True)
    by_hand = platform.calls()
    platform.forget()

    done = deploy()

    assert done.returncode == 0
    assert platform.calls() == by_hand
    assert [call[0] for call in by_hand] == ["supabase", *("gcloud" for _ in MANIFEST)]
    assert by_hand[0][-1] == PASSWORD


@pytest.mark.parametrize(
    "url", [SETTINGS["SUPABASE_DB_URL"], f"postgresql://postgres:{PASSWORD}@db.example.com/postgres"]
)
def test_the_password_is_on_no_command_line_and_in_no_output(
    deploy: Deploy, platform: Platform, url: str
) -> None:
    printed, run = deploy("--dry-run", SUPABASE_DB_URL=url), deploy(SUPABASE_DB_URL=url)

    assert (printed.returncode, run.returncode) == (0, 0)
    assert platform.calls()[0][-1] == PASSWORD
    arguments = [argument for call in platform.calls() for argument in call[:-1]]
    assert not any(
        "ss#word" in text for text in (*arguments, printed.stdout, printed.stderr, run.stdout, run.stderr)
    )


def test_the_services_password_is_set_without_a_statement_that_holds_it(
    deploy: Deploy, platform: Platform
) -> None:
    platform.answer({"secrets list": []})

    printed = deploy("--dry-run").stdout

    assert "\\password hub_service" in printed
    assert not re.search(r"alter role .* password", printed)


@pytest.mark.parametrize(("fails", "reached"), [("push", 1), ("data-monitor", 2)])
def test_the_first_failure_ends_it(deploy: Deploy, platform: Platform, fails: str, reached: int) -> None:
    done = deploy(FAILS=fails)

    assert done.returncode == 3
    assert "Stopped" in done.stderr
    assert len(platform.calls()) == reached


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_setting_is_named_and_nothing_is_run(deploy: Deploy, platform: Platform, name: str) -> None:
    done = deploy(**{name: ""})

    assert done.returncode == 2
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == [name]
    assert platform.calls() == []


@pytest.mark.parametrize("name", ["supabase", "gcloud"])
def test_a_missing_program_is_named_and_nothing_is_run(deploy: Deploy, platform: Platform, name: str) -> None:
    (platform.programs / name).unlink()

    done = deploy()

    assert done.returncode == 2
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == [name]
    assert platform.calls() == []


def test_without_a_google_account_nothing_is_run(deploy: Deploy, platform: Platform) -> None:
    done = deploy(ACCOUNT="")

    assert done.returncode == 2
    assert "gcloud auth login" in done.stderr
    assert platform.calls() == []


def test_a_dry_run_without_credentials_prints_the_commands_and_what_is_missing(deploy: Deploy) -> None:
    done = deploy("--dry-run", **dict.fromkeys(SETTINGS, ""), PATH=os.devnull)

    assert done.returncode == 0
    assert len(printed(done)) == 1 + len(MANIFEST)
    assert all(f"<{name}>" in done.stdout for name in SETTINGS if name != "SUPABASE_DB_PASSWORD")
    assert all(name in done.stderr for name in (*SETTINGS, "supabase", "gcloud"))


# What an earlier deployment set --------------------------------------------------------------------------------------


def test_a_model_goes_along_when_the_environment_names_one(deploy: Deploy) -> None:
    done = deploy("--dry-run", LLM_BASE_URL="https://model.example/v1", LLM_MODEL="small")

    given = changes(done, "lead-qualifier")
    assert given["--update-env-vars"] == ["LLM_BASE_URL=https://model.example/v1", "LLM_MODEL=small"]
    assert "LLM_API_KEY=LLM_API_KEY:latest" in given["--update-secrets"]
    assert "gcloud secrets create LLM_API_KEY" in done.stdout
    assert "LLM_" not in deploy("--dry-run").stdout


def test_a_part_of_a_model_is_not_deployed(deploy: Deploy, platform: Platform) -> None:
    done = deploy(LLM_BASE_URL="https://model.example/v1")

    assert done.returncode == 2
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == ["LLM_MODEL"]
    assert platform.calls() == []


def test_what_an_earlier_deployment_set_is_not_cleared(deploy: Deploy, platform: Platform) -> None:
    deployed(platform, lead_qualifier=MODEL, status=MODEL)

    done = deploy("--dry-run")

    assert all(
        changes(done, name.replace("_", "-")).keys() <= {"--update-env-vars", "--update-secrets"}
        for name in MANIFEST
    )
    assert "--update-env-vars" not in changes(done, "lead-qualifier")
    assert (
        "Set on lead-qualifier, status and not here, so kept: LLM_API_KEY, LLM_BASE_URL, LLM_MODEL."
        in done.stdout
    )
    assert 'make deploy REMOVE="LLM_API_KEY LLM_BASE_URL LLM_MODEL"' in done.stdout


def test_a_setting_with_a_usual_value_keeps_the_one_it_was_given(deploy: Deploy, platform: Platform) -> None:
    first = changes(deploy("--dry-run"), "ingest-prime")
    deployed(platform, ingest_prime={"TRUSTED_PROXIES": "2"})

    again = changes(deploy("--dry-run"), "ingest-prime")
    said = changes(deploy("--dry-run", TRUSTED_PROXIES="3"), "ingest-prime")

    assert first["--update-env-vars"] == ["TRUSTED_PROXIES=1"]
    assert "--update-env-vars" not in again
    assert said["--update-env-vars"] == ["TRUSTED_PROXIES=3"]


def test_a_part_of_what_was_set_may_be_changed(deploy: Deploy, platform: Platform) -> None:
    deployed(platform, lead_qualifier=MODEL, status=MODEL)

    done = deploy("--dry-run", LLM_MODEL="large")

    assert changes(done, "lead-qualifier")["--update-env-vars"] == ["LLM_MODEL=large"]
    assert done.stderr == ""


def test_what_was_set_is_missing_in_no_shell(deploy: Deploy, platform: Platform) -> None:
    deployed(platform)

    done = deploy(SUPABASE_URL="", SUPABASE_PUBLISHABLE_KEY="")

    assert done.returncode == 0, done.stderr


def test_settings_are_removed_on_purpose(deploy: Deploy, platform: Platform) -> None:
    deployed(platform, lead_qualifier=MODEL, status=MODEL, ready={"OLD_ADDRESS": "x", "OLD_KEY": "secret"})

    done = deploy("--dry-run", REMOVE=f"{' '.join(MODEL)} OLD_ADDRESS, OLD_KEY")

    for name in ("lead-qualifier", "status"):
        given = changes(done, name)
        assert given["--remove-env-vars"] == ["LLM_BASE_URL", "LLM_MODEL"]
        assert given["--remove-secrets"] == ["LLM_API_KEY"]
        assert "LLM_" not in str(given.get("--update-secrets")) + str(given.get("--update-env-vars"))
    assert changes(done, "ready")["--remove-env-vars"] == ["OLD_ADDRESS"]
    assert changes(done, "ready")["--remove-secrets"] == ["OLD_KEY"]
    assert not any("remove" in flag for flag in changes(done, "sweep"))


@pytest.mark.parametrize(
    ("remove", "sentence"),
    [
        ("DATABASE_URL", "DATABASE_URL is needed by data-monitor"),
        ("LLM_MODEL", "LLM_API_KEY, LLM_BASE_URL, LLM_MODEL of lead-qualifier go together"),
        ("TYPO", "TYPO is set on no function"),
        (" ".join(MODEL), "LLM_MODEL is set here too"),
    ],
)
def test_what_cannot_be_removed_is_said_and_nothing_is_run(
    deploy: Deploy, platform: Platform, remove: str, sentence: str
) -> None:
    deployed(platform, lead_qualifier=MODEL, status=MODEL)

    done = deploy(REMOVE=remove, LLM_MODEL="small")

    assert done.returncode == 2
    assert sentence in done.stderr
    assert platform.calls() == []


def test_what_is_set_and_read_by_nothing_is_named(deploy: Deploy, platform: Platform) -> None:
    deployed(platform, ready={"OLD_ADDRESS": "x"})

    said = deploy("--dry-run").stdout

    assert "Set on ready and read by nothing there: OLD_ADDRESS." in said
    assert 'make deploy REMOVE="OLD_ADDRESS"' in said
    assert "LOG_EXECUTION_ID" not in said


def test_a_function_that_lacks_what_another_has_is_named(deploy: Deploy, platform: Platform) -> None:
    deployed(platform, lead_qualifier=MODEL)

    assert "status would read them too" in deploy("--dry-run").stdout


def test_nothing_is_deployed_while_nobody_says_what_is_there(deploy: Deploy, platform: Platform) -> None:
    platform.answer({"functions list": "ERROR: (gcloud.functions.list) PERMISSION_DENIED: not yours"})

    done = deploy()

    assert done.returncode == 2
    assert "PERMISSION_DENIED: not yours" in done.stderr
    assert platform.calls() == []


# What is left to do by hand ------------------------------------------------------------------------------------------

VAULT = [{"name": "functions_url", "value": URL}, {"name": "hub_invoke_secret", "value": None}]
LEFT: dict[str, tuple[dict[str, Any], str, str]] = {
    "a service": (
        {"services list --enabled": clis.enabled(clis.APIS[:4])},
        "Not enabled: secretmanager.googleapis.com, cloudscheduler.googleapis.com.",
        "gcloud services enable secretmanager.googleapis.com cloudscheduler.googleapis.com --project",
    ),
    "a secret": (
        {"secrets list": clis.secrets("DATABASE_URL")},
        "The secret HUB_INVOKE_SECRET does not exist.",
        "gcloud secrets create HUB_INVOKE_SECRET --data-file=- --project",
    ),
    "the service's password": (
        {"secrets list": clis.secrets("HUB_INVOKE_SECRET")},
        "The secret DATABASE_URL does not exist.",
        "\\password hub_service",
    ),
    "a version": (
        {"secrets versions list HUB_INVOKE_SECRET": []},
        "The secret HUB_INVOKE_SECRET has no version that can be read.",
        "gcloud secrets versions add HUB_INVOKE_SECRET --data-file=- --project",
    ),
    "a version that is enabled": (
        {"secrets versions list DATABASE_URL": [{"name": "s/versions/3", "state": "DISABLED"}]},
        "The secret DATABASE_URL has no version that can be read.",
        "gcloud secrets versions add DATABASE_URL --data-file=- --project",
    ),
    "access": (
        {"projects get-iam-policy": {"etag": "ACAB"}},
        "the functions' account read DATABASE_URL.",
        f"--role roles/secretmanager.secretAccessor --member 'serviceAccount:{clis.ACCOUNT}'",
    ),
    "the functions' address": (
        {"vault.decrypted_secrets": VAULT[1:]},
        "The vault has no functions_url.",
        "select vault.create_secret('https://",
    ),
    "another address": (
        {"vault.decrypted_secrets": [{"name": "functions_url", "value": "http://127.0.0.1:54321"}, VAULT[1]]},
        "functions_url is http://127.0.0.1:54321, and",
        "select vault.update_secret(id, 'https://",
    ),
    "the secret that calls functions": (
        {"vault.decrypted_secrets": VAULT[:1]},
        "The vault has no hub_invoke_secret",
        "create_secret(:'secret', 'hub_invoke_secret')",
    ),
    "a site's secret": (
        {"public.sites": [{"name": "akf"}]},
        "The site akf has no secret",
        "select private.new_site_secret('akf', kind => 'standard')",
    ),
    "the clock": (
        {"scheduler jobs list": []},
        "No job calls sweep every minute",
        "gcloud scheduler jobs create http sweep --location",
    ),
    "the clock's address": (
        {"scheduler jobs list": [clis.job("https://old.example/sweep")]},
        "The job sweep calls https://old.example/sweep, not",
        "gcloud scheduler jobs update http sweep --location",
    ),
    "a clock that runs": (
        {"scheduler jobs list": [clis.job(f"{URL}/sweep", "PAUSED")]},
        "The job sweep is paused.",
        "gcloud scheduler jobs resume sweep --location",
    ),
    "a processor": (
        {
            "run services list": [
                clis.service("data-monitor"),
                clis.service("pull-site", **{"run.googleapis.com/cpu-throttling": "false"}),
                clis.service("ingest-prime"),
            ]
        },
        "data-monitor stands still between requests",
        "gcloud run services update data-monitor --no-cpu-throttling",
    ),
}


def test_where_all_is_done_nothing_is_named(deploy: Deploy, platform: Platform) -> None:
    said = deploy("--dry-run").stdout
    deployed(platform)
    again = deploy("--dry-run").stdout

    assert "Asked of the platform: nothing is left to do by hand." in said
    assert "Asked of the platform: nothing is left to do by hand." in again
    assert platform.calls() == []


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_is_named_with_the_command_to_type(
    deploy: Deploy, platform: Platform, left: str
) -> None:
    answers, sentence, command = LEFT[left]
    platform.answer(answers)

    said = deploy("--dry-run").stdout.partition("Left to do by hand:")[2]

    assert sentence in said
    assert command in said
    others = [it for name, (_, it, _) in LEFT.items() if name != left]
    # A service that is not enabled has nothing yet, and a secret that is not there nobody may read.
    if left not in ("a service", "a secret", "the service's password"):
        assert not any(it in said for it in others)


@pytest.mark.parametrize("left", ["a service", "a secret", "a version"])
def test_nothing_is_deployed_while_something_is_left_that_it_needs(
    deploy: Deploy, platform: Platform, left: str
) -> None:
    answers, sentence, _ = LEFT[left]
    platform.answer(answers)

    done = deploy()

    assert done.returncode == 2
    assert sentence in done.stderr
    assert platform.calls() == []


def test_what_is_left_is_asked_again_after_a_deployment(deploy: Deploy, platform: Platform) -> None:
    answers, sentence, command = LEFT["a processor"]
    platform.answer(answers)

    done = deploy()

    last = done.stdout.rpartition("gcloud functions deploy")[2]
    assert done.returncode == 0
    assert sentence in last
    assert command in last


def test_what_could_not_be_asked_is_listed_with_the_reason(deploy: Deploy, platform: Platform) -> None:
    platform.answer(
        {
            "vault.decrypted_secrets": "failed to connect to postgres",
            "secrets list": "WARNING: this is old\nERROR: (gcloud.secrets.list) PERMISSION_DENIED",
        }
    )

    said = deploy("--dry-run").stdout

    assert "Database (could not be asked: failed to connect to postgres):" in said
    assert "Secret Manager (could not be asked: (gcloud.secrets.list) PERMISSION_DENIED):" in said
    assert all(word in said for word in ("secrets create DATABASE_URL", "new_site_secret", "functions_url"))
    assert "scheduler" not in said
    assert deploy().returncode == 0


def test_before_the_first_migration_no_site_is_asked_for(deploy: Deploy, platform: Platform) -> None:
    platform.answer({"to_regclass": [{"value": False}], "public.sites": "relation does not exist"})

    assert "The site <site> has no secret" in deploy("--dry-run").stdout


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"PATH": os.devnull}, "gcloud is not installed"),
        ({"ACCOUNT": ""}, "there is no Google account: gcloud auth login"),
        ({"GCP_PROJECT": ""}, "GCP_PROJECT is not set"),
    ],
)
def test_where_nobody_can_be_asked_it_says_so_and_lists_all(
    deploy: Deploy, changed: dict[str, str], reason: str
) -> None:
    said = deploy("--dry-run", **changed).stdout

    assert f"could not be asked: {reason}." in said
    assert 'make deploy REMOVE="NAME …"' in said
    assert all(f"gcloud secrets create {name}" in said for name in SECRETS)
    needed = (
        "functions_url",
        "hub_invoke_secret",
        "hub_service",
        "new_site_secret",
        "jobs create http sweep",
    )
    assert all(word in said for word in needed)
    assert "run services update webhook-sender --no-cpu-throttling" in said
