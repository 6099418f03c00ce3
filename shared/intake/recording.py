"""Recording a submission: its contact, its keys, and the reasons for which it is refused."""

import re
from typing import Any

from shared import db, tracing
from shared.callers import proofs, refusals, sites
from shared.errors import BadRequest, HubError, TooManyRequests, Unauthorized, Unprocessable
from shared.intake import identity
from shared.intake.forms import FORM, Submission
from shared.web.requests import Request

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


async def record(site: sites.Site, submission: Submission, request: Request) -> dict[str, Any]:
    """Record the submission once; answers its event and contact, and whether it was known already."""
    contact = contact_of(submission, site.phone_region)
    kind, is_sure = submission.event
    key = _idempotency_key(site, request)
    # In a browser anybody may write any number: it must not take another visitor's.
    submission_id = None if site.kind == proofs.PAGE else submission.submission_id
    if kind == FORM and not (contact["email"] or contact["phone"] or submission.is_bot):
        raise _unreachable(submission)
    try:
        recorded: dict[str, Any] = await db.call(
            "record_submission",
            secret_id=site.secret_id,
            submission={
                "kind": kind,
                "is_sure": is_sure,
                "form": submission.form,
                "reading": submission.reading(contact),
                "contact": contact,
                "idempotency_key": key or submission_id,
                "submission_id": submission_id if key else None,
                "quarantine": submission.quarantine,
                "trace_id": tracing.trace_id(),
            },
            address=site.address,
        )
    except Unauthorized:
        sites.forget(site.slug)
        refusals.count(site.slug, "revoked")
        raise
    except TooManyRequests:
        refusals.count(site.slug, "rate")
        raise
    except HubError as error:
        if error.code == "unreachable_contact":
            raise _unreachable(submission) from error
        raise
    if recorded["duplicate"]:
        # A duplicate leaves no other trace.
        refusals.count(site.slug, "duplicate")
    return recorded


def contact_of(submission: Submission, phone_region: str) -> dict[str, Any]:
    """The contact of a submission: identifiers in their one spelling, and facts."""
    contact: dict[str, Any] = {
        "name": submission.full_name,
        "email": identity.email(submission.email),
        "phone": identity.phone(submission.phone, phone_region),
    }
    contact["facts"] = _facts(submission, contact["phone"])
    return contact


def _facts(submission: Submission, phone: str | None) -> dict[str, str]:
    """The facts that the form says of its contact, beside the address and number that identify it."""
    facts = {
        "name": submission.full_name,
        "area": submission.area,
        "language": submission.language,
        # A number that cannot be read may still mean something to a person.
        "phone": submission.phone if phone is None else None,
    }
    return {key: fact for key, fact in facts.items() if fact}


def _idempotency_key(site: sites.Site, request: Request) -> str | None:
    """The sender's key of this message. A signed request is known by its signed id, and by nothing beside it."""
    if site.kind in (proofs.STANDARD, proofs.HMAC):
        return site.message_id
    key = request.header(b"idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise BadRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters.", code="bad_idempotency_key"
        )
    return key.decode()


def _unreachable(submission: Submission) -> Unprocessable:
    problems = {
        "email": "is not an e-mail address" if submission.email else "is missing",
        "phone": "is not a phone number" if submission.phone else "is missing",
    }
    return Unprocessable(
        "An e-mail address or a phone number is needed.",
        code="unreachable_contact",
        details=[{"field": field, "message": message} for field, message in problems.items()],
    )
