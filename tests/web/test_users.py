"""Callers: a site by its secret, a user by their token, and the same refusal whatever was wrong."""

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest
from support.hubs import Hub
from support.partners import running_partner

from shared import db
from shared.callers import sites
from shared.callers.users import signed_in
from shared.errors import Unauthorized, Unavailable
from shared.web.caller import Caller
from shared.web.requests import Request


@pytest.fixture(autouse=True)
def environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "TRUSTED_PROXIES"):
        monkeypatch.setenv(name, hub.env[name])
    sites._cache.clear()
    sites._unknown.clear()


def shown[Who](caller: Caller[Who], **headers: str | bytes) -> Who:
    raw = [
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    return asyncio.run(closing(caller(Request("POST", raw))))


async def closing[Result](work: Awaitable[Result]) -> Result:
    try:
        return await work
    finally:
        await db.close()


def test_a_site_is_known_by_its_secret(hub: Hub) -> None:
    site = shown(sites.sender("prime"), x_webhook_secret=hub.env["PRIME_WEBHOOK_SECRET"])

    assert (site.slug, site.phone_region) == ("prime", "NZ")
    assert hub.rows("select site_id from private.site_secrets where id = %s", site.secret_id) == [(site.id,)]


@pytest.mark.parametrize(
    ("slug", "secret"),
    [
        ("prime", ""),
        ("prime", "wrong"),
        ("prime", b"\xff\xfe"),
        ("prime", "AKF_WEBHOOK_SECRET"),
        ("nowhere", "PRIME_WEBHOOK_SECRET"),
        ("nowhere", ""),
    ],
)
def test_any_other_secret_or_site_is_refused_alike(hub: Hub, slug: str, secret: str | bytes) -> None:
    with pytest.raises(Unauthorized) as refusal:
        shown(sites.sender(slug), x_webhook_secret=hub.env.get(str(secret), secret))

    assert refusal.value.body() == Unauthorized().body()


def test_a_new_secret_is_found_and_wrong_ones_cannot_hammer_the_database(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = []
    call = db.call

    async def counted(function: str, **named: object) -> Any:
        lookups.append(function)
        return await call(function, **named)

    monkeypatch.setattr(db, "call", counted)
    caller = sites.sender("cleanjet")
    assert shown(caller, x_webhook_secret=hub.env["CLEANJET_WEBHOOK_SECRET"])
    new = uuid.uuid4().hex
    hub.sql("select private.set_site_secret('cleanjet', %s, '1 hour')", new)
    monkeypatch.setattr(sites, "LOOK_AGAIN_AFTER", 0)
    assert shown(caller, x_webhook_secret=new)
    monkeypatch.setattr(sites, "LOOK_AGAIN_AFTER", 60)

    for _ in range(5):
        with pytest.raises(Unauthorized):
            shown(caller, x_webhook_secret="wrong")

    assert lookups.count("site") == 2


def test_names_that_are_no_sites_do_not_push_out_those_that_are(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "MOST_UNKNOWN", 5)

    async def look_up_all() -> sites.Known:
        prime = await sites.look_up("prime")
        for n in range(12):
            assert (await sites.look_up(f"nowhere-{n}")).secrets == ()
        assert await sites.look_up("prime") is prime
        return prime

    assert asyncio.run(closing(look_up_all())).secrets
    assert len(sites._unknown) <= 5


def test_the_form_of_a_slug_is_the_databases(hub: Hub) -> None:
    [(rule,)] = hub.rows(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'sites_slug_form'"
    )

    assert f"'^{sites._SLUG.pattern}$'" in rule


def test_a_site_is_known_from_when_there_is_one(hub: Hub) -> None:
    slug = f"site-{uuid.uuid4().hex[:12]}"

    async def look_up_twice() -> list[sites.Known]:
        before = await sites.look_up(slug, 0)
        hub.sql(
            "insert into public.sites (org_id, number, slug, name, url)"
            " select org_id, max(number) + 1, %s, 'New', 'https://new.example' from public.sites group by org_id"
            " order by org_id limit 1",
            slug,
        )
        return [before, await sites.look_up(slug, 0), await sites.look_up(slug)]

    before, *after = asyncio.run(closing(look_up_twice()))

    assert before.secrets == ()
    assert after[0].secrets
    assert after[1] is after[0]


def test_a_user_is_known_by_their_token(hub: Hub) -> None:
    user = shown(signed_in(), authorization=f"Bearer {hub.token('VIEWER')}")

    assert hub.rows("select id from auth.users where email = %s", hub.env["VIEWER_EMAIL"]) == [(user.id,)]


@pytest.mark.parametrize("keys", [b"[]", b'{"keys": null}', b"{}", b"no JSON"])
def test_an_auth_that_answers_no_keys_is_unavailable(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, keys: bytes
) -> None:
    token = hub.token("ADMIN")
    with running_partner() as auth:
        auth.text = keys
        monkeypatch.setenv("SUPABASE_URL", auth.url)
        with pytest.raises(Unavailable) as refusal:
            shown(signed_in(), authorization=f"Bearer {token}")

    assert refusal.value.code == "auth_unavailable"


@pytest.mark.parametrize(
    "forged", ["", "Bearer", "Bearer x.y.z", "Basic eDp5", "Bearer {key}", "Bearer {cut}", "{token}"]
)
def test_any_other_token_is_refused_alike(hub: Hub, forged: str) -> None:
    real = hub.token("ADMIN")
    key = hub.env["SUPABASE_PUBLISHABLE_KEY"]
    sent = forged.format(key=key, token=real, cut=real[:-6] + "AAAAAA")

    with pytest.raises(Unauthorized):
        shown(signed_in(), authorization=sent)
