"""deliveries: whatever becomes of one delivery, the others are handled, and each lease ends settled or given back."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.hubs import Hub

from shared import db
from shared.work.drain import Pace, drain
from shared.work.envelopes import Delivery
from shared.work.outcomes import Done, Handle, Permanent, Skip

type Emit = Callable[[int], None]
type Drained = Callable[..., dict[str, Any]]


@pytest.fixture
def target(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """A subscription that no function answers: the test drains it."""
    monkeypatch.setenv("DATABASE_URL", hub.env["DATABASE_URL"])
    name = f"drain-{uuid.uuid4().hex[:12]}"
    hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target, max_attempts, retry_base)"
        " select id, %(name)s, array[%(type)s], %(name)s, 3, '1 hour' from public.organizations where slug = 'trades'",
        name=name,
        type=f"{name.replace('-', '_')}.happened",
    )
    return name


@pytest.fixture
def emit(hub: Hub, target: str) -> Emit:
    def insert(count: int) -> None:
        hub.sql(
            "insert into public.events (org_id, type, data) select organizations.id, %s, jsonb_build_object('n', n)"
            " from public.organizations, generate_series(1, %s) as n where slug = 'trades'",
            f"{target.replace('-', '_')}.happened",
            count,
        )

    return insert


@pytest.fixture
def drained(target: str) -> Drained:
    def run(handle: Handle, **options: Any) -> dict[str, Any]:
        return asyncio.run(closing(drain(target, handle, Pace(**options))))

    return run


async def closing[Result](work: Awaitable[Result]) -> Result:
    try:
        return await work
    finally:
        await db.close()


def outcomes(hub: Hub, target: str) -> dict[int, tuple[str, int, str | None]]:
    rows = hub.rows(
        "select (events.data ->> 'n')::int, status::text, attempts, last_error"
        " from public.deliveries join public.events on events.id = event_id"
        " join public.subscriptions on subscriptions.id = subscription_id where subscriptions.name = %s",
        target,
    )
    return {number: (status, attempts, error) for number, status, attempts, error in rows}


async def well(_delivery: Delivery) -> Done:
    return Done(result={"handled": True})


async def never(_delivery: Delivery) -> Done:
    await asyncio.Event().wait()
    raise AssertionError


def test_everything_that_is_due_is_handled_over_several_batches(
    hub: Hub, target: str, emit: Emit, drained: Drained
) -> None:
    emit(45)

    summary = drained(well, batch=10)

    assert (summary["claimed"], summary["done"]) == (45, 45)
    assert set(outcomes(hub, target).values()) == {("done", 1, None)}


def test_each_way_to_fail_ends_one_delivery_and_no_other(
    hub: Hub, target: str, emit: Emit, drained: Drained
) -> None:
    emit(6)

    async def handle(delivery: Delivery) -> Done:
        match delivery.event.data["n"]:
            case 1:
                raise RuntimeError("no answer for ann@example.com from https://user:pass@host")
            case 2:
                raise Permanent("never will")
            case 3:
                raise Skip("not for us")
            case 4:
                return await never(delivery)
            case 5:
                return Done(result={"text": "a\0b"})
        return Done()

    summary = drained(handle, handler_timeout=0.2)

    assert summary == {
        "claimed": 6, "done": 1, "retried": 3, "dead": 1, "skipped": 1, "released": 0, "lost": 0, "joined": False
    }  # fmt: skip
    ended = outcomes(hub, target)
    assert ended[1] == ("failed", 1, "RuntimeError: no answer for [masked] from https://[masked]host")
    assert ended[2] == ("dead", 1, "Permanent: never will")
    assert ended[3][0] == "skipped"
    assert ended[4] == ("failed", 1, "took longer than 0.2 s")
    assert str(ended[5][2]).startswith("could not be settled")
    assert ended[6] == ("done", 1, None)


def test_a_slow_one_keeps_its_lease_and_holds_up_nobody(
    hub: Hub, target: str, emit: Emit, drained: Drained
) -> None:
    emit(5)
    quick: list[int] = []

    async def handle(delivery: Delivery) -> Done:
        if delivery.event.data["n"] == 1:
            await asyncio.sleep(3)
            lapsed = (
                "select count(*) from public.deliveries where status = 'running' and leased_until < now()"
            )
            assert len(quick) == 4
            assert await asyncio.to_thread(hub.rows, lapsed) == [(0,)]
        else:
            quick.append(1)
        return Done()

    summary = drained(handle, lease=1, concurrency=2)

    assert (summary["done"], summary["lost"]) == (5, 0)


def test_a_lease_that_was_taken_away_ends_its_handler_without_effect(
    hub: Hub, target: str, emit: Emit, drained: Drained
) -> None:
    emit(1)

    async def handle(delivery: Delivery) -> Done:
        take = "update public.deliveries set lease_token = gen_random_uuid() where id = %s"
        await asyncio.to_thread(hub.sql, take, delivery.id)
        return await never(delivery)

    summary = drained(handle, lease=1)

    assert (summary["lost"], summary["done"], summary["retried"]) == (1, 0, 0)
    assert outcomes(hub, target)[1][0] == "running"


def test_the_deadline_gives_back_what_was_not_finished_at_no_attempt(
    hub: Hub, target: str, emit: Emit, drained: Drained
) -> None:
    emit(5)

    summary = drained(never, concurrency=2, deadline=0.3, grace=0.2)

    assert (summary["claimed"], summary["released"]) == (5, 5)
    assert set(outcomes(hub, target).values()) == {("pending", 0, None)}


def test_what_runs_at_the_deadline_has_its_grace_to_end(
    hub: Hub, target: str, emit: Emit, drained: Drained
) -> None:
    emit(1)

    async def slow(_delivery: Delivery) -> Done:
        await asyncio.sleep(0.6)
        return Done()

    summary = drained(slow, deadline=0.1, grace=20)

    assert (summary["done"], summary["released"]) == (1, 0)


def test_a_drain_that_is_cancelled_gives_everything_back(hub: Hub, target: str, emit: Emit) -> None:
    emit(3)

    async def cancelled() -> None:
        begun = asyncio.Event()

        async def handle(delivery: Delivery) -> Done:
            begun.set()
            return await never(delivery)

        work = asyncio.create_task(drain(target, handle))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(closing(cancelled()))

    assert set(outcomes(hub, target).values()) == {("pending", 0, None)}


def test_a_kick_during_a_drain_is_answered_at_once_and_makes_it_look_again(
    hub: Hub, target: str, emit: Emit
) -> None:
    emit(1)

    async def kicked() -> tuple[dict[str, Any], dict[str, Any]]:
        begun, second_is_done = asyncio.Event(), asyncio.Event()

        async def handle(delivery: Delivery) -> Done:
            if begun.is_set():
                second_is_done.set()
            begun.set()
            await second_is_done.wait()
            return Done()

        work = asyncio.create_task(drain(target, handle))
        await begun.wait()
        await asyncio.to_thread(emit, 1)
        joined = await drain(target, handle)
        return joined, await work

    joined, summary = asyncio.run(closing(kicked()))

    assert joined["joined"]
    assert (joined["claimed"], summary["claimed"], summary["done"]) == (0, 2, 2)


def test_an_event_that_comes_while_it_lingers_is_found_without_a_kick(
    hub: Hub, target: str, emit: Emit
) -> None:
    async def lingering() -> dict[str, Any]:
        work = asyncio.create_task(drain(target, well))
        await asyncio.sleep(0)
        await asyncio.to_thread(emit, 1)
        return await work

    assert asyncio.run(closing(lingering()))["done"] == 1


def test_while_the_database_restarts_nothing_is_settled_twice_or_forgotten(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", own_hub.env["DATABASE_URL"])
    own_hub.sql(
        "insert into public.subscriptions (org_id, name, event_types, target)"
        " select id, 'drain', '{drain.happened}', 'drain' from public.organizations where slug = 'trades'"
    )
    own_hub.sql(
        "insert into public.events (org_id, type, data) select id, 'drain.happened', '{\"n\": 1}'"
        " from public.organizations where slug = 'trades'"
    )

    async def handle(_delivery: Delivery) -> Done:
        await asyncio.to_thread(own_hub.restart_database)
        return Done()

    summary = asyncio.run(closing(drain("drain", handle)))

    assert (summary["claimed"], summary["done"]) == (1, 1)
    assert outcomes(own_hub, "drain") == {1: ("done", 1, None)}
