"""Proofs: a site proves itself with a secret of any kind that it has, and with nothing else."""

import base64
import concurrent.futures
import hmac
import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.hubs import Hub, web
from support.signing import Sender, give_secret, hub_signature, new_secret, page_key, standard

from shared import standard_webhooks

KINDS = ("static", "standard", "hmac", "page")
SIGNED = ("standard", "hmac")
STORED = "select (select count(*) from public.receipts), (select count(*) from public.contacts)"


@pytest.fixture(scope="module")
def sites(hub: Hub) -> dict[str, Sender]:
    """AKF with a secret of each kind at once, and CleanJet with one secret."""
    hub.sql("update public.sites set max_per_minute_per_address = 100000")
    given = {kind: give_secret(hub, "akf", kind, new_secret(kind)) for kind in KINDS[:3]}
    given["page"] = Sender(hub, "akf", "page", page_key(hub, "akf"))
    given["other"] = give_secret(hub, "cleanjet", "standard", new_secret("standard"))
    return given


def a_form(**more: Any) -> bytes:
    return json.dumps({"your_email": f"{uuid.uuid4().hex}@example.com", **more}).encode()


def form_of(hub: Hub, answer: httpx.Response) -> Any:
    return hub.rows("select data -> 'form' from public.events where id = %s", answer.json()["event_id"])[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_of_each_kind_records_a_form(hub: Hub, sites: dict[str, Sender], kind: str) -> None:
    body = a_form(your_name="Jo", text="ā 'quoted' ✓")

    answer = sites[kind].post(body)

    assert answer.status_code == 202, answer.text
    assert form_of(hub, answer) == json.loads(body)
    used = hub.rows(
        "select kind::text from public.receipts join private.site_secrets on site_secrets.id = secret_id where event_id = %s",
        answer.json()["event_id"],
    )
    assert used == [(kind,)]


def changed(field: str, change: Callable[[str], Any]) -> Callable[[Sender, bytes], Any]:
    """Rightly signed, then one header changed."""
    return lambda site, body: {
        name: change(value) if name == field else value for name, value in site.headers(body).items()
    }


def at(seconds: float) -> Callable[[Sender, bytes], Any]:
    """Rightly signed, at another time."""
    return lambda site, body: site.headers(body, at=time.time() + seconds)


def as_timestamp(text: str | bytes) -> Callable[[Sender, bytes], Any]:
    """Rightly signed with this for a timestamp."""

    def headers(site: Sender, body: bytes) -> dict[str, Any]:
        sent = text if isinstance(text, bytes) else text.format(now=int(time.time())).encode()
        made = standard(site.secret, body) if site.kind == "standard" else hub_signature(site.secret, body)
        name = "webhook-timestamp" if site.kind == "standard" else "x-hub-timestamp"
        key = base64.b64decode(site.secret[6:]) if site.kind == "standard" else site.secret.encode()
        begin = made["webhook-id"].encode() + b"." if site.kind == "standard" else b""
        mac = hmac.digest(key, begin + sent + b"." + body, "sha256")
        right = "v1," + base64.b64encode(mac).decode() if site.kind == "standard" else "sha256=" + mac.hex()
        return {**made, name: sent, f"{'webhook' if site.kind == 'standard' else 'x-hub'}-signature": right}

    return headers


def repeated(name: str) -> Callable[[Sender, bytes], Any]:
    return lambda site, body: [*site.headers(body).items(), (name, site.headers(body)[name])]


def as_svix(*fields: str) -> Callable[[Sender, bytes], Any]:
    """Rightly signed, these of the headers under the names that Svix has for them."""
    return lambda site, body: {
        name.replace("webhook", "svix") if name in fields else name: value
        for name, value in site.headers(body).items()
    }


BROKEN: dict[str, tuple[str, Callable[[Sender, bytes], Any]]] = {
    **{
        f"{kind} signed {seconds:+} s": (kind, at(seconds))
        for kind in SIGNED
        for seconds in (-310, 310, -86_400, 10_000_000)
    },
    **{
        f"{kind} timestamp {text!r}": (kind, as_timestamp(text))
        for kind in SIGNED
        for text in (
            *(
                "",
                "{now}0",
                "0{now}",
                "{now}.0",
                "+{now}",
                "-{now}",
                "1_79526100",
                "1e9",
                "0x6b0000ff",
                "now",
            ),
            "١٧٩٥٢٦١٠٠٦".encode(),
            b"99999999999999999999999999",
        )
    },
    "no signature": ("standard", lambda site, body: {}),
    "standard of another body": ("standard", lambda site, body: site.headers(body + b" ")),
    "standard of another id": ("standard", changed("webhook-id", lambda _: "msg_other")),
    "standard without an id": ("standard", changed("webhook-id", lambda _: "")),
    "standard with a dot in the id": ("standard", lambda site, body: site.headers(body, message_id="a.b")),
    "standard with a long id": ("standard", lambda site, body: site.headers(body, message_id="a" * 201)),
    "standard as version 2": (
        "standard",
        changed("webhook-signature", lambda it: it.replace("v1,", "v2,")),
    ),
    "standard as v1a": ("standard", changed("webhook-signature", lambda it: it.replace("v1,", "v1a,"))),
    "standard without version": ("standard", changed("webhook-signature", lambda it: it[3:])),
    "standard cut": ("standard", changed("webhook-signature", lambda it: it[:-1])),
    "standard with more": ("standard", changed("webhook-signature", lambda it: it + "=")),
    "standard empty": ("standard", changed("webhook-signature", lambda _: "")),
    "standard of nothing": ("standard", changed("webhook-signature", lambda _: "v1,")),
    "standard not ASCII": ("standard", changed("webhook-signature", lambda _: "v1,ä".encode())),
    "standard by the key as it is written": (
        "standard",
        lambda site, body: standard("whsec_" + base64.b64encode(site.secret.encode()).decode(), body),
    ),
    "standard twice": ("standard", repeated("webhook-signature")),
    "standard id twice": ("standard", repeated("webhook-id")),
    "standard time twice": ("standard", repeated("webhook-timestamp")),
    **{
        f"standard with {' and '.join(fields)} as Svix names it": ("standard", as_svix(*fields))
        for fields in (
            ("webhook-id",),
            ("webhook-timestamp",),
            ("webhook-signature",),
            ("webhook-id", "webhook-timestamp"),
            ("webhook-id", "webhook-signature"),
            ("webhook-timestamp", "webhook-signature"),
        )
    },
    "svix of another body": ("standard", lambda site, body: site.headers(body + b" ", names="svix")),
    "svix at another time": (
        "standard",
        lambda site, body: site.headers(body, at=time.time() - 310, names="svix"),
    ),
    "svix as v1a": (
        "standard",
        lambda site, body: {
            name: value.replace("v1,", "v1a,") for name, value in site.headers(body, names="svix").items()
        },
    ),
    "svix id twice": (
        "standard",
        lambda site, body: [*site.headers(body, names="svix").items(), ("svix-id", "msg_other")],
    ),
    "svix signature twice": (
        "standard",
        lambda site, body: [*site.headers(body, names="svix").items(), ("svix-signature", "v1,x")],
    ),
    "standard by the static secret": ("standard", lambda site, body: {"x-webhook-secret": site.secret}),
    "hmac of another body": ("hmac", lambda site, body: site.headers(body + b" ")),
    "hmac without its name": ("hmac", changed("x-hub-signature", lambda it: it[7:])),
    "hmac as sha1": ("hmac", changed("x-hub-signature", lambda it: it.replace("256", "1"))),
    "hmac empty": ("hmac", changed("x-hub-signature", lambda _: "")),
    "hmac not ASCII": ("hmac", changed("x-hub-signature", lambda _: "sha256=ä".encode())),
    "hmac twice": ("hmac", repeated("x-hub-signature")),
    "hmac time twice": ("hmac", repeated("x-hub-timestamp")),
    "hmac by the static secret": ("hmac", lambda site, body: {"x-webhook-secret": site.secret}),
    "static cut": ("static", lambda site, body: {"x-webhook-secret": site.secret[:-1]}),
    "static in another case": ("static", lambda site, body: {"x-webhook-secret": site.secret.upper()}),
    "static as hmac": ("static", lambda site, body: hub_signature(site.secret, body)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_does_not_hold_is_refused_alike_and_stores_nothing(
    hub: Hub, sites: dict[str, Sender], broken: str
) -> None:
    kind, headers = BROKEN[broken]
    body = a_form()
    before = hub.rows(STORED)

    answer = sites[kind].post(body, headers(sites[kind], body))

    assert answer.status_code == 401, answer.text
    assert answer.json() == {
        "error": {
            "code": "unauthorized",
            "message": "The credentials of this request are not valid here.",
            "details": [],
        }
    }
    assert hub.rows(STORED) == before


@pytest.mark.parametrize("kind", ["static", "other"])
def test_another_sites_secret_is_no_secret_here(hub: Hub, sites: dict[str, Sender], kind: str) -> None:
    secret = sites[kind].secret if kind == "other" else hub.env["CLEANJET_WEBHOOK_SECRET"]
    stranger = Sender(hub, "akf", sites[kind].kind, secret)

    assert stranger.post(a_form()).status_code == 401


def test_of_several_signatures_one_must_hold_and_unknown_versions_are_skipped(
    sites: dict[str, Sender],
) -> None:
    body = a_form()
    headers = sites["standard"].headers(body)
    wrong = standard(new_secret("standard"), body)["webhook-signature"]
    headers["webhook-signature"] = f"v1a,AAAA {wrong}  {headers['webhook-signature']} v9,x"

    assert sites["standard"].post(body, headers).status_code == 202


def test_svix_headers_are_standard_webhooks_under_other_names(sites: dict[str, Sender]) -> None:
    site, body, message = sites["standard"], a_form(), f"msg_{uuid.uuid4().hex}"
    named = {names: site.headers(body, message_id=message, names=names) for names in ("svix", "webhook")}

    first, again = site.post(body, named["svix"]), site.post(body, named["webhook"])
    other = a_form()
    another_body = site.post(other, site.headers(other, message_id=message, names="svix"))

    assert first.status_code == 202, first.text
    assert again.json() == {**first.json(), "duplicate": True}
    assert another_body.status_code == 409


def test_of_several_svix_signatures_one_must_hold_and_v1a_is_skipped(sites: dict[str, Sender]) -> None:
    body = a_form()
    headers = sites["standard"].headers(body, names="svix")
    headers["svix-signature"] = f"v1a,AAAA v1,AAAA {headers['svix-signature']}"

    assert sites["standard"].post(body, headers).status_code == 202


@pytest.mark.parametrize("names", ["webhook", "svix"])
def test_beside_headers_that_a_relay_leaves_there_those_that_hold_count(
    sites: dict[str, Sender], names: str
) -> None:
    body, other = a_form(), {"webhook": "svix", "svix": "webhook"}[names]
    right = sites["standard"].headers(body, message_id=f"msg_{uuid.uuid4().hex}", names=names)
    foreign = standard(new_secret("standard"), body, names=other)

    first = sites["standard"].post(body, {**right, **foreign})
    again = sites["standard"].post(body, right)

    assert first.status_code == 202, first.text
    assert again.json() == {**first.json(), "duplicate": True}


def test_a_signature_that_does_not_hold_is_no_harm_beside_a_secret_that_does(
    sites: dict[str, Sender],
) -> None:
    body = a_form()
    headers = {**standard(new_secret("standard"), body), **sites["static"].headers(body)}

    assert sites["static"].post(body, headers).status_code == 202


def test_a_signature_is_the_one_that_another_library_makes() -> None:
    body = b'{"type":"email.received","data":{"email_id":"e1"}}'

    key = standard_webhooks.key_of("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX")

    assert (
        standard_webhooks.signature(key, b"msg_2abcDEF", b"1750000000", body)
        == b"v1,s/mfcqDOAi3+sgdtQIynqG9RQ4QrutsY3JE4IUk2p0U="
    )


@pytest.mark.parametrize("kind", KINDS)
def test_two_secrets_are_valid_while_one_replaces_the_other(
    hub: Hub, sites: dict[str, Sender], kind: str
) -> None:
    if kind == "page":
        old = Sender(hub, "akf", kind, page_key(hub, "akf"))
    else:
        old = give_secret(hub, "akf", kind, new_secret(kind))
    new = give_secret(hub, "akf", kind, new_secret(kind))

    both = old.post(a_form()), new.post(a_form())
    hub.sql(
        "update private.site_secrets set valid_to = now() where sha256 = sha256(convert_to(%s, 'UTF8'))",
        old.secret,
    )
    after = old.post(a_form()), new.post(a_form())

    assert [answer.status_code for answer in (*both, *after)] == [202, 202, 401, 202]
    if kind == "page":
        sites["page"] = new


@pytest.mark.parametrize("kind", SIGNED)
def test_a_signed_request_sent_24_times_at_once_is_recorded_once(
    hub: Hub, sites: dict[str, Sender], kind: str
) -> None:
    body = a_form()
    headers = sites[kind].headers(body)

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: sites[kind].post(body, headers), range(24)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["event_id"] for answer in answers}) == 1
    assert [answer.json()["duplicate"] for answer in answers].count(False) == 1
    email = json.loads(body)["your_email"]
    assert hub.rows(
        "select count(*) from public.events where data -> 'form' ->> 'your_email' = %s", email
    ) == [(1,)]


@pytest.mark.parametrize("kind", SIGNED)
def test_a_key_beside_the_signature_does_not_make_a_replay_new(sites: dict[str, Sender], kind: str) -> None:
    body = a_form()
    headers = sites[kind].headers(body)
    first = sites[kind].post(body, headers)

    again = sites[kind].post(body, {**headers, "idempotency-key": uuid.uuid4().hex})

    assert again.json() == {**first.json(), "duplicate": True}


def test_a_retry_under_the_same_id_at_another_time_is_the_same_message(sites: dict[str, Sender]) -> None:
    body, message = a_form(), f"msg_{uuid.uuid4().hex}"

    def send(at: float) -> httpx.Response:
        return sites["standard"].post(body, sites["standard"].headers(body, message_id=message, at=at))

    first, again = send(time.time() - 60), send(time.time())

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["event_id"] == again.json()["event_id"]


def test_the_same_id_with_another_body_is_refused(sites: dict[str, Sender]) -> None:
    message = f"msg_{uuid.uuid4().hex}"
    bodies = a_form(), a_form()

    answers = [
        sites["standard"].post(body, sites["standard"].headers(body, message_id=message)) for body in bodies
    ]

    assert [answer.status_code for answer in answers] == [202, 409]


def test_a_failure_while_recording_does_not_use_the_message_up(own_hub: Hub) -> None:
    site = give_secret(own_hub, "akf", "standard", new_secret("standard"))
    own_hub.sql(
        "create function private.fail_now() returns trigger language plpgsql as $$ begin raise exception 'planted'; end $$;"
        " create trigger planted before insert on public.events for each row execute function private.fail_now()"
    )
    body, message = a_form(), "msg_1"
    failed = site.post(body, site.headers(body, message_id=message, at=time.time() - 30))
    own_hub.sql("drop trigger planted on public.events")

    answers = [site.post(body, site.headers(body, message_id=message)) for _ in range(2)]

    assert [answer.status_code for answer in (failed, *answers)] == [500, 202, 202]
    assert [answer.json()["duplicate"] for answer in answers] == [False, True]


def test_a_replay_after_a_restart_is_still_a_replay(own_hub: Hub) -> None:
    site = give_secret(own_hub, "akf", "hmac", new_secret("hmac"))
    body = a_form()
    headers = site.headers(body)
    first = site.post(body, headers)
    os.kill(own_hub.process_of("gateway"), signal.SIGKILL)

    again = web.post(site.url, content=body, headers={**headers, "content-type": "application/json"})

    assert again.json() == {**first.json(), "duplicate": True}


def test_a_site_changes_from_its_static_secret_to_signatures_without_losing_a_form(own_hub: Any) -> None:
    static = Sender(own_hub, "akf", "static", own_hub.env["AKF_WEBHOOK_SECRET"])
    body = a_form()
    before = static.post(body, {**static.headers(body), "idempotency-key": "msg_7"})
    secret = own_hub.rows("select private.new_site_secret('akf', old_valid_for => '1 hour')")[0][0]
    signing = Sender(own_hub, "akf", "standard", secret)
    assert own_hub.until(lambda: signing.post(b"[]").status_code == 422)

    meanwhile = static.post(a_form()), signing.post(a_form())
    retried = signing.post(body, signing.headers(body, message_id="msg_7"))
    newest = own_hub.rows("select private.new_site_secret('akf')")[0][0]

    assert [answer.status_code for answer in meanwhile] == [202, 202]
    assert retried.json() == {**before.json(), "duplicate": True}
    assert newest.startswith("whsec_")
    assert (static.post(a_form()).status_code, signing.post(a_form()).status_code) == (401, 401)
    signing.secret = newest
    assert own_hub.until(lambda: signing.post(a_form()).status_code == 202)


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("static", "short"),
        ("hmac", "x" * 31),
        ("standard", "x" * 40),
        ("standard", "whsec_c2hvcnQ="),
        ("standard", "whsec_" + "A" * 45),
    ],
)
def test_a_weak_or_malformed_secret_is_not_stored(hub: Hub, kind: str, secret: str) -> None:
    with pytest.raises(Exception, match="secret"):
        hub.sql("select private.set_site_secret('akf', %s, '0', %s::public.secret_kind)", secret, kind)


def test_a_static_secret_is_shown_as_weak_and_no_secret_is_shown(hub: Hub, sites: dict[str, Sender]) -> None:
    headers = {"apikey": hub.env["SUPABASE_SECRET_KEY"]}
    shown = web.get(f"{hub.url}/rest/v1/rpc/site_secret_kinds?slug=eq.akf", headers=headers)

    shown_kinds = {row["kind"]: row["is_weak"] for row in shown.json()}
    assert shown_kinds == {"static": True, "standard": False, "hmac": False, "page": False}
    assert not any(site.secret in shown.text for site in sites.values())
    assert hub.rows(
        "select count(*) from private.site_secrets where (kind = 'static') = (vault_id is not null)"
    ) == [(0,)]


def test_a_key_that_has_ended_leaves_the_vault(hub: Hub) -> None:
    secret = new_secret("hmac")
    give_secret(hub, "akf", "hmac", secret)
    key = (
        "with ended as (update private.site_secrets set valid_to = now()"
        " where sha256 = sha256(convert_to(%s, 'UTF8')) returning vault_id) select vault_id from ended"
    )
    vault_id = hub.rows(key, secret)[0][0]

    hub.sql("select private.forget_ended_keys()")

    assert vault_id is not None
    assert hub.rows("select count(*) from vault.secrets where id = %s", vault_id) == [(0,)]
    assert hub.rows(key, secret) == [(None,)]


def test_a_key_that_the_vault_cannot_read_stops_no_other(hub: Hub, sites: dict[str, Sender]) -> None:
    lost = give_secret(hub, "akf", "hmac", new_secret("hmac"))
    hub.as_superuser(
        "update vault.secrets set secret = 'bm90IGEgY2lwaGVydGV4dA==' from private.site_secrets"
        f" where vault_id = secrets.id and sha256 = sha256(convert_to('{lost.secret}', 'UTF8'))"
    )

    give_secret(hub, "akf", "hmac", new_secret("hmac"))

    assert lost.post(a_form()).status_code == 401
    assert [sites[kind].post(a_form()).status_code for kind in ("static", "standard")] == [202, 202]


def test_no_log_line_holds_a_secret_a_signature_or_a_token(hub: Hub, sites: dict[str, Sender]) -> None:
    body = a_form()
    shown = [site.secret for site in sites.values()]
    for kind in KINDS:
        headers = sites[kind].headers(body)
        shown += [value for name, value in headers.items() if name not in ("origin", "webhook-id")]
        sites[kind].post(body, headers)
        sites[kind].post(b"{", headers)
    times = [value for value in shown if value.isdigit()]

    written = "".join(path.read_text(errors="replace") for path in (hub.state / "logs").glob("*.log"))

    assert [value for value in shown if value not in times and value in written] == []


def test_what_is_refused_is_counted_by_site_and_reason(own_hub: Hub) -> None:
    site = give_secret(own_hub, "akf", "standard", new_secret("standard"))
    body = a_form()
    tries = {
        "missing": {},
        "secret": {"x-webhook-secret": "wrong"},
        "signature": standard(new_secret("standard"), body),
        "timestamp": site.headers(body, at=1_500_000_000),
        "page_token": {"origin": site.origin, "x-page-token": "1.x"},
    }

    for headers in tries.values():
        for _ in range(20):
            assert site.post(body, headers).status_code == 401

    counted = "select reason, sum(count)::int from public.refusals join public.sites on sites.id = site_id where slug = 'akf' group by 1"
    assert own_hub.until(lambda: dict(own_hub.rows(counted)) == dict.fromkeys(tries, 20))
    # However many there were, a minute has one row for each reason.
    assert own_hub.rows(
        "select max(rows) <= 2 from (select count(*) as rows from public.refusals group by reason) as r"
    ) == [(True,)]
    own_hub.sql("update public.refusals set minute = minute - interval '3 days'")
    own_hub.sql("select private.prune_limits()")
    assert own_hub.rows("select count(*) from public.refusals") == [(0,)]
