"""Webhooks out: partners get each event they asked for, signed, and what ails one of them troubles no other."""

import base64
import hashlib
import hmac
import json
import random
import string
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from support.hubs import Hub, web
from support.partners import Partner, Received, running_partner

from shared.outbound import webhooks
from shared.outbound.client import _CLOSED_V4, is_open


@pytest.fixture
def partner() -> Iterator[Partner]:
    with running_partner() as partner:
        yield partner


@pytest.fixture
def other_partner() -> Iterator[Partner]:
    with running_partner() as partner:
        yield partner


def name() -> str:
    return "".join(random.choices(string.ascii_lowercase, k=16))


class Hook:
    """A webhook that an admin has made."""

    def __init__(self, hub: Hub, url: str, *event_types: str) -> None:
        self.hub = hub
        self.name = name()
        self.type = f"{self.name}.happened"
        made = hub.rpc(
            "create_webhook_subscription",
            "ADMIN",
            name=self.name,
            url=url,
            event_types=[*event_types] or [self.type],
        )
        assert made.status_code == 200, made.text
        self.id, self.secret = made.json()["id"], made.json()["secret"]
        self.change(retry_base="0 seconds")

    def change(self, **columns: Any) -> None:
        for column, value in columns.items():
            self.hub.sql(f"update public.subscriptions set {column} = %s where id = %s", value, self.id)

    def emit(self, count: int = 1) -> list[str]:
        rows = self.hub.rows(
            "insert into public.events (org_id, type, data) select organizations.id, %s, jsonb_build_object('n', n)"
            " from public.organizations, generate_series(1, %s) as n where slug = 'trades' returning id::text",
            self.type,
            count,
        )
        return [event for (event,) in rows]

    def deliveries(self, columns: str = "status::text") -> list[Any]:
        rows = self.hub.rows(
            f"select {columns} from public.deliveries where subscription_id = %s order by id", self.id
        )
        return [row[0] if len(row) == 1 else row for row in rows]

    def attempts(self) -> list[tuple[Any, ...]]:
        return self.hub.rows(
            "select outcome, error from public.delivery_attempts join public.deliveries on deliveries.id = delivery_id"
            " where subscription_id = %s order by delivery_attempts.id",
            self.id,
        )

    def alerts(self, kind: str) -> list[bool]:
        rows = self.hub.rows(
            "select closed_at is null from public.alerts where kind = %s and details ->> 'subscription' = %s",
            kind,
            self.name,
        )
        return [is_open for (is_open,) in rows]


type Make = Callable[..., Hook]


@pytest.fixture
def hook(hub: Hub) -> Iterator[Make]:
    made: list[Hook] = []

    def make(url: str, *event_types: str) -> Hook:
        made.append(Hook(hub, url, *event_types))
        return made[-1]

    yield make
    for each in made:
        hub.sql("delete from public.subscriptions where id = %s", each.id)


def is_signed(request: Received, secret: str) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = b".".join(
        [request.headers["webhook-id"].encode(), request.headers["webhook-timestamp"].encode(), request.body]
    )
    wanted = "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return wanted in request.headers["webhook-signature"].split(" ")


# What is sent -------------------------------------------------------------------------------------------------------------


def test_a_partner_gets_the_event_signed(hub: Hub, hook: Make, partner: Partner) -> None:
    webhook = hook(partner.url + "/hooks/in?token=1")
    event = webhook.emit()[0]

    assert hub.until(lambda: webhook.deliveries() == ["done"])
    (request,) = partner.received
    assert request.path == "/hooks/in?token=1"
    assert is_signed(request, webhook.secret)
    assert abs(time.time() - int(request.headers["webhook-timestamp"])) < 60
    body = json.loads(request.body)
    assert (body["type"], body["data"]["id"], body["data"]["data"]) == (webhook.type, event, {"n": 1})
    assert body["data"]["trace_id"] in request.headers["traceparent"]
    assert webhook.deliveries("result") == [{"status": 200, "answer": "thanks"}]


def test_the_signature_is_that_of_the_standard() -> None:
    secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
    body = b'{"type":"email.received","data":{"email_id":"e1"}}'

    assert webhooks.signature([secret], "msg_2abcDEF", 1750000000, body) == {
        "webhook-id": "msg_2abcDEF",
        "webhook-timestamp": "1750000000",
        "webhook-signature": "v1,s/mfcqDOAi3+sgdtQIynqG9RQ4QrutsY3JE4IUk2p0U=",
    }


def test_a_partner_gets_what_came_of_an_event_it_was_sent(hub: Hub, hook: Make, partner: Partner) -> None:
    webhook = hook(partner.url, "form.submitted", "lead.qualified")
    hub.submit("prime", {"email": f"{name()}@example.com"})

    assert hub.until(lambda: webhook.deliveries() == ["done", "done"])
    assert sorted(json.loads(request.body)["type"] for request in partner.received) == [
        "form.submitted",
        "lead.qualified",
    ]


# What is answered ---------------------------------------------------------------------------------------------------------


def test_what_fails_is_sent_again_under_the_same_id(hub: Hub, hook: Make, partner: Partner) -> None:
    partner.answers = [
        (500, {}),
        (404, {}),
        (302, {"location": "/elsewhere"}),
        (204, {"content-length": "0"}),
    ]
    partner.text = b""
    webhook = hook(partner.url)
    webhook.emit()

    assert hub.until(lambda: webhook.deliveries() == ["done"], 40)
    assert len({request.headers["webhook-id"] for request in partner.received}) == 1
    assert partner.paths == ["/"] * 4
    assert [error for _, error in webhook.attempts()] == [
        "Retry: answered 500: ",
        "Retry: answered 404: ",
        "Retry: answered 302: ",
        None,
    ]


@pytest.mark.parametrize("status", [429, 503])
def test_a_partner_says_when_to_come_again(hub: Hub, hook: Make, partner: Partner, status: int) -> None:
    partner.answers = [(status, {"retry-after": "600"})]
    webhook = hook(partner.url)
    webhook.emit()

    assert hub.until(lambda: webhook.deliveries() == ["failed"])
    assert webhook.deliveries("run_at > now() + interval '590 seconds'") == [True]


def test_410_pauses_the_webhook_until_a_person_lets_it_run(hub: Hub, hook: Make, partner: Partner) -> None:
    partner.answers = [(410, {}), (200, {})]
    webhook = hook(partner.url)
    webhook.emit()

    assert hub.until(lambda: webhook.deliveries() == ["failed"])
    assert webhook.alerts("webhook_gone") == [True]
    webhook.emit(2)
    hub.sql("select private.sweep_deliveries()")
    assert webhook.deliveries() == ["failed", "pending", "pending"]
    assert len(partner.received) == 1

    resumed = web.patch(
        f"{hub.url}/rest/v1/subscriptions?id=eq.{webhook.id}",
        json={"paused": False},
        headers={
            "apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"],
            "authorization": f"Bearer {hub.token('ADMIN')}",
        },
    )

    assert resumed.status_code == 204
    assert hub.until(lambda: webhook.deliveries() == ["done"] * 3)
    assert webhook.alerts("webhook_gone") == [False]


def test_a_dead_delivery_is_told_by_another_webhook_and_runs_in_no_circle(
    hub: Hub, hook: Make, partner: Partner, other_partner: Partner
) -> None:
    partner.answers = [(500, {})]
    partner.text = b"call jo@example.com, " * 100
    down = hook(partner.url)
    down.change(event_types=[down.type, "alert.*", "delivery.*"], max_attempts=2)
    pager = hook(other_partner.url, "alert.*")
    event = down.emit()[0]

    assert hub.until(lambda: down.deliveries() == ["dead"], 40)
    assert down.alerts("delivery_dead") == [True]
    error = down.attempts()[-1][1]
    assert error.startswith("Retry: answered 500: call [masked], call")
    assert len(error) <= 1000

    def told() -> list[dict[str, Any]]:
        sent = [json.loads(request.body) for request in other_partner.received]
        return [body for body in sent if body["data"]["data"]["details"].get("subscription") == down.name]

    assert hub.until(lambda: len(told()) == 1)
    assert told()[0]["type"] == "alert.opened"
    assert told()[0]["data"]["data"]["details"]["event_id"] == event
    assert pager.alerts("delivery_dead") == []
    assert down.deliveries() == ["dead"]


def test_a_partner_that_stalls_holds_up_no_other(
    hub: Hub, hook: Make, partner: Partner, other_partner: Partner
) -> None:
    partner.answers = [None]
    stalled, well = hook(partner.url), hook(other_partner.url)
    stalled.emit(50)
    assert hub.until(lambda: bool(partner.received))

    well.emit(10)

    assert hub.until(lambda: well.deliveries() == ["done"] * 10, 5)
    assert len(partner.received) <= 4
    assert hub.until(lambda: ("retry", "Retry: no answer within 10 s") in stalled.attempts(), 20)


def test_an_address_that_only_the_hub_can_reach_is_not_reached(hub: Hub, hook: Make) -> None:
    webhook = hook("https://partner.example/latest/meta-data")
    # As a name would lead there that is a partner's today and tomorrow ours: SQL can know none.
    hub.as_superuser(
        "set session_replication_role = 'replica';"
        f" update public.subscriptions set target = 'https://169.254.169.254/latest/meta-data' where id = '{webhook.id}'"
    )
    webhook.emit()

    assert hub.until(lambda: webhook.deliveries() == ["dead"])
    assert webhook.attempts() == [("dead", "Permanent: the name leads to an address that is not public")]


# Secrets ------------------------------------------------------------------------------------------------------------------


def test_while_a_secret_is_changed_both_sign(hub: Hub, hook: Make, partner: Partner) -> None:
    webhook = hook(partner.url)
    secrets = [webhook.secret]
    for overlap in ("1 day", "1 day", "0"):
        answer = hub.rpc("rotate_webhook_secret", "ADMIN", subscription_id=webhook.id, old_valid_for=overlap)
        secrets.append(answer.json()["secret"])
        webhook.emit()
        assert hub.until(lambda: len(partner.received) == len(secrets) - 1)

    signed = [[is_signed(request, secret) for secret in secrets] for request in partner.received]
    assert signed == [
        [True, True, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]


@pytest.mark.parametrize("overlap", [None, "-1 day", "31 days"])
def test_an_old_secret_does_not_sign_for_ever(
    hub: Hub, hook: Make, partner: Partner, overlap: str | None
) -> None:
    webhook = hook(partner.url)

    answer = hub.rpc("rotate_webhook_secret", "ADMIN", subscription_id=webhook.id, old_valid_for=overlap)

    assert (answer.status_code, answer.json()["details"]) == (422, "bad_overlap")
    secrets = "select count(*) from private.webhook_secrets where subscription_id = %s"
    assert hub.rows(secrets, webhook.id) == [(1,)]


def test_a_webhook_that_is_deleted_leaves_no_secret(hub: Hub, hook: Make, partner: Partner) -> None:
    webhook = hook(partner.url)
    webhook.emit()
    assert hub.until(lambda: webhook.deliveries() == ["done"])
    kept = "select count(*) from vault.secrets where description = %s"
    assert hub.rows(kept, f"signs webhook {webhook.id}") == [(1,)]

    assert hub.rpc("delete_webhook_subscription", "ADMIN", subscription_id=webhook.id).status_code == 204

    assert hub.rows(kept, f"signs webhook {webhook.id}") == [(0,)]
    assert hub.rows("select count(*) from public.subscriptions where id = %s", webhook.id) == [(0,)]
    assert hub.rows(
        "select count(*) from private.kicks where target = 'webhook-sender/' || %s", webhook.id
    ) == [(0,)]


def test_no_secret_is_in_what_people_may_read(hub: Hub, hook: Make, partner: Partner) -> None:
    webhook = hook(partner.url)

    for table in ("subscriptions", "audit_log", "events"):
        found = hub.rows(
            f"select count(*) from public.{table} as row where row::text like %s", f"%{webhook.secret}%"
        )
        assert found == [(0,)]


# Who may ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["OPERATOR", "CLOSER", "VIEWER"])
def test_only_admins_make_and_change_webhooks(hub: Hub, hook: Make, partner: Partner, who: str) -> None:
    webhook = hook(partner.url)

    answers = [
        hub.rpc(
            "create_webhook_subscription", who, name=name(), url="https://a.example", event_types=["form.*"]
        ),
        hub.rpc("rotate_webhook_secret", who, subscription_id=webhook.id),
        hub.rpc("delete_webhook_subscription", who, subscription_id=webhook.id),
    ]

    assert [answer.status_code for answer in answers] == [403, 404, 404]


def test_admins_change_no_webhook_of_another_organization(hub: Hub) -> None:
    theirs = hub.rows(
        "with org as (insert into public.organizations (slug, name) values (%s, 'Theirs') returning id)"
        " insert into public.subscriptions (org_id, name, event_types, target_kind, target)"
        " select id, 'theirs', '{form.*}', 'webhook', 'https://theirs.example' from org returning id, org_id",
        name(),
    )[0]

    answers = [
        hub.rpc("rotate_webhook_secret", "ADMIN", subscription_id=str(theirs[0])),
        hub.rpc(
            "create_webhook_subscription",
            "ADMIN",
            name=name(),
            url="https://a.example",
            event_types=["form.*"],
            org_id=str(theirs[1]),
        ),
    ]

    assert [answer.status_code for answer in answers] == [404, 403]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://partner.example/"},
        {"url": "http://10.0.0.1/"},
        {"url": "http://8.8.8.8/"},
        {"url": "https://user:pass@partner.example/"},
        {"url": "https://partner.example/#part"},
        {"url": "https://partner.example/a b"},
        {"url": "https://[::1]/"},
        {"url": "ftp://partner.example/"},
        {"url": "https://"},
        {"url": "https://partner.example/" + "x" * 2000},
        {"url": "https://partner.example/\u00e9"},
        {"url": None},
        {"name": ""},
        {"name": "n" * 101},
        {"event_types": []},
        {"event_types": ["form"]},
        {"event_types": ["form.*.x"]},
        {"event_types": [None]},
    ],
)
def test_what_cannot_be_a_webhook_is_refused(hub: Hub, wrong: dict[str, Any]) -> None:
    right = {
        "name": name(),
        "url": "https://partner.example/in?x=1",
        "event_types": ["form.*", "lead.qualified"],
    }

    answer = hub.rpc("create_webhook_subscription", "ADMIN", **{**right, **wrong})

    assert answer.status_code == 422, answer.text


NOBODYS_NAME = "the internet has no such name"
NOT_PUBLIC = "is not public"
SPELLED = "is not written as four decimal numbers"
LOOPBACK = ["127.0.0.1", "127.0.0.1.", "127.1.2.3", "localhost", "localhost.", "partner.localhost"]
NEVER_REACHED = {
    "10.1.2.3": NOT_PUBLIC,
    "172.16.0.1": NOT_PUBLIC,
    "192.168.1.1": NOT_PUBLIC,
    "169.254.169.254": NOT_PUBLIC,
    "169.254.169.254.": NOT_PUBLIC,
    "0.0.0.0": NOT_PUBLIC,
    "100.64.0.1": NOT_PUBLIC,
    "224.0.0.1": NOT_PUBLIC,
    "255.255.255.255": NOT_PUBLIC,
    "2130706433": SPELLED,
    "0x7f000001": SPELLED,
    "0x7f.1": SPELLED,
    "0x": SPELLED,
    "0177.0.0.1": SPELLED,
    "10.0.0.010": SPELLED,
    "127.1": SPELLED,
    "8.8.8.8.8": SPELLED,
    "256.1.1.1": SPELLED,
    "metadata": NOBODYS_NAME,
    "metadata.google.internal": NOBODYS_NAME,
    "internal": NOBODYS_NAME,
    "printer.local": NOBODYS_NAME,
    "printer.local.": NOBODYS_NAME,
    "router.home.arpa": NOBODYS_NAME,
    "partner.invalid": NOBODYS_NAME,
    "partner.test": NOBODYS_NAME,
    "hidden.onion": NOBODYS_NAME,
    ".example.com": NOBODYS_NAME,
    "partner..example": NOBODYS_NAME,
    "partner.example..": NOBODYS_NAME,
    ".": NOBODYS_NAME,
    f"{'a' * 64}.example": NOBODYS_NAME,
    "a." * 126 + "example": NOBODYS_NAME,
    "[::ffff:10.0.0.1]": "https",
    "[2606:4700:4700::1111]": "https",
    "user@partner.example": "https",
    "partner.example@10.0.0.1": "https",
    "partner.example\\@10.0.0.1": "https",
    "%31%30.0.0.1": "https",
    "partner.example:0": "port",
    "partner.example:00000": "port",
    "partner.example:65536": "port",
    "partner.example:": "https",
}


@pytest.mark.parametrize("host", NEVER_REACHED)
def test_a_webhook_that_could_never_be_reached_is_refused_when_it_is_made(hub: Hub, host: str) -> None:
    answer = hub.rpc(
        "create_webhook_subscription", "ADMIN", name=name(), url=f"https://{host}/in", event_types=["form.*"]
    )

    assert (answer.status_code, answer.json()["details"]) == (422, "bad_url"), answer.text
    assert NEVER_REACHED[host] in answer.json()["message"]


@pytest.mark.parametrize(
    "host",
    [
        *("1.1.1.1", "1.1.1.1:1", "100.128.0.1", "partner.example:65535", "partner.example."),
        *(
            "10.example.com",
            "0x7f.example.com",
            "internal.example.com",
            "local.example.com",
            "xn--bcher-kva.example",
        ),
    ],
)
def test_whatever_may_be_a_partner_may_be_a_webhook(hub: Hub, host: str) -> None:
    answer = hub.rpc(
        "create_webhook_subscription", "ADMIN", name=name(), url=f"https://{host}/in", event_types=["form.*"]
    )

    assert answer.status_code == 200, answer.text


def test_a_hub_on_one_machine_may_have_partners_there_and_no_other_hub_may(own_hub: Hub) -> None:
    urls = [f"https://{host}/in" for host in LOOPBACK]
    urls += ["http://127.0.0.1:8443/in", "http://localhost:8443/in", "http://partner.localhost:8443/in"]

    def answered() -> set[int]:
        made = [
            own_hub.rpc("create_webhook_subscription", "ADMIN", name=name(), url=url, event_types=["form.*"])
            for url in urls
        ]
        return {answer.status_code for answer in made}

    here = answered()
    own_hub.sql(
        "select vault.update_secret(id, 'https://region-project.cloudfunctions.net') from vault.secrets"
        " where name = 'functions_url'"
    )

    assert (here, answered()) == ({200}, {422})


def test_the_address_of_a_webhook_is_changed_by_nobody_to_one_that_cannot_be_reached(
    hub: Hub, hook: Make, partner: Partner
) -> None:
    webhook = hook(partner.url)

    patched = web.patch(
        f"{hub.url}/rest/v1/subscriptions?id=eq.{webhook.id}",
        json={"target": "https://partner.example/"},
        headers=hub.signed_in("ADMIN"),
    )

    assert patched.status_code == 403
    with pytest.raises(psycopg.Error, match=r"10\.0\.0\.1 is not public"):
        webhook.change(target="https://10.0.0.1/")
    with pytest.raises(psycopg.Error, match=r"10\.0\.0\.2 is not public"):
        hub.sql(
            "insert into public.subscriptions (org_id, name, event_types, target_kind, target)"
            " select org_id, %s, '{form.*}', 'webhook', 'https://10.0.0.2/' from public.subscriptions where id = %s",
            name(),
            webhook.id,
        )
    webhook.change(target="https://partner.example/")


def test_sql_and_the_sender_know_the_same_addresses_as_public(hub: Hub) -> None:
    edges = [
        block[at] + step
        for block in _CLOSED_V4
        for at, step in ((0, -1), (0, 0), (-1, 0), (-1, 1))
        if 0 <= int(block[at]) + step < 2**32
    ]

    known = hub.rows(
        "select address, private.webhook_url_problem('https://' || address || '/', false) is null"
        " from unnest(%s::text[]) as address",
        [str(edge) for edge in edges],
    )

    assert known == [(str(edge), is_open(edge)) for edge in edges]


def test_a_name_is_one_webhooks(hub: Hub, hook: Make, partner: Partner) -> None:
    webhook = hook(partner.url)

    answer = hub.rpc(
        "create_webhook_subscription", "ADMIN", name=webhook.name, url=partner.url, event_types=["form.*"]
    )

    assert answer.status_code == 409
