"""Who a request is: the gateway's key rules, and forged tokens at every door that takes one."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from emulator.functions import Functions
from emulator.state import Keys, State
from support.forgeries import FORGERIES, Forger
from support.hubs import Hub, web
from support.serving import gateway, served

WHOAMI = """
from shared.callers.users import signed_in
from shared.web.endpoint import endpoint

@endpoint(caller=signed_in())
async def whoami(user):
    return {"id": str(user.id)}
"""


@pytest.fixture(scope="module")
def keys(hub: Hub) -> Keys:
    return State(hub.state).keys


@pytest.fixture(scope="module")
def session(hub: Hub, keys: Keys) -> dict[str, Any]:
    answer = web.post(
        f"{hub.url}/auth/v1/token?grant_type=password",
        json={"email": hub.env["VIEWER_EMAIL"], "password": hub.env["VIEWER_PASSWORD"]},
        headers={"apikey": keys.publishable_key},
    )
    signed_in: dict[str, Any] = answer.json()
    return signed_in


@pytest.fixture(scope="module")
def whoami(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A function that users call, on a gateway of its own, for the hub's users."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "whoami").mkdir()
    (folder / "whoami" / "main.py").write_text(WHOAMI)
    (folder / "manifest.toml").write_text('[whoami]\ncaller = "user"\n')
    with pytest.MonkeyPatch.context() as environment:
        for name in ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY"):
            environment.setenv(name, hub.env[name])
        with served(gateway(folder / "state", Functions(folder, hub.url))) as url:
            yield f"{url}/functions/v1/whoami"


def organizations(hub: Hub, headers: dict[str, str]) -> httpx.Response:
    return web.get(f"{hub.url}/rest/v1/organizations?select=slug", headers=headers)


def test_a_persons_token_opens_rest_auth_and_functions(
    hub: Hub, keys: Keys, session: dict[str, Any], whoami: str
) -> None:
    headers = {"apikey": keys.publishable_key, "Authorization": f"Bearer {session['access_token']}"}

    assert organizations(hub, headers).json() == [{"slug": "trades"}]
    assert web.get(f"{hub.url}/auth/v1/user", headers=headers).json()["id"] == session["user"]["id"]
    assert web.post(whoami, headers=headers).json() == {"id": session["user"]["id"]}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_token_opens_nothing(
    hub: Hub, keys: Keys, session: dict[str, Any], whoami: str, forge: Callable[[Forger], str]
) -> None:
    forged = forge(Forger(session["access_token"], keys))
    headers = {"apikey": keys.publishable_key, "Authorization": f"Bearer {forged}"}

    by_rest = organizations(hub, headers)
    by_auth = web.get(f"{hub.url}/auth/v1/user", headers=headers)
    by_function = web.post(whoami, headers=headers)

    assert (by_rest.status_code, by_auth.status_code, by_function.status_code) == (401, 403, 401)
    assert by_rest.json()["code"] in ("PGRST301", "PGRST303")
    assert by_rest.headers["WWW-Authenticate"].startswith("Bearer error=")
    assert by_auth.json()["error_code"] == "bad_jwt"
    assert "Traceback" not in by_rest.text + by_auth.text + by_function.text


def test_a_clock_half_a_minute_off_is_forgiven(hub: Hub, keys: Keys, session: dict[str, Any]) -> None:
    forger = Forger(session["access_token"], keys)
    now = int(time.time())

    late = forger.signed(exp=now - 10)
    early = forger.signed(iat=now + 20, nbf=now + 20)

    for token in (late, early):
        assert organizations(hub, {"Authorization": f"Bearer {token}"}).status_code == 200


def test_the_publishable_key_is_anon_and_the_secret_key_is_the_service(hub: Hub, keys: Keys) -> None:
    anon = organizations(hub, {"apikey": keys.publishable_key})
    service = organizations(hub, {"apikey": keys.secret_key})

    # anon reads nothing; the service role is known, whatever it has been granted.
    assert anon.status_code == 401
    assert service.status_code in (200, 403)


def test_a_key_in_authorization_counts_only_beside_itself(hub: Hub, keys: Keys) -> None:
    secret = f"Bearer {keys.secret_key}"

    alone = organizations(hub, {"Authorization": secret})
    beside_another = organizations(hub, {"Authorization": secret, "apikey": keys.publishable_key})
    beside_itself = organizations(hub, {"Authorization": secret, "apikey": keys.secret_key})

    assert (alone.status_code, beside_another.status_code) == (401, 401)
    assert beside_itself.status_code == organizations(hub, {"apikey": keys.secret_key}).status_code


def test_a_secret_key_in_a_browser_is_refused(hub: Hub, keys: Keys) -> None:
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}

    secret = organizations(hub, {"apikey": keys.secret_key} | browser)
    publishable = organizations(hub, {"apikey": keys.publishable_key} | browser)

    assert (secret.status_code, secret.json()["message"]) == (
        401,
        "Forbidden use of secret API key in browser",
    )
    assert publishable.json()["message"] != secret.json()["message"]


def described(hub: Hub, headers: dict[str, str], query: str = "") -> httpx.Response:
    return web.get(f"{hub.url}/rest/v1/{query}", headers=headers)


def test_the_description_of_the_tables_is_for_the_secret_key(
    hub: Hub, keys: Keys, session: dict[str, Any]
) -> None:
    person = {"Authorization": f"Bearer {session['access_token']}"}

    service = described(hub, {"apikey": keys.secret_key})
    as_a_person = described(hub, {"apikey": keys.secret_key} | person)
    refusals = [
        described(hub, {"apikey": keys.publishable_key}),
        described(hub, {"apikey": keys.publishable_key} | person),
        described(hub, person),
    ]

    assert service.status_code == 200
    assert service.json()["host"] == f"127.0.0.1:{hub.port}"
    assert service.json()["basePath"] == "/rest/v1"
    assert "leads" in service.json()["definitions"]
    assert "/rpc/name_kind" in service.json()["paths"]
    assert "/rpc/name_kind" not in as_a_person.json()["paths"]
    for refused in refusals:
        assert refused.status_code == 401
        assert refused.json()["message"] == "Secret API key required"
        assert refused.json()["hint"] == "Only secret API keys can be used for this endpoint."
        assert refused.headers["sb-error-code"] == "UNAUTHORIZED_INVALID_API_KEY_TYPE"
    assert described(hub, {}).json()["message"] == "No API key found in request"
    assert described(hub, {"apikey": "sb_secret_guessed"}).json()["message"] == "Invalid API key"


def test_a_reader_of_descriptions_may_have_the_key_in_its_url(hub: Hub, keys: Keys) -> None:
    secret = described(hub, {}, f"?apikey={keys.secret_key}")
    publishable = described(hub, {}, f"?apikey={keys.publishable_key}")
    contradicted = described(hub, {"apikey": keys.publishable_key}, f"?apikey={keys.secret_key}")
    elsewhere = web.get(f"{hub.url}/rest/v1/organizations?apikey={keys.secret_key}")

    assert secret.json()["swagger"] == "2.0"
    assert {publishable.status_code, contradicted.status_code, elsewhere.status_code} == {401}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "No API key found in request"),
        ({"apikey": ""}, "Invalid API key"),
        ({"apikey": "sb_secret_guessed"}, "Invalid API key"),
        ({"apikey": "k\u00fchn".encode("latin-1")}, "Invalid API key"),
        ({"Authorization": "Basic YWRtaW46YWRtaW4="}, "Authorization has to be a Bearer token"),
    ],
)
def test_a_request_without_a_good_key_is_nobodys(hub: Hub, headers: dict[str, str], message: str) -> None:
    by_rest = organizations(hub, headers)
    by_auth = web.post(f"{hub.url}/auth/v1/token?grant_type=password", json={}, headers=headers)

    assert (by_rest.status_code, by_rest.json()["message"]) == (401, message)
    assert (by_auth.status_code, by_auth.json()["msg"]) == (401, message)


def test_no_answer_repeats_a_token_or_key(hub: Hub, keys: Keys, session: dict[str, Any]) -> None:
    spoilt = session["access_token"][:-4] + "AAAA"

    answers = [
        organizations(hub, {"apikey": keys.publishable_key, "Authorization": f"Bearer {spoilt}"}),
        organizations(hub, {"apikey": keys.secret_key[:-1] + "x"}),
    ]

    for answer in answers:
        told = answer.text + json.dumps(dict(answer.headers))
        assert spoilt not in told
        assert keys.secret_key[:-1] not in told
