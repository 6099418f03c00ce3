"""/auth/v1, by Supabase's own client: users sign in, stay signed in and sign out; nobody else gets in."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from emulator.auth.users import seed_user
from emulator.state import State
from supabase_auth import AsyncGoTrueClient, AuthResponse, Session, SyncGoTrueClient, User
from supabase_auth.errors import AuthApiError
from supabase_auth.types import SignInWithEmailAndPasswordCredentials, SignOutScope
from support.hubs import Hub

type Client = Callable[[], SyncGoTrueClient]


@dataclass
class Person:
    id: uuid.UUID
    email: str
    password: str

    @property
    def credentials(self) -> SignInWithEmailAndPasswordCredentials:
        return {"email": self.email, "password": self.password}


@pytest.fixture
def person(hub: Hub) -> Person:
    """Somebody of this test's own, so that no other test is signed out by it."""
    email, password = f"{uuid.uuid4().hex}@example.com", "correct horse battery staple"
    return Person(seed(hub, email, password), email, password)


@pytest.fixture
def client(hub: Hub) -> Iterator[Client]:
    """Makes clients: each is one browser."""
    clients: list[SyncGoTrueClient] = []

    def make() -> SyncGoTrueClient:
        clients.append(SyncGoTrueClient(url=f"{hub.url}/auth/v1", headers=key(hub), auto_refresh_token=False))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


@pytest.fixture
def api(hub: Hub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{hub.url}/auth/v1", headers=key(hub)) as api:
        yield api


def key(hub: Hub) -> dict[str, str]:
    return {"apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"]}


def seed(hub: Hub, email: str, password: str) -> uuid.UUID:
    async def insert() -> uuid.UUID:
        url = State(hub.state).database_url("supabase_admin")
        async with await psycopg.AsyncConnection.connect(url) as connection:
            return await seed_user(connection, email, password)

    return asyncio.run(insert())


def sign_in(client: SyncGoTrueClient, person: Person) -> Session:
    session = client.sign_in_with_password(person.credentials).session
    assert session is not None
    return session


def renewed(client: SyncGoTrueClient, token: str | None = None) -> Session:
    session = client.refresh_session(token).session
    assert session is not None
    return session


def user_of(client: SyncGoTrueClient, access_token: str | None = None) -> User:
    answer = client.get_user(access_token)
    assert answer is not None
    return answer.user


def refused(api: httpx.Client, refresh_token: str) -> str:
    answer = api.post("/token?grant_type=refresh_token", json={"refresh_token": refresh_token})
    assert answer.status_code == 400
    return str(answer.json()["error_code"])


def age_tokens(hub: Hub, person: Person) -> None:
    """As if eleven seconds had passed since each of them was last used."""
    hub.sql(
        "update auth.refresh_tokens set updated_at = updated_at - interval '11 s' where user_id = %(id)s",
        id=str(person.id),
    )


@pytest.mark.parametrize("who", ["ADMIN", "OPERATOR", "CLOSER", "VIEWER"])
def test_each_of_the_four_people_signs_in(hub: Hub, client: Client, who: str) -> None:
    browser = client()

    answer = browser.sign_in_with_password(
        {"email": hub.env[f"{who}_EMAIL"], "password": hub.env[f"{who}_PASSWORD"]}
    )

    found: Any = browser.get_claims()
    claims = found["claims"]
    assert answer.user is not None
    assert user_of(browser).email == answer.user.email == hub.env[f"{who}_EMAIL"]
    assert (claims["sub"], claims["role"], claims["aud"]) == (
        answer.user.id,
        "authenticated",
        "authenticated",
    )
    assert claims["iss"] == f"{hub.url}/auth/v1"


def test_the_asynchronous_client_signs_in_refreshes_and_signs_out(hub: Hub, person: Person) -> None:
    async def visit() -> None:
        browser = AsyncGoTrueClient(url=f"{hub.url}/auth/v1", headers=key(hub), auto_refresh_token=False)
        first = (await browser.sign_in_with_password(person.credentials)).session
        second = (await browser.refresh_session()).session
        answer = await browser.get_user()
        assert first is not None
        assert second is not None
        assert answer is not None
        await browser.sign_out()
        with pytest.raises(AuthApiError) as signed_out:
            await browser.get_user(second.access_token)
        await browser.close()

        assert first.refresh_token != second.refresh_token
        assert answer.user.id == str(person.id)
        assert signed_out.value.code == "session_not_found"

    asyncio.run(visit())


def test_an_email_address_may_be_typed_in_capitals(client: Client, person: Person) -> None:
    answer: AuthResponse = client().sign_in_with_password(
        {"email": f" {person.email.upper()}", "password": person.password}
    )

    assert answer.user is not None
    assert answer.user.email == person.email


def test_seeding_a_person_again_changes_nothing(hub: Hub, client: Client, person: Person) -> None:
    again = seed(hub, person.email, "another password")

    assert again == person.id
    assert sign_in(client(), person).user.id == str(person.id)


def test_wrong_password_and_unknown_email_get_the_same_answer(api: httpx.Client, person: Person) -> None:
    answers = [
        api.post("/token?grant_type=password", json={"email": email, "password": "wrong"})
        for email in (person.email, "nobody@example.com")
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["error_code"] == "invalid_credentials"


def test_wrong_password_and_unknown_email_take_the_same_time(api: httpx.Client, person: Person) -> None:
    def seconds(email: str) -> float:
        began = time.perf_counter()
        api.post("/token?grant_type=password", json={"email": email, "password": "wrong"})
        return time.perf_counter() - began

    pairs = [(seconds(person.email), seconds("nobody@example.com")) for _ in range(12)]

    known, unknown = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert 0.6 < known / unknown < 1.6


@pytest.mark.parametrize("password", ["", "x" * 73, "correct horse battery staple" * 3, "nul\0", "ünï"])
def test_no_odd_password_gets_in(api: httpx.Client, person: Person, password: str) -> None:
    answer = api.post("/token?grant_type=password", json={"email": person.email, "password": password})

    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("email_confirmed_at = null", "email_not_confirmed"),
        ("banned_until = now() + interval '1 hour'", "user_banned"),
        ("deleted_at = now()", "invalid_credentials"),
    ],
)
def test_a_person_who_may_not_is_not_let_in(
    hub: Hub, client: Client, person: Person, state: str, code: str
) -> None:
    hub.sql(f"update auth.users set {state} where id = %(id)s", id=person.id)

    with pytest.raises(AuthApiError) as refusal:
        sign_in(client(), person)

    assert refusal.value.code == code


def test_a_ban_ends_what_was_begun(hub: Hub, client: Client, person: Person) -> None:
    browser = client()
    session = sign_in(browser, person)
    hub.sql("update auth.users set banned_until = now() + interval '1 hour' where id = %(id)s", id=person.id)

    with pytest.raises(AuthApiError) as asking:
        browser.get_user(session.access_token)
    with pytest.raises(AuthApiError) as refreshing:
        browser.refresh_session(session.refresh_token)

    assert (asking.value.status, asking.value.code) == (403, "user_banned")
    assert (refreshing.value.status, refreshing.value.code) == (400, "user_banned")


def test_a_refresh_replaces_both_tokens(client: Client, person: Person) -> None:
    browser = client()
    first = sign_in(browser, person)

    second = renewed(browser)

    assert second.refresh_token != first.refresh_token
    assert user_of(browser, second.access_token).id == str(person.id)


def test_a_refresh_whose_answer_was_lost_may_be_repeated(hub: Hub, client: Client, person: Person) -> None:
    browser = client()
    first = sign_in(browser, person)
    lost = renewed(browser, first.refresh_token)
    age_tokens(hub, person)

    again = renewed(browser, first.refresh_token)

    assert again.refresh_token == lost.refresh_token


def test_a_refresh_token_may_race_for_ten_seconds(client: Client, person: Person) -> None:
    browser = client()
    first = sign_in(browser, person)
    second = renewed(browser, first.refresh_token)
    browser.refresh_session(second.refresh_token)

    raced = renewed(browser, first.refresh_token)

    assert user_of(browser, raced.access_token).id == str(person.id)


def test_a_stolen_refresh_token_ends_its_family(
    hub: Hub, client: Client, api: httpx.Client, person: Person
) -> None:
    browser, elsewhere = client(), client()
    other = sign_in(elsewhere, person)
    stolen = sign_in(browser, person).refresh_token
    second = renewed(browser, stolen)
    third = renewed(browser, second.refresh_token)
    age_tokens(hub, person)

    assert refused(api, stolen) == "refresh_token_already_used"
    assert refused(api, third.refresh_token) == "refresh_token_already_used"
    assert elsewhere.refresh_session(other.refresh_token).session is not None


def test_parallel_refreshes_of_one_token_are_answered_alike(
    hub: Hub, api: httpx.Client, client: Client, person: Person
) -> None:
    token = sign_in(client(), person).refresh_token

    def refresh(_: int) -> str:
        answer = api.post("/token?grant_type=refresh_token", json={"refresh_token": token})
        return str(answer.json()["refresh_token"])

    def waiting() -> bool:
        return hub.rows(
            "select count(*) from pg_stat_activity"
            " where usename = 'supabase_auth_admin' and wait_event_type = 'Lock'"
        ) == [(3,)]

    with ThreadPoolExecutor(3) as threads, psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as holding:
        holding.execute("select from auth.sessions where user_id = %s for update", [person.id])
        answers = [threads.submit(refresh, each) for each in range(3)]
        assert hub.until(waiting)
        holding.rollback()

    assert len({answer.result() for answer in answers}) == 1


def test_an_unknown_refresh_token_is_refused(api: httpx.Client) -> None:
    assert refused(api, "made-up") == "refresh_token_not_found"


@pytest.mark.parametrize(
    ("scope", "still_signed_in"),
    [("global", [False, False]), ("local", [False, True]), ("others", [True, False])],
)
def test_signing_out_ends_the_sessions_of_its_scope(
    client: Client, person: Person, scope: SignOutScope, still_signed_in: list[bool]
) -> None:
    here, there = client(), client()
    sessions = [sign_in(here, person), sign_in(there, person)]

    here.sign_out({"scope": scope})

    assert [is_signed_in(client(), session) for session in sessions] == still_signed_in


def is_signed_in(client: SyncGoTrueClient, session: Session) -> bool:
    try:
        return client.get_user(session.access_token) is not None
    except AuthApiError as refusal:
        if refusal.code == "session_not_found":
            return False
        raise


def test_a_new_password_replaces_the_old_and_ends_other_sessions(client: Client, person: Person) -> None:
    here, there = client(), client()
    elsewhere = sign_in(there, person)
    mine = sign_in(here, person)

    here.update_user({"password": "a better password"})

    assert is_signed_in(client(), mine)
    assert not is_signed_in(client(), elsewhere)
    assert sign_in(client(), Person(person.id, person.email, "a better password"))
    with pytest.raises(AuthApiError, match="Invalid login credentials"):
        sign_in(client(), person)


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("short", "weak_password"),
        ("x" * 73, "validation_failed"),
        ("correct horse battery staple", "same_password"),
    ],
)
def test_a_bad_new_password_is_refused(
    api: httpx.Client, client: Client, person: Person, password: str, code: str
) -> None:
    token = sign_in(client(), person).access_token

    answer = api.put("/user", json={"password": password}, headers={"Authorization": f"Bearer {token}"})

    assert (answer.status_code, answer.json()["error_code"]) == (422, code)


def test_what_a_person_says_about_themselves_is_merged(client: Client, person: Person) -> None:
    browser = client()
    sign_in(browser, person)

    browser.update_user({"data": {"theme": "dark", "language": "en"}})
    changed = browser.update_user({"data": {"theme": None}}).user

    assert changed.user_metadata == {"email_verified": True, "language": "en"}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "9" * 5000])
def test_a_number_that_nothing_can_hold_is_the_senders_fault(
    api: httpx.Client, client: Client, person: Person, number: str
) -> None:
    token = sign_in(client(), person).access_token

    answer = api.put(
        "/user", content=f'{{"data": {{"x": {number}}}}}', headers={"Authorization": f"Bearer {token}"}
    )

    assert (answer.status_code, answer.json()["error_code"]) == (400, "bad_json")


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_nobody_says_so_much_about_themselves_that_their_token_fits_nowhere(
    api: httpx.Client, client: Client, person: Person, letter: str
) -> None:
    token = sign_in(client(), person).access_token
    piece = letter * 300
    answers = [
        api.put("/user", json={"data": {str(n): piece}}, headers={"Authorization": f"Bearer {token}"})
        for n in range(14)
    ]

    assert answers[0].status_code == 200
    assert (answers[-1].status_code, answers[-1].json()["error_code"]) == (422, "validation_failed")
    assert is_signed_in(client(), sign_in(client(), person))


def test_errors_have_the_shape_of_the_version_that_was_asked_for(api: httpx.Client) -> None:
    wrong = {"email": "nobody@example.com", "password": "wrong"}

    old = api.post("/token?grant_type=password", json=wrong)
    new = api.post("/token?grant_type=password", json=wrong, headers={"X-Supabase-Api-Version": "2024-01-01"})

    assert old.json() == {
        "code": 400,
        "error_code": "invalid_credentials",
        "msg": "Invalid login credentials",
    }
    assert new.json() == {"code": "invalid_credentials", "message": "Invalid login credentials"}
    assert new.headers["X-Supabase-Api-Version"] == "2024-01-01"
    assert old.headers["X-Sb-Error-Code"] == new.headers["X-Sb-Error-Code"] == "invalid_credentials"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/signup", {}),
        ("POST", "/token?grant_type=pkce", {}),
        ("POST", "/token?grant_type=password", {"phone": "+64215550147", "password": "x"}),
        ("POST", "/otp", {}),
        ("GET", "/authorize?provider=google", None),
        ("GET", "/admin/users", None),
    ],
)
def test_what_is_not_there_is_refused_by_its_name(
    api: httpx.Client, method: str, path: str, body: dict[str, str] | None
) -> None:
    answer = api.request(method, path, json=body)

    assert (answer.status_code, answer.json()["error_code"]) == (501, "not_implemented")
    assert "is not part of the local stack" in answer.json()["msg"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"email": 1}', b'{"email": "\\ud800"}', b"[" * 100_000, b"\xff"]
)
def test_a_body_that_says_nothing_is_the_senders_fault(api: httpx.Client, body: bytes) -> None:
    answer = api.post("/token?grant_type=password", content=body)

    assert answer.status_code == 400
    assert answer.json()["error_code"] in ("bad_json", "validation_failed")


def test_the_published_keys_hold_nothing_private(api: httpx.Client) -> None:
    answer = api.get("/.well-known/jwks.json")

    [published] = answer.json()["keys"]
    assert set(published) == {"kty", "crv", "x", "y", "kid", "alg", "use", "key_ops"}
    assert answer.headers["Cache-Control"] == "public, max-age=600"


def test_health_and_settings_are_answered(api: httpx.Client) -> None:
    assert api.get("/health").json()["name"] == "GoTrue"
    assert api.get("/settings").json()["external"]["email"] is True
