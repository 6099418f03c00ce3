"""Limits: who sends too much is told when to come again, and nobody else notices."""

import concurrent.futures
import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from support.hubs import Hub
from support.signing import Sender, client, page_key

from shared.web.requests import Request

type Limit = Callable[..., None]

LIMITS = ("max_per_second", "max_per_second_from_pages", "max_per_minute_per_address")


@pytest.fixture
def limit(hub: Hub) -> Iterator[Limit]:
    """Sets limits of CleanJet, for the time of a test; what was counted before is forgotten."""

    def set_limits(**limits: int) -> None:
        for turns in ("address_turns", "site_turns", "site_turns_aside"):
            hub.sql(f"delete from private.{turns}")
        for name, value in limits.items():
            hub.sql(f"update public.sites set {name} = %s where slug = 'cleanjet'", value)

    yield set_limits
    set_limits(**dict.fromkeys(LIMITS, 100_000))


@pytest.fixture
def server(hub: Hub) -> Sender:
    return Sender(hub, "cleanjet", "static", hub.env["CLEANJET_WEBHOOK_SECRET"])


@pytest.fixture
def page(hub: Hub) -> Sender:
    return Sender(hub, "cleanjet", "page", page_key(hub, "cleanjet"))


def a_form() -> bytes:
    return json.dumps({"email_address": f"{uuid.uuid4().hex}@example.com"}).encode()


def receipts(hub: Hub) -> int:
    return int(hub.rows("select count(*) from public.receipts")[0][0])


def posted(site: Sender, count: int, **client: Any) -> list[httpx.Response]:
    return [site.post(a_form(), **client) for _ in range(count)]


def statuses(answers: list[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def test_a_site_that_sends_too_much_is_told_when_to_come_again(hub: Hub, limit: Any, server: Sender) -> None:
    limit(max_per_second=1)
    before = receipts(hub)

    answers = posted(server, 40)

    refused = [answer for answer in answers if answer.status_code == 429]
    assert statuses(answers)[:15] == [202] * 15
    assert len(refused) >= 10
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limited"}
    assert refused[0].json()["error"].keys() == {"code", "message", "details"}
    assert {int(answer.headers["retry-after"]) for answer in refused} <= {1, 2}
    assert receipts(hub) == before + 40 - len(refused)


def test_what_was_refused_is_accepted_later_once(hub: Hub, limit: Any, server: Sender) -> None:
    limit(max_per_second=1)
    body = a_form()
    assert hub.until(lambda: server.post(a_form()).status_code == 429)

    assert hub.until(lambda: server.post(body).status_code == 202)

    limit(max_per_second=1000)
    assert server.post(body).json()["duplicate"] is True


def test_who_shows_a_secret_is_not_limited_by_address(limit: Any, server: Sender) -> None:
    limit(max_per_minute_per_address=1)

    assert set(statuses(posted(server, 10))) == {202}


def test_the_load_of_a_busy_day_is_not_limited(hub: Hub, limit: Any, server: Sender) -> None:
    limit()
    default = "select column_default from information_schema.columns where table_name = 'sites' and column_name = %s"
    limit(**{name: int(hub.rows(default, name)[0][0]) for name in LIMITS})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.post(a_form()), range(600)))

    assert set(statuses(answers)) == {202}


def test_an_address_that_posts_too_much_is_limited_and_no_other(hub: Hub, limit: Any, page: Sender) -> None:
    limit(max_per_minute_per_address=3)

    ours = posted(page, 5)
    others = posted(page, 3, source="127.0.0.2")

    assert statuses(ours) == [202] * 3 + [429] * 2
    assert 15 <= int(ours[4].headers["retry-after"]) <= 20
    assert ours[4].headers["access-control-allow-origin"] == page.origin
    assert "retry-after" in ours[4].headers["access-control-expose-headers"]
    assert statuses(others) == [202] * 3


def test_a_forged_header_chooses_no_other_address(limit: Any, page: Sender) -> None:
    limit(max_per_minute_per_address=2)
    forged = [{"x-forwarded-for": f"203.0.113.{n}", "forwarded": f"for=203.0.113.{n}"} for n in range(4)]

    answers = [page.post(body := a_form(), {**page.headers(body), **header}) for header in forged]

    assert statuses(answers) == [202, 202, 429, 429]


def test_page_tokens_are_limited_by_address_apart_from_forms(hub: Hub, limit: Any, page: Sender) -> None:
    limit(max_per_minute_per_address=2)

    def ask() -> httpx.Response:
        url = f"{hub.url}/functions/v1/page-token?site=cleanjet"
        return client().get(url, headers={"origin": page.origin})

    answers = [ask() for _ in range(4)]

    assert statuses(answers) == [200, 200, 429, 429]
    assert statuses(posted(page, 1)) == [202]


def test_pages_cannot_use_up_what_servers_may_send(limit: Any, page: Sender, server: Sender) -> None:
    limit(max_per_second_from_pages=1, max_per_second=1)

    flooded = posted(page, 30)

    assert 429 in statuses(flooded)
    assert set(statuses(posted(server, 5))) == {202}


def test_an_address_that_is_refused_uses_up_nothing_of_its_sites(hub: Hub, limit: Any, page: Sender) -> None:
    limit(max_per_minute_per_address=1, max_per_second_from_pages=1)
    posted(page, 60)

    others = posted(page, 1, source="127.0.0.3")

    assert statuses(others) == [202]


def test_two_submissions_of_a_site_do_not_wait_for_each_other(hub: Hub) -> None:
    take = "select private.take_site_turn(id, 'sender', 500) from public.sites where slug = 'prime'"
    with (
        psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as one,
        psycopg.connect(hub.env["ADMIN_DATABASE_URL"], options="-c lock_timeout=200") as other,
    ):
        one.execute(take)
        other.execute(take)


def test_many_at_once_get_about_the_burst_and_not_more(hub: Hub) -> None:
    hub.sql("update public.sites set max_per_second = 1 where slug = 'akf'")
    take = "select private.take_site_turn(id, 'sender', max_per_second) from public.sites where slug = 'akf'"

    def attempt(_: int) -> bool:
        with contextlib.suppress(psycopg.Error):
            hub.rows(take)
            return True
        return False

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        granted = sum(pool.map(attempt, range(200)))

    hub.sql("update public.sites set max_per_second = 500 where slug = 'akf'")
    assert 15 <= granted <= 20 + 16 + 5


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_was_changed_locks_nobody_out(hub: Hub, limit: Any, server: Sender, hours: int) -> None:
    limit(max_per_second=1)
    assert hub.until(lambda: server.post(a_form()).status_code == 429)
    hub.sql("update private.site_turns set at = at + make_interval(hours => %s)", hours)

    assert statuses(posted(server, 5)) == [202] * 5


def test_a_rate_that_was_lowered_locks_nobody_out(hub: Hub, limit: Any, server: Sender) -> None:
    limit(max_per_second=1000)
    posted(server, 1)
    hub.sql("update private.site_turns set level = 19000, at = now()")
    hub.sql("update public.sites set max_per_second = 1 where slug = 'cleanjet'")

    refused = server.post(a_form())

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) <= 2


def test_turns_taken_at_the_same_instant_are_all_counted(hub: Hub, limit: Limit) -> None:
    limit(max_per_second=1)
    take = "select private.take_site_turn(id, 'sender', 1) from public.sites where slug = 'cleanjet'"
    hub.sql(take)
    with contextlib.ExitStack() as open_at_once:
        for _ in range(5):
            connection = open_at_once.enter_context(psycopg.connect(hub.env["ADMIN_DATABASE_URL"]))
            connection.execute(take)

    hub.sql(take)

    counted = "select round(level), poured from private.site_turns where purpose = 'sender' and level > 0"
    [(level, poured)] = hub.rows(counted)
    assert poured == 5
    assert 5 <= level <= 7


def test_addresses_that_have_rested_are_forgotten(hub: Hub, limit: Any, page: Sender) -> None:
    limit(max_per_minute_per_address=100)
    posted(page, 3)
    kept = "select count(*) from private.address_turns"
    assert hub.rows(kept) == [(1,)]

    hub.sql("update private.address_turns set free_at = now() - interval '1 second'")
    hub.sql("select private.prune_limits()")

    assert hub.rows(kept) == [(0,)]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, [], "192.0.2.9"),
        (0, [b"203.0.113.1"], "192.0.2.9"),
        (1, [b"203.0.113.1"], "203.0.113.1"),
        (1, [b"1.1.1.1, 203.0.113.1"], "203.0.113.1"),
        (1, [b"1.1.1.1", b"2.2.2.2, 203.0.113.1"], "203.0.113.1"),
        (2, [b"1.1.1.1, 203.0.113.1, 10.0.0.1"], "203.0.113.1"),
        (1, [b"2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (1, [b"::ffff:203.0.113.1"], "203.0.113.1"),
        (1, [], "unknown"),
        (1, [b""], "unknown"),
        (1, [b"203.0.113.1, not an address"], "unknown"),
        (2, [b"203.0.113.1"], "unknown"),
    ],
)
def test_the_address_is_what_our_own_proxies_say(proxies: int, forwarded: list[bytes], address: str) -> None:
    headers = [(b"x-forwarded-for", value) for value in forwarded]

    request = Request("POST", headers, scope={"client": ("192.0.2.9", 1)})

    assert request.address(proxies) == address
