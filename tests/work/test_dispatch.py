"""Dispatch: every event reaches each of its subscribers once, whatever is lost, repeated, late or broken."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.hubs import Hub

from shared.agents.lead_qualifier import qualification  # noqa: F401  the qualifier of the hub under test is this one


@pytest.fixture
def target(hub: Hub) -> str:
    """A subscription of its own, whose target no function answers: the test itself is the subscriber."""
    name = f"sub-{uuid.uuid4().hex[:12]}"
    hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target, max_attempts, retry_base, ordered)"
        " select id, %(name)s, array[%(type)s], %(name)s, 3, '0 seconds', true from public.organizations where slug = 'trades'",
        name=name,
        type=event_type(name),
    )
    return name


@pytest.fixture
def service(hub: Hub) -> Iterator[psycopg.Connection]:
    with psycopg.connect(hub.env["DATABASE_URL"], autocommit=True) as connection:
        yield connection


def event_type(target: str) -> str:
    return "test_" + target.replace("-", "_") + ".happened"


def emit(hub: Hub, target: str, count: int = 1, contact: Any = None) -> list[Any]:
    return [
        row[0]
        for row in hub.rows(
            "insert into public.events (org_id, type, data, contact_id)"
            " select organizations.id, %s, jsonb_build_object('n', n), %s::uuid"
            " from public.organizations, generate_series(1, %s) as n where slug = 'trades' returning id",
            event_type(target),
            contact,
            count,
        )
    ]


def claim(
    service: psycopg.Connection, target: str, batch: int = 50, lease: float = 30
) -> list[dict[str, Any]]:
    row = service.execute("select hub.claim_deliveries(%s, %s, %s)", (target, batch, int(lease))).fetchone()
    assert row is not None
    return list(row[0])


def settle(service: psycopg.Connection, *settlements: dict[str, Any]) -> list[str]:
    row = service.execute("select hub.settle_deliveries(%s)", (json.dumps(settlements),)).fetchone()
    assert row is not None
    return [result["status"] for result in row[0]]


def settlement(delivery: dict[str, Any], outcome: str, **more: Any) -> dict[str, Any]:
    return {"id": delivery["id"], "lease_token": delivery["lease_token"], "outcome": outcome, **more}


def statuses(hub: Hub, target: str) -> list[str]:
    return [
        row[0]
        for row in hub.rows(
            "select deliveries.status::text from public.deliveries join public.subscriptions on subscriptions.id = subscription_id"
            " where subscriptions.name = %s order by deliveries.id",
            target,
        )
    ]


def expire_leases(hub: Hub, target: str) -> None:
    hub.sql(
        "update public.deliveries set leased_until = now() - interval '1 second' from public.subscriptions"
        " where subscriptions.id = subscription_id and subscriptions.name = %s and status = 'running'",
        target,
    )


def test_one_statement_rings_each_target_once(hub: Hub, target: str) -> None:
    with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute(
            "insert into public.events (org_id, type)"
            " select id, %s from public.organizations, generate_series(1, 100) where slug = 'trades'",
            [event_type(target)],
        )
        # Before the commit lets pg_net take it.
        kicks = connection.execute(
            "select count(*) from net.http_request_queue where url like %s", [f"%/{target}"]
        )
        assert kicks.fetchone() == (1,)

    assert statuses(hub, target) == ["pending"] * 100


def test_a_clock_that_was_set_back_does_not_keep_kicks_back(hub: Hub, target: str) -> None:
    hub.sql("update private.kicks set kicked_at = now() + interval '1 hour' where target = %s", target)

    assert hub.rows("select private.kick(%s)", target) == [(True,)]


def test_an_agent_does_not_act_on_what_came_of_its_own_action(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    emit(hub, target)
    echo = {"events": [{"type": event_type(target)}]}
    settle(service, *(settlement(delivery, "done", effects=echo) for delivery in claim(service, target)))

    assert claim(service, target) == []
    assert hub.rows("select count(*) from public.events where type = %s", event_type(target)) == [(2,)]


def test_an_event_that_an_agent_has_only_rehearsed_did_not_come_of_its_action(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    [cause] = hub.rows(
        "with cause as ("
        "  insert into public.events (org_id, type) select id, 'thing.' || %(name)s from public.organizations"
        "  where slug = 'trades' returning org_id, id"
        ") insert into public.deliveries (org_id, event_id, subscription_id, mode, status)"
        " select cause.org_id, cause.id, subscriptions.id, 'rehearsal', 'done'"
        " from cause join public.subscriptions on subscriptions.name = %(target)s returning event_id",
        name=target.replace("-", "_"),
        target=target,
    )[0]
    hub.sql(
        "insert into public.events (org_id, type, cause_id) select org_id, %s, id from public.events where id = %s",
        event_type(target),
        cause,
    )

    assert [delivery["event"]["type"] for delivery in claim(service, target)] == [event_type(target)]


@pytest.mark.parametrize("kind", ["function", "webhook"])
def test_an_event_that_caused_itself_hangs_nobody(hub: Hub, target: str, kind: str) -> None:
    # Without a delivery to look for, nobody walks.
    emit(hub, target)
    with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
        connection.execute("set local statement_timeout = '5s'")
        if kind == "webhook":
            connection.execute(
                "insert into public.subscriptions (org_id, name, event_types, target_kind, target)"
                " select org_id, name || '-abroad', event_types, 'webhook', 'https://partner.example/' from public.subscriptions where name = %s",
                [target],
            )
        connection.execute(
            "insert into public.events (id, cause_id, org_id, type) select circle.id, circle.id, organizations.id, %s"
            " from public.organizations, (select private.uuid_v7() as id) as circle where slug = 'trades'",
            [event_type(target)],
        )
        made = connection.execute(
            "select count(*) from public.deliveries join public.events on events.id = event_id where type = %s and cause_id is not null",
            [event_type(target)],
        )
        assert made.fetchone() == ({"function": 1, "webhook": 2}[kind],)
        connection.rollback()


def test_what_cannot_be_waited_for_is_waited_for_a_day(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    emit(hub, target, count=2)
    first, second = claim(service, target)

    endless = settlement(first, "retry", error="busy", retry_after_seconds=99_999_999_999)

    assert sorted(settle(service, endless, settlement(second, "done"))) == ["done", "failed"]
    with pytest.raises(psycopg.errors.CheckViolation):
        hub.sql("update public.subscriptions set retry_base = '170000000 years' where name = %s", target)


def test_ten_claimers_share_the_work_without_a_double(hub: Hub, target: str) -> None:
    emitted = emit(hub, target, count=200)
    claimed: list[str] = []

    def work() -> None:
        with psycopg.connect(hub.env["DATABASE_URL"], autocommit=True) as connection:
            while batch := claim(connection, target, batch=7):
                claimed.extend(delivery["event"]["id"] for delivery in batch)

    workers = [threading.Thread(target=work) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(claimed) == sorted(str(event) for event in emitted)


def test_who_lost_the_lease_settles_nothing(hub: Hub, service: psycopg.Connection, target: str) -> None:
    emit(hub, target)
    slow = claim(service, target)[0]
    expire_leases(hub, target)
    hub.sql("select private.sweep_deliveries()")
    quick = claim(service, target)[0]
    effects = {"events": [{"type": "test.effect", "data": {"from": target}}]}

    late = settle(service, settlement(slow, "done", effects=effects))
    in_time = settle(service, settlement(quick, "done", effects=effects))
    again = settle(service, settlement(quick, "done", effects=effects))

    assert (late, in_time, again) == (["lost"], ["done"], ["lost"])
    assert hub.rows(
        "select count(*) from public.events where type = 'test.effect' and data ->> 'from' = %s", target
    ) == [(1,)]


def test_a_heartbeat_keeps_the_lease(hub: Hub, service: psycopg.Connection, target: str) -> None:
    emit(hub, target)
    delivery = claim(service, target)[0]
    expire_leases(hub, target)

    kept = service.execute("select hub.extend_leases(%s, 30)", (json.dumps([delivery]),)).fetchone()
    hub.sql("select private.sweep_deliveries()")

    assert kept == ([delivery["id"]],)
    assert settle(service, settlement(delivery, "done")) == ["done"]


def test_a_released_lease_costs_no_attempt(hub: Hub, service: psycopg.Connection, target: str) -> None:
    emit(hub, target)
    for _ in range(5):
        assert settle(service, settlement(claim(service, target)[0], "release")) == ["pending"]

    assert claim(service, target)[0]["attempt"] == 1


def test_a_poisoned_delivery_dies_alone_and_visibly(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    emitted = emit(hub, target, count=20)
    poisoned = str(emitted[7])

    for _ in range(4):
        for delivery in claim(service, target):
            bad = delivery["event"]["id"] == poisoned
            settle(
                service,
                settlement(delivery, "retry", error="ValueError: poison")
                if bad
                else settlement(delivery, "done"),
            )

    assert sorted(statuses(hub, target)) == ["dead"] + ["done"] * 19
    dead = hub.rows(
        "select id::text, last_error, attempts from public.deliveries where event_id = %s and status = 'dead'",
        poisoned,
    )
    assert [row[1:] for row in dead] == [("ValueError: poison", 3)]
    assert hub.rows("select count(*) from public.delivery_attempts where delivery_id = %s", dead[0][0]) == [
        (3,)
    ]
    assert hub.rows("select kind, closed_at from public.alerts where subject = %s", dead[0][0]) == [
        ("delivery_dead", None)
    ]
    assert hub.rows(
        "select count(*) from public.events where type = 'delivery.dead' and cause_id = %s", poisoned
    ) == [(1,)]


def test_replay_brings_the_dead_back_and_doubles_nothing(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    emit(hub, target, count=2)
    effects = {"events": [{"type": "test.effect", "data": {"from": target}}]}
    fine, broken = claim(service, target)
    settle(service, settlement(fine, "done", effects=effects), settlement(broken, "dead", error="no"))
    replay = "select public.replay_events(%s::jsonb, %s, dry_run => %s)"

    def as_service(*arguments: Any) -> Any:
        with psycopg.connect(hub.env["ADMIN_DATABASE_URL"]) as connection:
            connection.execute("""set local request.jwt.claims = '{"role": "service_role"}'""")
            return connection.execute(replay, arguments).fetchone()

    assert as_service("{}", target, True)[0]["matched"] == 1
    assert sorted(statuses(hub, target)) == ["dead", "done"]
    as_service("{}", target, False)
    settle(service, *(settlement(delivery, "done", effects=effects) for delivery in claim(service, target)))
    as_service('{"statuses": ["done"]}', target, False)
    again = claim(service, target)
    settle(service, *(settlement(delivery, "done", effects=effects) for delivery in again))

    assert len(again) == 2
    assert statuses(hub, target) == ["done", "done"]
    assert hub.rows(
        "select count(*) from public.events where type = 'test.effect' and data ->> 'from' = %s", target
    ) == [(2,)]
    assert hub.rows(
        "select count(*) from public.alerts where subject = %s and closed_at is null", broken["id"]
    ) == [(0,)]


def test_a_settlement_that_cannot_be_written_harms_no_other(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    emit(hub, target, count=3)
    first, second, third = claim(service, target)
    # An action needs an agent, which this subscription has not.
    broken = settlement(second, "done", effects={"action": {"decision": "x", "outcome": "self_resolved"}})

    results = settle(service, settlement(first, "done"), broken, settlement(third, "done"))

    assert sorted(results) == ["done", "done", "failed"]
    error = hub.rows("select last_error from public.deliveries where id = %s", second["id"])[0][0]
    assert error.startswith("could not be settled")


def test_retries_wait_as_long_as_they_were_told(hub: Hub, service: psycopg.Connection, target: str) -> None:
    emit(hub, target)

    settle(service, settlement(claim(service, target)[0], "retry", error="busy", retry_after_seconds=600))

    waits = hub.rows(
        "select run_at > now() + interval '590 seconds' from public.deliveries join public.subscriptions"
        " on subscriptions.id = subscription_id where name = %s",
        target,
    )
    assert waits == [(True,)]
    assert claim(service, target) == []


def test_each_contacts_events_are_handled_in_order_and_one_at_a_time(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    contacts = [
        hub.rows(
            "insert into public.contacts (org_id) select id from public.organizations where slug = 'trades' returning id"
        )[0][0]
        for _ in range(5)
    ]
    for _ in range(8):
        for contact in contacts:
            emit(hub, target, contact=contact)
    handled: dict[str, list[str]] = {}
    guard = threading.Lock()
    running: set[str] = set()
    overlapping: list[str] = []

    def work() -> None:
        with psycopg.connect(hub.env["DATABASE_URL"], autocommit=True) as connection:
            while "pending" in statuses(hub, target):
                claimed = claim(connection, target, batch=3)
                with guard:
                    for delivery in claimed:
                        contact = delivery["event"]["contact_id"]
                        if contact in running:
                            overlapping.append(contact)
                        running.add(contact)
                        handled.setdefault(contact, []).append(delivery["event"]["id"])
                for delivery in claimed:
                    # Together: what is settled may be claimed by another before we have noted that it is.
                    with guard:
                        settle(connection, settlement(delivery, "done"))
                        running.discard(delivery["event"]["contact_id"])

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert overlapping == []
    assert {len(events) for events in handled.values()} == {8}
    assert all(events == sorted(events) for events in handled.values())


@pytest.mark.parametrize(
    ("pause", "resume"),
    [
        (
            "update public.subscriptions set paused = true where name = %s",
            "update public.subscriptions set paused = false where name = %s",
        ),
        (
            "update public.organizations set paused = true where slug = 'trades' and %s <> ''",
            "update public.organizations set paused = false where slug = 'trades' and %s <> ''",
        ),
    ],
)
def test_what_is_paused_keeps_its_deliveries(
    hub: Hub, service: psycopg.Connection, target: str, pause: str, resume: str
) -> None:
    hub.sql(pause, target)
    try:
        emit(hub, target, count=3)
        held = claim(service, target)
    finally:
        hub.sql(resume, target)

    assert held == []
    assert len(claim(service, target)) == 3


def test_a_closed_organizations_work_stops_at_once(hub: Hub, service: psycopg.Connection) -> None:
    name = f"closing-{uuid.uuid4().hex[:8]}"
    org = hub.rows("insert into public.organizations (slug, name) values (%s, 'Closing') returning id", name)[
        0
    ][0]
    hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target) values (%s, %s, '{*}', %s)",
        org,
        name,
        name,
    )
    hub.sql(
        "insert into public.events (org_id, type) select %s, 'test.happened' from generate_series(1, 3)", org
    )
    held = claim(service, name, batch=1)[0]

    hub.sql("update public.organizations set closed_at = now() where id = %s", org)

    assert settle(service, settlement(held, "done", effects={"events": [{"type": "test.effect"}]})) == [
        "lost"
    ]
    assert claim(service, name) == []
    assert hub.rows("select distinct status::text from public.deliveries where org_id = %s", org) == [
        ("skipped",)
    ]
    assert hub.rows("select count(*) from public.events where org_id = %s", org) == [(3,)]


def test_ten_sweeps_at_once_take_each_lapsed_lease_back_once(
    hub: Hub, service: psycopg.Connection, target: str
) -> None:
    emit(hub, target, count=30)
    assert len(claim(service, target)) == 30
    expire_leases(hub, target)

    sweeps = [
        threading.Thread(target=hub.sql, args=("select private.sweep_deliveries()",)) for _ in range(10)
    ]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join()

    lapsed = hub.rows(
        "select count(*), count(distinct delivery_id) from public.delivery_attempts join public.deliveries on deliveries.id = delivery_id"
        " join public.subscriptions on subscriptions.id = subscription_id where name = %s and outcome = 'lapsed'",
        target,
    )
    assert lapsed == [(30, 30)]


def test_the_log_is_never_rewritten(hub: Hub, target: str) -> None:
    emitted = emit(hub, target)[0]

    for statement in (
        "update public.events set type = 'x.y' where id = %s",
        "delete from public.events where id = %s",
    ):
        with pytest.raises(psycopg.Error, match="append-only"):
            hub.sql(statement, emitted)
    with pytest.raises(psycopg.Error, match="append-only"):
        hub.sql("truncate public.events cascade")


def test_pruning_never_removes_a_guard_inside_its_window_or_open_work(hub: Hub, target: str) -> None:
    emit(hub, target, count=2)
    org = hub.rows("select id from public.organizations where slug = 'trades'")[0][0]
    for key, days in (("old", -1), ("young", 1)):
        hub.sql(
            "insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at)"
            " values (%s, %s, %s, 'x', gen_random_uuid(), now() + make_interval(days => %s))",
            target,
            key,
            org,
            days,
        )

    hub.sql("select private.prune_history()")

    assert hub.rows("select key from public.receipts where source = %s", target) == [("young",)]
    assert statuses(hub, target) == ["pending", "pending"]


def test_a_bell_that_cannot_be_rung_does_not_break_the_write(own_hub: Hub) -> None:
    own_hub.sql("delete from vault.secrets where name = 'hub_invoke_secret'")

    own_hub.sql(
        "insert into public.events (org_id, type) select id, 'form.submitted' from public.organizations where slug = 'trades'"
    )

    assert own_hub.rows("select count(*) from public.events where type = 'form.submitted'") == [(1,)]
    assert own_hub.rows("select target, failures from private.kicks where last_error is not null") == [
        ("lead-qualifier", 1)
    ]
    assert own_hub.rows("select count(*) from public.deliveries") == [(1,)]


def test_the_audit_log_shows_a_change_by_its_owner(own_hub: Hub) -> None:
    verify = "select private.verify_audit_log(id) from public.organizations where slug = 'trades'"
    assert own_hub.rows(verify) == [(None,)]

    own_hub.sql("alter table public.audit_log disable trigger user")
    own_hub.sql("update public.audit_log set actor_type = 'user' where number = 2")

    assert own_hub.rows(verify) == [(2,)]


def test_what_the_default_partition_took_goes_where_it_belongs(own_hub: Hub) -> None:
    own_hub.sql("select cron.alter_job(jobid, active => false) from cron.job")
    own_hub.sql(
        "insert into public.events (id, org_id, type) select private.uuid_v7(now() + interval '5 months'), id, 'form.submitted'"
        " from public.organizations where slug = 'trades'"
    )
    place = "select tableoid::regclass::text, (select count(*) from public.deliveries) from public.events"
    assert own_hub.rows(place) == [("private.events_elsewhere", 1)]

    own_hub.sql("select private.make_event_partitions(8)")

    ((partition, deliveries),) = own_hub.rows(place)
    assert (partition.startswith("private.events_2"), deliveries) == (True, 1)
