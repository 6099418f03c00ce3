"""`make add-person`: somebody can sign in and has their role, by one command, and a second run changes nothing."""

import os
import re
import subprocess
import uuid

import httpx
import pytest
from support.hubs import ROOT, Hub, web

MEMBERS = (
    "select memberships.role::text from public.memberships join auth.users on users.id = user_id"
    " join public.organizations on organizations.id = org_id where email = %s and organizations.slug = 'trades'"
)
PASSWORD = re.compile(r"^  password +(\S+)", re.MULTILINE)


@pytest.fixture
def email() -> str:
    return f"{uuid.uuid4().hex}@bobs.example"


def add(hub: Hub, **variables: str) -> subprocess.CompletedProcess[str]:
    return made(STATE=str(hub.state), **variables)


def made(**variables: str) -> subprocess.CompletedProcess[str]:
    # As from a shell of its own: what runs the tests may itself be a make.
    # And the developer's own project is none of these tests'.
    others = ("MAKE", "SUPABASE_", "ADMIN_DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    # On a hub that is shared there may be organizations of other tests.
    environment["ORG"] = "trades"
    return subprocess.run(
        ["make", "--silent", "add-person", *(f"{name}={value}" for name, value in variables.items())],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def sign_in(hub: Hub, email: str, password: str) -> httpx.Response:
    return web.post(
        f"{hub.url}/auth/v1/token?grant_type=password",
        json={"email": email, "password": password},
        headers={"apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"]},
    )


def test_who_is_added_signs_in_with_the_printed_password_and_has_the_role(hub: Hub, email: str) -> None:
    done = add(hub, EMAIL=email, ROLE="operator")

    assert done.returncode == 0, done.stdout + done.stderr
    printed = PASSWORD.search(done.stdout)
    assert printed is not None
    token = sign_in(hub, email, printed[1]).raise_for_status().json()["access_token"]
    mine = web.get(
        f"{hub.url}/rest/v1/memberships?select=role,organizations(slug)&user_id=eq.{user_id(hub, email)}",
        headers={"apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"], "authorization": f"Bearer {token}"},
    ).json()
    assert mine == [{"role": "operator", "organizations": {"slug": "trades"}}]


def user_id(hub: Hub, email: str) -> str:
    return str(hub.rows("select id from auth.users where email = %s", email)[0][0])


def test_a_second_run_says_who_is_there_and_changes_nothing(hub: Hub, email: str) -> None:
    first = add(hub, EMAIL=email, ROLE="viewer")
    members = "select role, updated_at from public.memberships where user_id = %s"
    before = hub.rows(members, user_id(hub, email))

    again = add(hub, EMAIL=email.upper(), ROLE="viewer")

    password = PASSWORD.search(first.stdout)
    assert password is not None
    assert again.returncode == 0, again.stderr
    assert (f"{email} is here already" in again.stdout, PASSWORD.search(again.stdout)) == (True, None)
    assert hub.rows(members, user_id(hub, email)) == before
    assert sign_in(hub, email, password[1]).status_code == 200


def test_who_is_there_gets_another_role(hub: Hub, email: str) -> None:
    add(hub, EMAIL=email, ROLE="viewer")

    assert add(hub, EMAIL=email, ROLE="closer").returncode == 0

    assert hub.rows(MEMBERS, email) == [("closer",)]


def test_the_last_admin_stays_one_until_there_is_another(own_hub: Hub, email: str) -> None:
    admin = own_hub.env["ADMIN_EMAIL"]

    refused = add(own_hub, EMAIL=admin, ROLE="viewer", ORG="")
    add(own_hub, EMAIL=email, ROLE="admin", ORG="")
    done = add(own_hub, EMAIL=admin, ROLE="viewer", ORG="")

    assert refused.returncode != 0
    assert f"{admin}: This is the last admin of trades" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert (own_hub.rows(MEMBERS, admin), own_hub.rows(MEMBERS, email)) == ([("viewer",)], [("admin",)])


BAD = {
    "nobody": ({"ROLE": "viewer"}, "Say whom"),
    "no role": ({"EMAIL": "jo@bobs.example"}, "Say whom"),
    "no address": ({"EMAIL": "jo", "ROLE": "viewer"}, "EMAIL is an address"),
    "an address that Auth refuses": ({"EMAIL": "jo@bobs_example", "ROLE": "viewer"}, "invalid format"),
    "an unknown role": (
        {"EMAIL": "jo@bobs.example", "ROLE": "boss"},
        "ROLE is one of admin, operator, closer, viewer",
    ),
    "an unknown organization": (
        {"EMAIL": "jo@bobs.example", "ROLE": "viewer", "ORG": "nobody"},
        "one of",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_done_is_one_sentence_and_makes_nobody(hub: Hub, bad: str) -> None:
    variables, sentence = BAD[bad]
    people = hub.rows("select count(*) from auth.users")

    refused = add(hub, **variables)

    assert refused.returncode != 0
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert hub.rows("select count(*) from auth.users") == people


def test_without_a_hub_it_says_how_to_start_one(folder: str) -> None:
    refused = made(STATE=str(folder), EMAIL="jo@bobs.example", ROLE="viewer")

    assert refused.returncode != 0
    assert "make run" in refused.stderr


@pytest.fixture
def project(hub: Hub) -> dict[str, str]:
    """The same hub, reached as a project is: by what the environment says, without a state folder."""
    return {
        "STATE": "/nowhere",
        "ADMIN_DATABASE_URL": hub.env["ADMIN_DATABASE_URL"] + "&application_name=hosted",
        "SUPABASE_URL": hub.url,
        "SUPABASE_SECRET_KEY": hub.env["SUPABASE_SECRET_KEY"],
    }


def test_a_hosted_projects_people_are_added_the_same_way(
    hub: Hub, email: str, project: dict[str, str]
) -> None:
    done = made(EMAIL=email, ROLE="closer", **project)

    assert done.returncode == 0, done.stderr
    assert hub.rows(MEMBERS, email) == [("closer",)]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"SUPABASE_SECRET_KEY": ""}, "SUPABASE_SECRET_KEY"),
        ({"SUPABASE_SECRET_KEY": "sb_secret_made_up"}, "Invalid API key"),
        ({"SUPABASE_URL": "http://127.0.0.1:9"}, "Auth cannot be reached"),
        ({"SUPABASE_URL": "http://[::1"}, "Auth cannot be reached"),
        ({"ADMIN_DATABASE_URL": "postgresql://127.0.0.1:9/x"}, "The database cannot be reached"),
        ({"ADMIN_DATABASE_URL": "postgresql//x"}, "ADMIN_DATABASE_URL cannot be read"),
    ],
)
def test_a_project_that_cannot_be_reached_is_one_sentence(
    hub: Hub, email: str, project: dict[str, str], changed: dict[str, str], sentence: str
) -> None:
    refused = made(EMAIL=email, ROLE="closer", **project | changed)

    assert refused.returncode != 0
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert hub.rows("select from auth.users where email = %s", email) == []
