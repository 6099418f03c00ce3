"""Bring events to partners: each delivery of a webhook subscription is one signed POST to its URL.

Called by the hub for one webhook at a time, so that none waits for another's. A 2xx within 10 seconds is received;
410 pauses the webhook and opens an alert; 429 and 503 say when to come again; all else is tried again with growing
pauses, and is dead, with an alert, after the subscription's last attempt.
"""

from functools import partial
from typing import Any

from shared import auth, deliveries, outgoing, settings, webhooks
from shared.endpoint import Instance, endpoint
from shared.errors import Unprocessable


@endpoint(
    caller=auth.hub,
    body=deliveries.Kick,
    kinds=("json",),
    needs=(settings.Database,),
    instance=Instance(timeout=60),
)
async def webhook_sender(_caller: None, kick: deliveries.Kick) -> dict[str, Any]:
    if kick.target is None:
        raise Unprocessable.field("target", "A kick says which webhook has deliveries waiting.")
    async with outgoing.Client() as client:
        send = partial(webhooks.send, kick.target, client)
        return await deliveries.drain(kick.target, send, concurrency=4, handler_timeout=15)
