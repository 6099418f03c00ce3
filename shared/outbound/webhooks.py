"""Webhooks out: an event as a signed request, by Standard Webhooks, and the meaning of a partner's answer.

`webhook-id` is the delivery's, the same at every attempt, so a partner that got an event twice can tell. Every secret that
is valid signs, so a partner may change over whenever it likes.
"""

import time
from http import HTTPStatus

import orjson
from pydantic import BaseModel, ConfigDict

from shared import db, log, retry_after, standard_webhooks, tracing
from shared.outbound.client import EXCERPT_BYTES, Answer, Client, Forbidden, Unreachable
from shared.work.envelopes import Delivery
from shared.work.outcomes import Done, Permanent, Retry


class Webhook(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: str
    secrets: list[str]


async def send(target: str, client: Client, delivery: Delivery) -> Done:
    # Looked up for each delivery: a secret that was just revoked signs nothing more.
    row = await db.call("webhook", target=target)
    if row is None:
        raise Permanent("there is no such webhook")
    webhook = Webhook.model_validate(row)
    body = body_of(delivery)
    headers = {
        "content-type": "application/json",
        "user-agent": "mission-control",
        "traceparent": tracing.traceparent() or "",
        **signature(webhook.secrets, str(delivery.id), int(time.time()), body),
    }
    try:
        answer = await client.post(webhook.url, body, headers)
    except Forbidden as error:
        raise Permanent(str(error)) from error
    except Unreachable as error:
        raise Retry(str(error), 0) from error
    return await judged(answer, delivery)


def body_of(delivery: Delivery) -> bytes:
    event = delivery.event
    data = event.model_dump(exclude={"type", "occurred_at"}, exclude_none=True)
    return orjson.dumps(
        {"type": event.type, "timestamp": event.occurred_at, "data": data}, option=orjson.OPT_UTC_Z
    )


def signature(secrets: list[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    at = str(timestamp)
    signatures = (
        standard_webhooks.signature(standard_webhooks.key_of(secret), message_id.encode(), at.encode(), body)
        for secret in secrets
    )
    return {
        "webhook-id": message_id,
        "webhook-timestamp": at,
        "webhook-signature": b" ".join(signatures).decode(),
    }


async def judged(answer: Answer, delivery: Delivery) -> Done:
    """2xx is received. Any other status is retried; 410 also pauses the webhook, until a user lets it run again."""
    excerpt = log.masked(answer.excerpt.replace("\0", ""), limit=EXCERPT_BYTES)
    if 200 <= answer.status < 300:
        return Done(result={"status": answer.status, "answer": excerpt})
    if answer.status == HTTPStatus.GONE:
        await db.call("stop_webhook", delivery_id=delivery.id, reason="the partner answered 410 Gone.")
    wait = retry_after.seconds(answer.header(b"retry-after")) if answer.status in (429, 503) else None
    raise Retry(f"answered {answer.status}: {excerpt}", round(wait or 0))
