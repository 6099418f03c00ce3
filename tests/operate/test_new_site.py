"""`make new-site`: a site is connected by one command, in a copy of the repository, and a second run changes nothing."""

import base64
import hmac
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clones import Clone, running_clone, steps
from support.hubs import start_hub, web

STEPS = ["row", "secret", "function", "manifest", "test", "test event"]
BOBS = {"NAME": "Bob's Plumbing & Sons", "URL": "https://bobs.example"}
SLUG = "bobs-plumbing-and-sons"


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    with running_clone() as clone:
        yield clone


def new_site(clone: Clone, **variables: str) -> subprocess.CompletedProcess[str]:
    return clone.operate("new_site", **variables)


@pytest.fixture(scope="module")
def connected(clone: Clone) -> tuple[Clone, str]:
    """A clone with a site that was connected in it, and what was printed."""
    done = new_site(clone, **BOBS)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone, done.stdout


def test_every_step_is_done_and_the_test_form_is_an_event(connected: tuple[Clone, str]) -> None:
    clone, printed = connected

    assert steps(printed) == dict.fromkeys(STEPS, "done")
    assert f"knows no services of {SLUG} yet" in printed
    assert clone.hub.rows(
        "select sites.name, sites.url, allowed_origins, events.type, contacts.name from public.events"
        " join public.sites on sites.id = events.site_id join public.contacts on contacts.id = events.contact_id"
        " where sites.slug = %s and cause_id is null",
        SLUG,
    ) == [(BOBS["NAME"], BOBS["URL"], [BOBS["URL"]], "form.submitted", "Test Person")]


def test_its_own_test_form_begins_no_silence(clone: Clone) -> None:
    assert new_site(clone, NAME="Just Made", URL="https://made.example").returncode == 0

    made = clone.hub.rows(
        "select made.business_hours = prime.business_hours, silence.last_arrival, silence.is_silent"
        " from public.sites as made cross join lateral private.site_silence(made, now() + interval '14 days') as silence"
        " join public.sites as prime on prime.slug = 'prime' where made.slug = 'just-made'"
    )
    assert made == [(True, None, False)]


def test_a_second_run_skips_every_step_and_changes_nothing(connected: tuple[Clone, str]) -> None:
    clone, _ = connected
    tables = ("sites", "receipts", "contacts", "leads")
    counts = [clone.hub.rows(f"select count(*) from public.{table}") for table in tables]
    files, environment = clone.files(), (clone.hub.state / "hub.env").read_text()

    again = new_site(clone, **BOBS)

    assert again.returncode == 0
    assert steps(again.stdout) == dict.fromkeys(STEPS, "skipped")
    assert clone.files() == files
    assert (clone.hub.state / "hub.env").read_text() == environment
    assert [clone.hub.rows(f"select count(*) from public.{table}") for table in tables] == counts


def test_the_printed_curl_signs_and_is_accepted(connected: tuple[Clone, str]) -> None:
    clone, printed = connected
    script = re.search(r"^secret=.*?^curl .*?(?<!\\)$", printed, re.MULTILINE | re.DOTALL)
    assert script is not None

    answered = subprocess.run(["sh", "-euc", script[0]], capture_output=True, text=True)

    assert "202 Accepted" in answered.stdout, answered.stdout + answered.stderr
    unsigned = re.sub(r'-H "webhook-signature[^"]*"', "", script[0])
    assert (
        "401 Unauthorized" in subprocess.run(["sh", "-euc", unsigned], capture_output=True, text=True).stdout
    )
    assert clone.hub.rows(
        "select kind::text from private.site_secrets join public.sites on sites.id = site_id"
        " where slug = %s order by 1",
        SLUG,
    ) == [("page",), ("standard",)]


def evaluated(expression: str, fields: dict[str, Any]) -> str:
    """As n8n would: `=` begins an expression, whose braces hold one of these."""
    known = {
        "$workflow.id": "w1",
        "$execution.id": "7",
        "$itemIndex": "0",
        "String(Math.floor(Date.now() / 1000))": str(int(time.time())),
        "JSON.stringify($json)": json.dumps(fields, separators=(",", ":"), ensure_ascii=False),
        **{f"$json.{name}": str(value) for name, value in fields.items()},
    }
    if not expression.startswith("="):
        return expression
    return re.sub(r"{{ (.*?) }}", lambda found: known[found[1]], expression[1:])


def test_the_printed_n8n_nodes_sign_and_send_what_is_accepted(connected: tuple[Clone, str]) -> None:
    clone, printed = connected
    flow = json.loads(printed[printed.index('{\n  "nodes"') :])
    message, signature, request = (node["parameters"] for node in flow["nodes"])
    form = {"email": "n8n@example.com", "name": "Zoë"}

    item = {each["name"]: evaluated(each["value"], form) for each in message["assignments"]["assignments"]}
    signed = evaluated(signature["value"], item).encode()
    mac = hmac.digest(signature["secret"].encode(), signed, signature["type"].lower())
    item[signature["dataPropertyName"]] = base64.b64encode(mac).decode()
    headers = {
        each["name"]: evaluated(each["value"], item) for each in request["headerParameters"]["parameters"]
    }
    answer = web.request(
        request["method"],
        request["url"],
        content=evaluated(request["body"], item).encode(),
        headers={**headers, "content-type": request["rawContentType"]},
    )

    assert answer.status_code == 202, answer.text
    event = clone.hub.rows(
        "select data -> 'form' from public.events where id = %s", answer.json()["event_id"]
    )
    assert event == [(form,)]
    names = [node["name"] for node in flow["nodes"]]
    chain = {name: links["main"][0][0]["node"] for name, links in flow["connections"].items()}
    assert chain == dict(itertools.pairwise(names))


def test_the_printed_page_posts_with_a_token_and_holds_no_secret(connected: tuple[Clone, str]) -> None:
    clone, printed = connected
    page = printed[printed.index("<form") : printed.index("</script>")]
    origin = {"origin": BOBS["URL"]}
    hub = re.search(r'const hub = "([^"]+)"', page)
    paths = re.findall(r"fetch\(`\$\{hub\}(/[^`]+)`", page)
    sent = re.search(r"headers: \{(.*?)\},$", page, re.MULTILINE)
    assert hub is not None
    assert sent is not None

    names = re.findall(r'"([A-Z][\w-]+)":', sent[1])
    preflight = web.options(
        hub[1] + paths[1],
        headers={
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": ",".join(names),
        },
    )
    token = web.get(hub[1] + paths[0], headers=origin)
    values = {
        "Content-Type": "application/json",
        "X-Page-Token": token.json()["token"],
        "Idempotency-Key": "k1",
    }
    form = {"name": "Pat", "email": "pat@example.com", "company_website": ""}
    answer = web.post(
        hub[1] + paths[1], json=form, headers={**origin, **{name: values[name] for name in names}}
    )

    assert "whsec_" not in page
    assert preflight.headers["access-control-allow-origin"] == BOBS["URL"]
    assert {name.lower() for name in names} <= set(
        preflight.headers["access-control-allow-headers"].split(", ")
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["access-control-allow-origin"] == BOBS["URL"]
    assert clone.hub.rows("select type from public.events where id = %s", answer.json()["event_id"]) == [
        ("form.submitted",)
    ]


def test_the_secret_stands_in_hub_env_and_survives_a_restart(connected: tuple[Clone, str]) -> None:
    clone, _ = connected
    name = "BOBS_PLUMBING_AND_SONS_WEBHOOK_SECRET"
    before = (clone.hub.state / "hub.env").read_text()
    sourced = subprocess.run(
        ["sh", "-euc", f'. "{clone.hub.state}/hub.env"; printf %s "${name}"'], capture_output=True, text=True
    )

    clone.hub.stop()
    restarted = start_hub(clone.hub.state, root=clone.root)
    clone.hub.process, clone.hub.env = restarted.process, restarted.env

    assert sourced.stdout.startswith("whsec_")
    assert restarted.env[name] == sourced.stdout
    assert name in before
    assert steps(new_site(clone, **BOBS).stdout) == dict.fromkeys(STEPS, "skipped")


@pytest.mark.timeout(300)
def test_what_was_made_passes_the_checks_and_its_own_test(connected: tuple[Clone, str]) -> None:
    clone, _ = connected
    own = "tests/intake/test_ingest_bobs_plumbing_and_sons.py"

    runs = [
        clone.run("ruff", "check", "--no-cache"),
        clone.run("ruff", "format", "--check", "--no-cache"),
        clone.run(
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            own,
            "tests/deploy/test_manifest.py::test_make_manifest_would_change_nothing",
            "tests/web/test_endpoint.py",
            "-k",
            "bobs or manifest",
        ),
    ]

    assert [run.stdout + run.stderr for run in runs if run.returncode] == []


BAD = {
    "nothing": ({}, "Say which site"),
    "no URL": ({"NAME": "Bob"}, "Say which site"),
    "no name": ({"URL": "https://bobs.example"}, "Say which site"),
    "a name that is code": ({"NAME": 'Bob"""; import os', "URL": "https://bobs.example"}, "NAME has"),
    "a name without letters of ours": ({"NAME": "Боб и сыновья", "URL": "https://bobs.example"}, "SLUG=…"),
    "a name that begins with a number": ({"NAME": "123 Plumbing", "URL": "https://bobs.example"}, "SLUG=…"),
    "a long name": ({"NAME": "Bob " * 14, "URL": "https://bobs.example"}, "SLUG=…"),
    "no address": ({"NAME": "Bob", "URL": "bobs.example"}, "https://"),
    "another protocol": ({"NAME": "Bob", "URL": "ftp://bobs.example"}, "https://"),
    "no TLS": ({"NAME": "Bob", "URL": "http://bobs.example"}, "https://"),
    "a password": ({"NAME": "Bob", "URL": "https://a:b@bobs.example"}, "start page"),
    "a quote": ({"NAME": "Bob", "URL": "https://bobs.example/'"}, "start page"),
    "a port that is none": ({"NAME": "Bob", "URL": "https://bobs.example:x"}, "cannot be read"),
    "a site that is there": (
        {"NAME": "Prime", "URL": "https://bobs.example"},
        "There is a site prime already",
    ),
    "nobody's": ({"NAME": "Bob", "URL": "https://bobs.example", "ORG": "nobody"}, "one of trades"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_names_and_addresses_get_a_sentence_and_change_nothing(clone: Clone, bad: str) -> None:
    variables, sentence = BAD[bad]
    before = clone.files()

    refused = new_site(clone, **variables)

    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert clone.files() == before


def test_without_a_hub_it_says_how_to_start_one(clone: Clone, tmp_path: Path) -> None:
    refused = clone.run("operate.new_site", "--state", str(tmp_path / "none"), **BOBS)

    assert refused.returncode == 2
    assert "make run" in refused.stderr


def test_a_name_in_other_letters_and_a_slug_of_its_own(clone: Clone) -> None:
    done = new_site(clone, NAME="Боб и сыновья", URL="https://bob.example", SLUG="bob")

    assert done.returncode == 0, done.stderr
    assert clone.hub.rows("select name from public.sites where slug = 'bob'") == [("Боб и сыновья",)]
    assert clone.run("ruff", "check", "--no-cache", "functions", "tests").returncode == 0


def test_a_name_within_another_has_its_own_secret_in_hub_env(clone: Clone) -> None:
    for name in ("Big Rob", "Rob"):
        assert new_site(clone, NAME=name, URL="https://rob.example").returncode == 0

    written = (clone.hub.state / "hub.env").read_text().splitlines()
    assert [line.split("=")[0] for line in written if "ROB_WEBHOOK" in line] == [
        "BIG_ROB_WEBHOOK_SECRET",
        "ROB_WEBHOOK_SECRET",
    ]


def test_what_was_interrupted_is_finished_by_the_next_run(clone: Clone) -> None:
    site = {"NAME": "Half", "URL": "https://half.example"}
    assert new_site(clone, **site).returncode == 0
    clone.hub.sql(
        "update private.site_secrets set valid_to = now() from public.sites"
        " where sites.id = site_id and slug = 'half' and kind = 'standard'"
    )
    shutil.rmtree(clone.root / "functions" / "ingest_half")
    (clone.root / "tests" / "intake" / "test_ingest_half.py").unlink()
    edited = clone.root / "tests" / "fixtures" / "ingest-half" / "form.json"
    edited.write_text('{"email": "half@half.example"}')

    again = new_site(clone, **site)

    assert steps(again.stdout) == {
        **dict.fromkeys(STEPS, "skipped"),
        "secret": "done",
        "function": "done",
        "test": "done",
    }
    assert edited.read_text() == '{"email": "half@half.example"}'


def test_a_reader_that_leaves_early_gets_no_traceback(clone: Clone) -> None:
    closed, written = os.pipe()
    os.close(closed)

    where = ("operate.new_site", "--state", str(clone.hub.state))
    left = clone.run_into(written, *where, NAME="Half Read", URL="https://half-read.example")

    assert (left.returncode, left.stderr) == (1, "")


def test_a_hosted_projects_secret_is_shown_once_and_the_function_awaited(clone: Clone) -> None:
    # The same hub, reached as a project is: by what the environment says, without a state folder.
    hosted: dict[str, Any] = {
        "ADMIN_DATABASE_URL": clone.hub.env["ADMIN_DATABASE_URL"] + "&application_name=hosted",
        "FUNCTIONS_URL": f"{clone.hub.url}/functions/v1",
        "NAME": "Far Away",
        "URL": "https://far.example",
    }

    first = new_site(clone, **hosted)
    again = new_site(clone, **hosted)

    secret = re.search(r"FAR_AWAY_WEBHOOK_SECRET=(\S+)", first.stdout)
    assert secret is not None
    assert first.returncode == 0, first.stderr
    assert steps(again.stdout) == dict.fromkeys(STEPS, "skipped")
    assert secret[1] not in again.stdout
    assert secret[1] not in (clone.hub.state / "hub.env").read_text()
