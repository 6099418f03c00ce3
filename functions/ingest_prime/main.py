"""Record a form of Prime Electrical: a contact, a lead and an event, in one transaction.

POST JSON, urlencoded or multipart with a proof of the site (README): name, email, phone, message, service, page_url
and whatever else the form has, `utm_*` too; unknown fields are kept. An e-mail address or a phone number is needed.
Repeat freely: the key is the signed `webhook-id` or the `Idempotency-Key` header, else `submission_id`, else the
content within a day. Answers 202 with `event_id`, `contact_id` and `duplicate`.
"""

from typing import Any

from shared.callers import sites
from shared.intake.forms import Submission
from shared.intake.recording import record
from shared.web.endpoint import endpoint
from shared.web.requests import Request


@endpoint(caller=sites.sender("prime"), body=Submission)
async def ingest_prime(
    site: sites.Site, submission: Submission, request: Request
) -> tuple[dict[str, Any], int]:
    return await record(site, submission, request), 202
