"""Look at an organization every 15 minutes: at its sites, deliveries, functions, pulls, jobs and models.

Kicked by the hub when a `monitor.due` event waits. SQL looks, and opens and closes the alerts, so that what is
found twice is one alert; the action written here lists the findings, also when there are none.
"""

from typing import Any

from shared import db, settings
from shared.callers.hub import hub
from shared.web.endpoint import Instance, endpoint
from shared.work.drain import Kick, Pace, drain
from shared.work.envelopes import Delivery
from shared.work.outcomes import Done, Permanent, Skip


@endpoint(
    caller=hub,
    body=Kick,
    kinds=("json",),
    needs=(settings.Database,),
    instance=Instance(timeout=60, concurrency=10),
)
async def data_monitor(_caller: None, _kick: Kick) -> dict[str, Any]:
    return await drain("data-monitor", look, Pace(concurrency=2))


async def look(delivery: Delivery) -> Done:
    agent = delivery.agent
    if agent is None or agent.config is None:
        raise Permanent("the subscription has no agent with a published version")

    if delivery.mode == "rehearsal":
        raise Skip("a look at the past would find the present")
    found = await db.call("run_monitor", event_id=delivery.event.id, config=agent.config)
    if found is None:
        raise Skip("a later look is due already")
    return Done(
        action={
            "decision": decision(found),
            "reasons": found["open"] or ["Nothing is wrong."],
            "confidence": 1,
            "outcome": "failed" if found["failed"] else "escalated" if found["opened"] else "self_resolved",
            "output": found,
            "version_id": str(agent.version_id),
        },
        result={"opened": len(found["opened"]), "closed": len(found["closed"])},
    )


def decision(found: dict[str, Any]) -> str:
    if found["opened"]:
        return "alerts_opened"
    return "alerts_open" if found["open"] or found["failed"] else "all_well"
