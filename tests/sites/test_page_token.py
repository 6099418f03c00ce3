"""Pages: a browser of an allowed origin posts with a token of ten minutes, and with nothing else of its own."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.hubs import Hub
from support.signing import Sender, client, give_secret, new_secret, page_key, page_token

ELSEWHERE = "https://elsewhere.example"
MEMBERS = ("access-control-allow-origin", "access-control-allow-credentials")


@pytest.fixture(scope="module")
def page(hub: Hub) -> Sender:
    hub.sql("update public.sites set max_per_minute_per_address = 100000")
    return Sender(hub, "prime", "page", page_key(hub, "prime"))


def ask(hub: Hub, site: str, origin: str | None) -> httpx.Response:
    headers = {"origin": origin} if origin else {}
    return client().get(f"{hub.url}/functions/v1/page-token", params={"site": site}, headers=headers)


def a_form(**more: Any) -> bytes:
    return json.dumps({"email": f"{uuid.uuid4().hex}@example.com", **more}).encode()


def test_a_page_asks_for_a_token_and_posts_with_it(hub: Hub, page: Sender) -> None:
    given = ask(hub, "prime", page.origin)

    token = given.json()["token"]
    answer = page.post(a_form(), {"origin": page.origin, "x-page-token": token})

    assert (given.status_code, given.json()["expires_in"]) == (200, 600)
    assert given.headers["cache-control"] == "no-store"
    assert [given.headers.get(name) for name in MEMBERS] == [page.origin, None]
    assert answer.status_code == 202, answer.text
    assert [answer.headers.get(name) for name in MEMBERS] == [page.origin, None]
    assert hub.rows(
        "select type from public.events where id = %s and contact_id is not null and subject_id is not null",
        answer.json()["event_id"],
    ) == [("form.submitted",)]


@pytest.mark.parametrize(
    ("site", "origin"),
    [("prime", ELSEWHERE), ("prime", None), ("prime", "null"), ("nowhere", ELSEWHERE)],
)
def test_no_token_is_given_to_another_origin_or_for_no_site(hub: Hub, site: str, origin: str | None) -> None:
    answer = ask(hub, site, origin)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "site", ["", "\0", "prime\0", "Prime", "p", "prime\n", "'", "é" * 9, "a" * 64, "x" * 9_000]
)
def test_what_no_site_can_be_called_is_refused_by_name(hub: Hub, site: str) -> None:
    answer = ask(hub, site, ELSEWHERE)

    assert answer.status_code == 422
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == ["site"]


def test_a_site_that_lists_no_origin_gives_no_token(own_hub: Hub) -> None:
    origin = own_hub.rows("select url from public.sites where slug = 'prime'")[0][0]
    own_hub.sql("update public.sites set allowed_origins = '{}' where slug = 'prime'")

    assert ask(own_hub, "prime", origin).status_code == 401


def token(**changed: Any) -> Callable[[Sender], dict[str, str]]:
    """The headers of a page, with a token that was signed for something else."""

    def headers(page: Sender) -> dict[str, str]:
        signed = {"key": page.secret, "site": "prime", "origin": page.origin, **changed}
        return {"origin": page.origin, "x-page-token": page_token(**signed)}

    return headers


def sent(change: Callable[[str], Any]) -> Callable[[Sender], dict[str, Any]]:
    return lambda page: {
        "origin": page.origin,
        "x-page-token": change(page_token(page.secret, "prime", page.origin)),
    }


REFUSED: dict[str, Callable[[Sender], dict[str, Any]]] = {
    "no token": lambda page: {"origin": page.origin},
    "empty token": sent(lambda _: ""),
    "expired": lambda page: token(expires=int(time.time()) - 1)(page),
    "of next year": lambda page: token(expires=int(time.time()) + 31_536_000)(page),
    "expiry in other digits": sent(lambda it: "١٧٩٥٢٦١٠٠٦".encode() + it[10:].encode()),
    "expiry put off": sent(lambda it: str(int(it[:10]) + 60) + it[10:]),
    "cut": sent(lambda it: it[:-1]),
    "without signature": sent(lambda it: it[:11]),
    "not ASCII": sent(lambda it: (it + "ä").encode()),
    "of another origin": token(origin=ELSEWHERE),
    "of another site": token(site="akf"),
    "by another key": token(key="0" * 64),
    "from another origin": lambda page: {**page.headers(b""), "origin": ELSEWHERE},
    "rightly signed for an origin that is not listed": lambda page: {
        "origin": ELSEWHERE,
        "x-page-token": page_token(page.secret, "prime", ELSEWHERE),
    },
    "from nowhere": lambda page: {"x-page-token": page.headers(b"")["x-page-token"]},
    "for the key itself": lambda page: {"x-webhook-secret": page.secret},
}


@pytest.mark.parametrize("refused", REFUSED)
def test_without_a_token_for_this_site_and_origin_nothing_is_stored(
    hub: Hub, page: Sender, refused: str
) -> None:
    before = hub.rows("select count(*) from public.receipts")

    answer = page.post(a_form(), REFUSED[refused](page))

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert hub.rows("select count(*) from public.receipts") == before


def test_another_sites_token_is_none_here(hub: Hub, page: Sender) -> None:
    akf = Sender(hub, "akf", "page", page_key(hub, "akf"))
    hub.sql(
        "update public.sites set allowed_origins = allowed_origins || %s::text where slug = 'akf'",
        page.origin,
    )
    assert hub.until(lambda: ask(hub, "akf", page.origin).status_code == 200)

    headers = {"origin": page.origin, "x-page-token": ask(hub, "akf", page.origin).json()["token"]}

    assert (akf.post(a_form(), headers).status_code, page.post(a_form(), headers).status_code) == (202, 401)


def test_a_token_that_is_out_outlives_a_new_key(own_hub: Any) -> None:
    page = Sender(own_hub, "prime", "page", page_key(own_hub, "prime"))
    before = {"origin": page.origin, "x-page-token": ask(own_hub, "prime", page.origin).json()["token"]}

    own_hub.sql("select private.rotate_page_keys()")

    page.secret = page_key(own_hub, "prime")
    assert own_hub.until(lambda: page.post(a_form()).status_code == 202)
    assert page.post(a_form(), before).status_code == 202
    own_hub.sql(
        "update private.site_secrets set valid_to = now() where kind = 'page' and valid_to is not null"
    )
    assert page.post(a_form(), before).status_code == 401


def test_a_preflight_allows_what_a_page_sends_to_allowed_origins_only(hub: Hub, page: Sender) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-page-token"}

    ours = client().options(page.url, headers={"origin": page.origin, **asked})
    theirs = client().options(page.url, headers={"origin": ELSEWHERE, **asked})

    allowed = ours.headers["access-control-allow-headers"].split(", ")
    assert {"content-type", "idempotency-key", "x-page-token"} <= set(allowed)
    assert ours.headers["access-control-allow-origin"] == page.origin
    assert "access-control-allow-credentials" not in ours.headers
    assert not [name for name in theirs.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["call.received", "lead.qualified", "meteor.struck"])
def test_what_a_page_says_beyond_forms_is_kept_and_not_believed(hub: Hub, page: Sender, kind: str) -> None:
    event = page.post(a_form(kind=kind)).json()["event_id"]

    stored = "select type, data ->> 'reason', data ->> 'kind' from public.events where id = %s"
    assert hub.rows(stored, event) == [("submission.quarantined", "kind", kind)]


def test_a_page_cannot_take_a_key_that_a_server_will_use(hub: Hub, page: Sender) -> None:
    key = uuid.uuid4().hex
    taken = page.post(a_form(), {**page.headers(b""), "idempotency-key": key})

    server = Sender(hub, "prime", "static", hub.env["PRIME_WEBHOOK_SECRET"])
    body = a_form()
    answer = server.post(body, {**server.headers(body), "idempotency-key": key})

    assert (taken.status_code, answer.status_code) == (202, 202)
    assert answer.json()["duplicate"] is False


def test_secrets_of_servers_and_keys_of_pages_do_not_end_each_other(own_hub: Hub) -> None:
    give_secret(own_hub, "prime", "hmac", new_secret("hmac"), "0")

    own_hub.sql("select private.new_site_secret('prime', 'page')")

    kinds = "select kind::text from private.site_secret_kinds where slug = 'prime' order by kind"
    assert own_hub.rows(kinds) == [("hmac",), ("page",)]
