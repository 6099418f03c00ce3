"""POST /auth/v1/admin/users, by Supabase's own client: who holds the secret key adds people, nobody else does."""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from supabase_auth import SyncGoTrueClient
from supabase_auth._sync.gotrue_admin_api import SyncGoTrueAdminAPI
from supabase_auth.errors import AuthApiError
from support.hubs import Hub, web

PASSWORD = "correct horse battery staple"


@pytest.fixture
def admin(hub: Hub) -> Iterator[SyncGoTrueAdminAPI]:
    with SyncGoTrueAdminAPI(url=f"{hub.url}/auth/v1", headers=secret_key(hub)) as admin:
        yield admin


@pytest.fixture
def email() -> str:
    return f"{uuid.uuid4().hex}@bobs.example"


def secret_key(hub: Hub) -> dict[str, str]:
    """The headers that Supabase's clients send."""
    key = hub.env["SUPABASE_SECRET_KEY"]
    return {"apikey": key, "Authorization": f"Bearer {key}"}


def add(hub: Hub, headers: dict[str, str] | None = None, **attributes: Any) -> httpx.Response:
    headers = secret_key(hub) if headers is None else headers
    return web.post(f"{hub.url}/auth/v1/admin/users", json=attributes, headers=headers)


def sign_in(hub: Hub, email: str, password: str) -> Any:
    headers = {"apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"]}
    with SyncGoTrueClient(url=f"{hub.url}/auth/v1", headers=headers, auto_refresh_token=False) as browser:
        return browser.sign_in_with_password({"email": email, "password": password}).user


def test_who_is_added_signs_in(hub: Hub, admin: SyncGoTrueAdminAPI, email: str) -> None:
    added = admin.create_user(
        {
            "email": email.upper(),
            "password": PASSWORD,
            "email_confirm": True,
            "user_metadata": {"name": "Jo"},
            "app_metadata": {"team": "north"},
        }
    ).user

    signed_in = sign_in(hub, email, PASSWORD)
    assert (signed_in.id, signed_in.email, signed_in.role) == (added.id, email, "authenticated")
    assert added.user_metadata == {"name": "Jo", "email_verified": True}
    assert added.app_metadata == {"provider": "email", "providers": ["email"], "team": "north"}


def test_who_is_not_confirmed_does_not_sign_in(hub: Hub, admin: SyncGoTrueAdminAPI, email: str) -> None:
    added = admin.create_user({"email": email, "password": PASSWORD}).user

    assert added.email_confirmed_at is None
    with pytest.raises(AuthApiError) as refusal:
        sign_in(hub, email, PASSWORD)
    assert refusal.value.code == "email_not_confirmed"


def test_without_a_password_a_person_has_one_that_nobody_knows(
    hub: Hub, admin: SyncGoTrueAdminAPI, email: str
) -> None:
    admin.create_user({"email": email, "email_confirm": True})

    with pytest.raises(AuthApiError) as refusal:
        sign_in(hub, email, PASSWORD)
    assert refusal.value.code == "invalid_credentials"


def test_as_in_hosted_auth_an_admin_may_give_a_weak_password(hub: Hub, email: str) -> None:
    assert add(hub, email=email, password="short", email_confirm=True).status_code == 200
    assert sign_in(hub, email, "short").email == email


def test_an_address_is_one_persons_however_it_is_written(hub: Hub, email: str) -> None:
    assert add(hub, email=email).status_code == 200

    again = add(hub, email=email.capitalize())

    assert (again.status_code, again.json()["error_code"]) == (422, "email_exists")
    assert again.json()["msg"] == "A user with this email address has already been registered"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "Cannot create a user without either an email or phone"),
        ({"email": "jo"}, "Unable to validate email address: invalid format"),
        ({"email": "jo@bobs example"}, "Unable to validate email address: invalid format"),
        ({"email": f"{'x' * 250}@bobs.example"}, "An email address is too long"),
        ({"email": "jo@bobs.example", "password": "x" * 73}, "bcrypt: password length exceeds 72 bytes"),
    ],
)
def test_attributes_that_make_nobody_are_refused(hub: Hub, attributes: dict[str, Any], message: str) -> None:
    refused = add(hub, **attributes)

    assert (refused.status_code, refused.json()["error_code"]) == (400, "validation_failed")
    assert refused.json()["msg"] == message


@pytest.mark.parametrize(
    "attributes",
    [
        {"phone": "+64215550147"},
        {"password_hash": "$2b$10$abcdefghijklmnopqrstuu37RkUr9H1EPO4Rc63Ngz60LSVREthYa"},
        {"role": "service_role"},
        {"ban_duration": "24h"},
        {"id": str(uuid.uuid4())},
    ],
)
def test_an_attribute_that_is_not_there_is_refused_by_its_name(
    hub: Hub, email: str, attributes: dict[str, Any]
) -> None:
    refused = add(hub, email=email, **attributes)

    assert (refused.status_code, refused.json()["error_code"]) == (501, "not_implemented")
    assert next(iter(attributes)) in refused.json()["msg"]


def test_nobody_but_the_secret_key_adds_people(hub: Hub, email: str) -> None:
    publishable, secret = hub.env["SUPABASE_PUBLISHABLE_KEY"], hub.env["SUPABASE_SECRET_KEY"]
    callers: dict[str, tuple[dict[str, str], int, str]] = {
        "nobody": ({}, 401, "no_api_key"),
        "another key": ({"apikey": "sb_secret_made_up"}, 401, "invalid_api_key"),
        "a page": ({"apikey": publishable}, 403, "not_admin"),
        "an admin": (hub.signed_in("ADMIN"), 403, "not_admin"),
        "an admin beside the key": (hub.signed_in("ADMIN") | {"apikey": secret}, 403, "not_admin"),
        "a forged token": ({"apikey": secret, "authorization": "Bearer a.b.c"}, 403, "bad_jwt"),
        "a browser": ({"apikey": secret, "user-agent": "Mozilla/5.0"}, 401, "secret_key_in_browser"),
    }

    refusals = {who: add(hub, headers, email=email) for who, (headers, _, _) in callers.items()}

    assert {who: (it.status_code, it.json()["error_code"]) for who, it in refusals.items()} == {
        who: (status, code) for who, (_, status, code) in callers.items()
    }
    assert hub.rows("select from auth.users where email = %s", email) == []


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/x"), ("PUT", "/x"), ("DELETE", "/x")])
def test_the_rest_of_the_admin_api_is_refused_by_its_name(hub: Hub, method: str, path: str) -> None:
    answer = web.request(method, f"{hub.url}/auth/v1/admin/users{path}", headers=secret_key(hub))

    assert (answer.status_code, answer.json()["error_code"]) == (501, "not_implemented")
