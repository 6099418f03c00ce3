"""ready: a hub that answers but does nothing is not ready, and says what stands still."""

from typing import Any

import httpx
from hubs import web


def ready(hub: Any) -> httpx.Response:
    return web.get(f"{hub.url}/functions/v1/ready")


def test_a_hub_that_works_is_ready(own_hub: Any) -> None:
    assert own_hub.until(lambda: ready(own_hub).json()["swept_seconds_ago"] is not None)

    assert ready(own_hub).status_code == 200


def test_deliveries_that_nobody_takes_make_it_unready(own_hub: Any) -> None:
    own_hub.sql("select net.set_faults(lose => 1.0)")
    own_hub.sql(
        "insert into public.events (org_id, type) select id, 'form.submitted' from public.organizations where slug = 'trades'"
    )
    own_hub.sql("update public.deliveries set run_at = now() - interval '2 minutes'")

    answer = ready(own_hub)

    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["oldest_due_seconds"] >= 120


def test_a_clock_that_stands_still_makes_it_unready(own_hub: Any) -> None:
    own_hub.sql(
        "select cron.alter_job(jobid, active => false) from cron.job where jobname = 'sweep_deliveries'"
    )

    answer = ready(own_hub)

    assert (answer.status_code, answer.json()["swept_seconds_ago"]) == (503, None)
