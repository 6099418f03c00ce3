"""Alerts: one open for each kind and subject, told once and not too often, closed by recovery or by a person."""

import threading
import uuid
from typing import Any

import httpx
import psycopg
import pytest
from emulator.state import State
from emulator.tokens import Tokens
from support.hubs import Hub, web


@pytest.fixture
def org(hub: Hub) -> uuid.UUID:
    name = f"alerts-{uuid.uuid4().hex[:10]}"
    org: uuid.UUID = hub.rows(
        "insert into public.organizations (slug, name) values (%s, %s) returning id", name, name
    )[0][0]
    return org


def open_alert(hub: Hub, org: uuid.UUID, subject: str = "a", **more: Any) -> bool:
    named = "".join(f", {name} => %({name})s" for name in more)
    call = f"select private.open_alert(%(org)s, 'tried', %(subject)s, 'warning', 'It is so.'{named})"
    return bool(hub.rows(call, org=org, subject=subject, **more)[0][0])


def close_alert(hub: Hub, org: uuid.UUID, subject: str = "a") -> bool:
    return bool(hub.rows("select private.close_alert(%s, 'tried', %s)", org, subject)[0][0])


def told(hub: Hub, org: uuid.UUID) -> list[str]:
    rows = hub.rows(
        "select type from public.events where org_id = %s and type like 'alert.%%' order by id", org
    )
    return [type for (type,) in rows]


def an_hour_passes(hub: Hub, org: uuid.UUID) -> None:
    hub.sql(
        "update private.alert_notices set notified_at = notified_at - interval '1 hour' where org_id = %s",
        org,
    )


def test_what_is_seen_again_stays_one_alert_and_is_told_once(hub: Hub, org: uuid.UUID) -> None:
    assert [open_alert(hub, org), open_alert(hub, org), open_alert(hub, org)] == [True, False, False]

    assert hub.rows(
        "select count(*), max(last_seen_at) > min(opened_at) from public.alerts where org_id = %s", org
    ) == [(1, True)]
    assert told(hub, org) == ["alert.opened"]


def test_who_learnt_that_it_opened_learns_that_it_closed(hub: Hub, org: uuid.UUID) -> None:
    open_alert(hub, org)

    assert [close_alert(hub, org), close_alert(hub, org)] == [True, False]
    assert told(hub, org) == ["alert.opened", "alert.closed"]


def test_what_comes_and_goes_is_told_once_an_hour(hub: Hub, org: uuid.UUID) -> None:
    for _ in range(3):
        open_alert(hub, org)
        close_alert(hub, org)
    assert told(hub, org) == ["alert.opened", "alert.closed"]

    an_hour_passes(hub, org)
    open_alert(hub, org)

    assert told(hub, org) == ["alert.opened", "alert.closed", "alert.opened"]


def test_what_was_held_back_is_told_when_the_hour_is_over(hub: Hub, org: uuid.UUID) -> None:
    open_alert(hub, org)
    close_alert(hub, org)
    open_alert(hub, org)
    hub.sql("select private.notify_held_back()")
    assert told(hub, org) == ["alert.opened", "alert.closed"]

    an_hour_passes(hub, org)
    hub.sql("select private.notify_held_back()")
    hub.sql("select private.notify_held_back()")

    assert told(hub, org) == ["alert.opened", "alert.closed", "alert.opened"]


def test_many_subjects_of_one_topic_are_told_as_one(hub: Hub, org: uuid.UUID) -> None:
    for number in range(20):
        open_alert(hub, org, subject=str(number), topic="the partner is down")

    assert hub.rows("select count(*) from public.alerts where org_id = %s", org) == [(20,)]
    assert told(hub, org) == ["alert.opened"]


def test_the_organization_says_how_often(hub: Hub, org: uuid.UUID) -> None:
    hub.sql("update public.organizations set alert_every = '0' where id = %s", org)

    for _ in range(2):
        open_alert(hub, org)
        close_alert(hub, org)

    assert told(hub, org) == ["alert.opened", "alert.closed"] * 2


def test_ten_that_find_it_at_once_open_one_and_tell_one(hub: Hub, org: uuid.UUID) -> None:
    found: list[bool] = []

    def find(subject: str) -> None:
        with psycopg.connect(hub.env["ADMIN_DATABASE_URL"], autocommit=True) as connection:
            call = "select private.open_alert(%s, 'tried', %s, 'warning', 'It is so.', topic => 'one')"
            found.append(connection.execute(call, (org, subject)).fetchone()[0])  # type: ignore[index]

    finders = [threading.Thread(target=find, args=(f"subject {number % 2}",)) for number in range(10)]
    for finder in finders:
        finder.start()
    for finder in finders:
        finder.join()

    assert sorted(found) == [False] * 8 + [True] * 2
    assert told(hub, org) == ["alert.opened"]


def test_an_alert_says_which_event_showed_it(hub: Hub, org: uuid.UUID) -> None:
    event, trace = hub.rows(
        "insert into public.events (org_id, type) values (%s, 'note.kept') returning id, trace_id", org
    )[0]

    open_alert(hub, org, event_id=event)

    rows = hub.rows(
        "select cause_id, trace_id, subject_id = (data ->> 'alert_id')::uuid, data ->> 'message' from public.events"
        " where org_id = %s and type = 'alert.opened'",
        org,
    )
    assert rows == [(event, trace, True, "It is so.")]


# People -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(hub: Hub, org: uuid.UUID) -> dict[str, dict[str, str]]:
    """The headers of a person for each role in the organization."""
    keys = State(hub.state).keys
    tokens = Tokens(keys, hub.url)
    rows = hub.rows(
        "with person as (insert into auth.users (id, email) select gen_random_uuid(), role || '@' || gen_random_uuid() || '.example'"
        " from unnest(enum_range(null::public.member_role)) as role returning id, split_part(email, '@', 1) as role)"
        " insert into public.memberships (org_id, user_id, role) select %s, id, role::public.member_role from person"
        " returning role::text, user_id",
        org,
    )
    return {
        role: {
            "apikey": keys.publishable_key,
            "authorization": "Bearer " + tokens.issue({"sub": str(user), "role": "authenticated"}),
        }
        for role, user in rows
    }


def ask(hub: Hub, headers: dict[str, str], call: str, alert: Any) -> httpx.Response:
    return web.post(f"{hub.url}/rest/v1/rpc/{call}", json={"alert_id": str(alert)}, headers=headers)


def test_operators_acknowledge_and_close_and_it_is_written_down(
    hub: Hub, org: uuid.UUID, people: dict[str, dict[str, str]]
) -> None:
    open_alert(hub, org)
    alert = hub.rows("select id from public.alerts where org_id = %s", org)[0][0]

    seen = ask(hub, people["operator"], "acknowledge_alert", alert)
    over = ask(hub, people["admin"], "close_alert", alert)
    again = ask(hub, people["admin"], "close_alert", alert)

    assert (seen.status_code, seen.json()["closed_at"]) == (200, None)
    assert (over.status_code, over.json()["acknowledged_at"]) == (200, seen.json()["acknowledged_at"])
    assert over.json()["closed_at"]
    assert again.status_code == 404
    written = hub.rows(
        "select count(*) from public.audit_log where resource_id = %s and actor_type = 'user'", str(alert)
    )
    assert written == [(2,)]


@pytest.mark.parametrize("role", ["viewer", "closer"])
def test_others_and_other_organizations_change_no_alert(
    hub: Hub, org: uuid.UUID, people: dict[str, dict[str, str]], role: str
) -> None:
    open_alert(hub, org)
    ours = hub.rows("select id from public.alerts where org_id = %s", org)[0][0]
    trades = hub.rows("select id from public.organizations where slug = 'trades'")[0][0]
    open_alert(hub, trades, subject=str(org))
    theirs = hub.rows("select id from public.alerts where org_id = %s and subject = %s", trades, str(org))[0][
        0
    ]

    answers = [ask(hub, people[role], "close_alert", ours), ask(hub, people["admin"], "close_alert", theirs)]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert hub.rows(
        "select count(*) from public.alerts where id in (%s, %s) and closed_at is null", ours, theirs
    ) == [(2,)]
