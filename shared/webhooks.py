"""Webhooks out: an event as a signed request, by Standard Webhooks, and what a partner's answer means.

`webhook-id` is the delivery's, the same at every try, so a partner that got it twice can tell. Every secret that
is valid signs, so a partner may change over whenever it likes.
"""

import base64
import hashlib
import hmac
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import orjson
from pydantic import BaseModel, ConfigDict

from shared import db, log, outgoing, tracing
from shared.deliveries import Delivery, Done, Permanent, Retry

LONGEST_WAIT = 86_400
_PREFIX = "whsec_"


class Webhook(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: str
    secrets: list[str]


async def send(target: str, client: outgoing.Client, delivery: Delivery) -> Done:
    # Looked up for each: a secret that was just taken back signs nothing more.
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
    except outgoing.Forbidden as error:
        raise Permanent(str(error)) from error
    except outgoing.Unreachable as error:
        raise Retry(str(error), 0) from error
    return await judged(answer, delivery)


def body_of(delivery: Delivery) -> bytes:
    event = delivery.event
    data = event.model_dump(exclude={"type", "occurred_at"}, exclude_none=True)
    return orjson.dumps(
        {"type": event.type, "timestamp": event.occurred_at, "data": data}, option=orjson.OPT_UTC_Z
    )


def signature(secrets: list[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (
        base64.b64encode(hmac.digest(base64.b64decode(secret.removeprefix(_PREFIX)), signed, hashlib.sha256))
        for secret in secrets
    )
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{made.decode()}" for made in signatures),
    }


async def judged(answer: outgoing.Answer, delivery: Delivery) -> Done:
    """2xx alone is received. What else a partner says, we come again; after 410 only when a person says so."""
    excerpt = log.masked(answer.excerpt.replace("\0", ""), limit=outgoing.EXCERPT_BYTES)
    if 200 <= answer.status < 300:
        return Done(result={"status": answer.status, "answer": excerpt})
    if answer.status == HTTPStatus.GONE:
        await db.call("stop_webhook", delivery_id=delivery.id, reason="the partner answered 410 Gone.")
    wait = retry_after(answer) if answer.status in (429, 503) else 0
    raise Retry(f"answered {answer.status}: {excerpt}", wait)


def retry_after(answer: outgoing.Answer) -> int:
    """Seconds, from a number or a date; 0 when it says nothing that can be read."""
    text = answer.headers.get(b"retry-after", b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), LONGEST_WAIT)
    try:
        seconds = (parsedate_to_datetime(text).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
    except ValueError:
        return 0
    return round(min(max(seconds, 0), LONGEST_WAIT))
