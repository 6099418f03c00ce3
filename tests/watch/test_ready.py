"""ready: a hub that answers but does nothing is not ready, and says what stands still."""

from typing import Any

import httpx
from support.hubs import Hub, web


def ready(hub: Hub) -> httpx.Response:
    return web.get(f"{hub.url}/functions/v1/ready")


def test_a_hub_that_works_is_ready(own_hub: Hub) -> None:
    assert own_hub.until(lambda: ready(own_hub).json()["swept_seconds_ago"] is not None)

    assert ready(own_hub).status_code == 200


def test_deliveries_that_nobody_takes_make_it_unready(own_hub: Hub) -> None:
    own_hub.sql("select net.set_faults(lose => 1.0)")
    own_hub.sql(
        "insert into public.events (org_id, type) select id, 'form.submitted' from public.organizations where slug = 'trades'"
    )
    own_hub.sql("update public.deliveries set run_at = now() - interval '2 minutes'")

    answer = ready(own_hub)

    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["oldest_due_seconds"] >= 120


def test_a_clock_that_stands_still_makes_it_unready(own_hub: Hub) -> None:
    own_hub.sql(
        "select cron.alter_job(jobid, active => false) from cron.job where jobname = 'sweep_deliveries'"
    )

    answer = ready(own_hub)

    assert (answer.status_code, answer.json()["swept_seconds_ago"]) == (503, None)


def test_dead_deliveries_are_counted_and_leave_it_ready(own_hub: Any) -> None:
    assert own_hub.until(lambda: ready(own_hub).status_code == 200)
    before = ready(own_hub).json()["dead"]
    own_hub.sql(
        "insert into public.deliveries (org_id, event_id, subscription_id, mode, status)"
        " select org_id, gen_random_uuid(), id, mode::public.delivery_mode, 'dead' from public.subscriptions,"
        " unnest(array['live', 'live', 'rehearsal']) as mode where name = 'data-monitor' and org_id ="
        " (select id from public.organizations where slug = 'trades')"
    )

    answer = ready(own_hub)

    assert (answer.status_code, answer.json()["dead"]) == (200, before + 2)


def test_the_count_is_found_by_its_index_and_ends_at_a_thousand(own_hub: Hub) -> None:
    own_hub.sql(
        "insert into public.deliveries (org_id, event_id, subscription_id, status)"
        " select org_id, gen_random_uuid(), id, case when n <= 1100 then 'dead' else 'failed' end::public.delivery_status"
        " from public.subscriptions, generate_series(1, 20000) as n where name = 'data-monitor' and org_id ="
        " (select id from public.organizations where slug = 'trades')"
    )
    own_hub.sql("update public.subscriptions set paused = true")
    used = "select idx_scan from pg_stat_user_indexes where indexrelname = 'deliveries_dead_idx'"
    before = own_hub.rows(used)

    assert ready(own_hub).json()["dead"] == 1000
    assert own_hub.until(lambda: own_hub.rows(used) > before)
