"""Say whether the hub does its work: 200 when it does, 503 when something stands still.

GET, for uptime checks and load balancers. Answers how long the oldest due delivery has waited, how long ago the
sweep last ran and when a monitor last looked: a process that answers is not yet a hub that works. `dead` counts the
dead deliveries, to 1000 at most; a hub is ready in spite of them.
"""

from typing import Any

from shared import db, settings
from shared.callers.anyone import anyone
from shared.web.endpoint import Instance, endpoint


@endpoint(caller=anyone, method="GET", needs=(settings.Database,), instance=Instance(timeout=10))
async def ready(_caller: None) -> tuple[dict[str, Any], int]:
    state = await db.call("readiness")
    return state, 200 if state["ready"] else 503
