"""kill -9 of every process, again and again: nothing answered is missing, nothing is doubled, nothing stays stuck."""

import asyncio
import statistics

import pytest
from load import crash
from support.hubs import Hub
from support.scale import IS_WHOLE, SUBMISSIONS

EVERYTHING = ["gateway", "workers", "postgres"]


@pytest.mark.timeout(300)
def test_thousands_of_submissions_survive_any_kill(own_hub: Hub) -> None:
    history = asyncio.run(crash.bombard(own_hub, SUBMISSIONS, EVERYTHING, every=1.5))

    assert crash.wait_until_still(own_hub)
    assert crash.violations(own_hub, history, SUBMISSIONS) == []
    assert not IS_WHOLE or set(history.kills) == set(EVERYTHING)
    assert not history.database_back_after or statistics.median(history.database_back_after) < 1


# Each fault is one that a reader might believe harmless; the check above must turn red with it.
PLANTED = {
    "answer before commit": (
        ["postgres"],
        "answered and are missing",
        "alter role hub_service set synchronous_commit = off",
    ),
    "no unique key": (
        ["gateway"],
        "different ids",
        """
        alter table public.receipts drop constraint receipts_pkey;
        alter table public.receipts add constraint receipts_pkey unique (source, key, event_id)
        """,
    ),
    "effect outside the settling transaction": (
        ["gateway"],
        "lead.qualified events",
        """
        alter function private.settle_together rename to settle_rest;
        create function private.settle_together(settlements jsonb) returns jsonb language sql as $$
          select private.settle_rest(jsonb_agg(said #- '{effects,events}')) from jsonb_array_elements(settlements) as said $$;
        alter function hub.claim_deliveries rename to claim_rest;
        create function hub.claim_deliveries(target text, batch_size integer, lease_seconds integer)
        returns jsonb language plpgsql security definer as $$
        declare batch jsonb := hub.claim_rest(target, batch_size, lease_seconds);
        begin
          insert into public.events (org_id, type, cause_id)
          select (held ->> 'org_id')::uuid, 'lead.qualified', (held #>> '{event,id}')::uuid
          from jsonb_array_elements(batch) as held;
          return batch;
        end $$;
        grant execute on function hub.claim_deliveries to hub_service
        """,
    ),
}


@pytest.mark.timeout(200)
@pytest.mark.skipif(not IS_WHOLE, reason="takes two minutes: SUBMISSIONS=5000 make test, as CI does")
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(own_hub: Hub, fault: str) -> None:
    names, violation, statements = PLANTED[fault]
    # A database that is killed loses what it answered in the fifth of a second before: it takes several to be sure.
    submissions, every = (1_000, 0.8) if names == ["gateway"] else (2_000, 0.7)
    own_hub.as_superuser(statements)

    history = asyncio.run(crash.bombard(own_hub, submissions, names, every))
    crash.wait_until_still(own_hub)

    found = crash.violations(own_hub, history, submissions)
    assert any(violation in each for each in found), found
