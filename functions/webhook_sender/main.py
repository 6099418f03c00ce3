"""Bring events to partners: each delivery of a webhook subscription is one signed POST to its URL.

Kicked by the hub for one webhook at a time, so that none waits for another's. A 2xx within 10 seconds is received.
410 pauses the webhook and opens an alert. 429 and 503 may say when to retry. Any other answer is retried with growing
pauses, and the delivery is dead, with an alert, after the subscription's last attempt.
"""

from functools import partial
from typing import Any

from shared import settings
from shared.callers.hub import hub
from shared.errors import Unprocessable
from shared.outbound import webhooks
from shared.outbound.client import Client
from shared.web.endpoint import Instance, endpoint
from shared.work.drain import Kick, Pace, drain


@endpoint(
    caller=hub,
    body=Kick,
    kinds=("json",),
    needs=(settings.Database,),
    instance=Instance(timeout=60),
)
async def webhook_sender(_caller: None, kick: Kick) -> dict[str, Any]:
    if kick.target is None:
        raise Unprocessable.field("target", "A kick says which webhook has deliveries waiting.")
    async with Client() as client:
        send = partial(webhooks.send, kick.target, client)
        return await drain(kick.target, send, Pace(concurrency=4, handler_timeout=15))
