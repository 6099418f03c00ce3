"""Sites: callers that post forms, each with a proof.

`sender("prime")` is the caller of an ingest function: a request with a proof for which the site has a secret. A site
and its secrets are kept for half a minute; SQL looks at the secret again in the transaction that uses it, so a revoked
secret is refused at once all the same.
"""

import asyncio
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from shared import db, settings, standard_webhooks
from shared.callers import proofs, refusals
from shared.errors import Unauthorized
from shared.web.caller import Caller
from shared.web.requests import Request

FRESH_FOR = 30.0
# A proof that does not hold makes us look for new secrets, at most so often.
LOOK_AGAIN_AFTER = 1.0
# Slugs without a site are kept apart, so that any number of them drives no site out.
MOST_UNKNOWN = 1_000
_SLUG = re.compile(r"[a-z][a-z0-9-]{1,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Site:
    """A site that has proven itself, with the secret `secret_id` of this kind."""

    id: UUID
    org_id: UUID
    slug: str
    secret_id: UUID
    kind: str
    phone_region: str
    allowed_origins: frozenset[str]
    # The sender's own id of the message, when a signature covers it.
    message_id: str | None = None
    # The address of the browser, when a page token is the proof.
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A site with its secrets, the newest first; a slug without a site has none."""

    secrets: tuple[tuple[proofs.Secret, Site], ...]
    allowed_origins: frozenset[str]
    looked_up: float

    def proven(self, proof: proofs.Proof) -> Site | None:
        match = None
        for secret, site in self.secrets:
            # Every secret of the proof's kind is compared, whichever matches.
            if secret.kind == proof.kind and proof.holds(secret):
                match = site
        return match


class sender(Caller[Site]):
    """The caller that posts for this site: a server that shows a secret or signs, or a page with a token."""

    kind = "site"
    needs = (settings.Database, settings.Front)

    def __init__(self, slug: str) -> None:
        self._slug = slug

    async def __call__(self, request: Request) -> Site:
        shown = await proofs.shown(request)
        for max_age in (FRESH_FOR, LOOK_AGAIN_AFTER) if shown else ():
            site = await self._proven(shown, max_age)
            if site is not None:
                return site if site.kind != proofs.PAGE else replace(site, address=client_address(request))
        refusals.count(self._slug, shown[0].reason if shown else "missing")
        raise Unauthorized

    async def _proven(self, shown: list[proofs.Proof], max_age: float) -> Site | None:
        known = await look_up(self._slug, max_age)
        for proof in shown:
            site = known.proven(proof)
            if site is not None:
                return replace(site, message_id=proof.message_id) if proof.message_id else site
        return None

    async def allowed_origins(self, request: Request) -> Collection[str]:
        return (await look_up(self._slug)).allowed_origins


def is_slug(name: str) -> bool:
    """Whether a site could have this slug, as the constraint sites_slug_form says."""
    return _SLUG.fullmatch(name) is not None


def client_address(request: Request) -> str:
    return request.address(settings.load(settings.Front).proxies)


def forget(slug: str) -> None:
    """Look the site up again at its next request: SQL has just refused a secret that is kept here."""
    _cache.pop(slug, None)


_cache: dict[str, Known] = {}
_unknown: dict[str, Known] = {}
_lookups: dict[str, asyncio.Task[Known]] = {}


async def look_up(slug: str, max_age: float = FRESH_FOR) -> Known:
    """The site of this slug, at most `max_age` seconds old."""
    known = _cache.get(slug) or _unknown.get(slug)
    if known is not None and time.monotonic() - known.looked_up < max_age:
        return known
    # One look-up serves all who wait; a client that leaves must not take it from the others.
    lookup = _lookups.get(slug)
    if lookup is None:
        lookup = _lookups[slug] = asyncio.create_task(_look_up(slug))
        lookup.add_done_callback(lambda _: _lookups.pop(slug, None))
    return await asyncio.shield(lookup)


async def _look_up(slug: str) -> Known:
    row = await db.call("site", slug=slug)
    if row is None:
        _cache.pop(slug, None)
        if len(_unknown) >= MOST_UNKNOWN:
            _unknown.clear()
        nothing = _unknown[slug] = Known((), frozenset(), time.monotonic())
        return nothing
    origins = frozenset(row["allowed_origins"])
    # The vault cannot read the key of a signing secret that has none here: nothing can be checked by it.
    usable = (it for it in row["secrets"] if it["key"] or it["kind"] == proofs.STATIC)
    secrets = tuple(_secret(row, secret, origins) for secret in usable)
    _unknown.pop(slug, None)
    known = _cache[slug] = Known(secrets, origins, time.monotonic())
    return known


def _secret(
    row: dict[str, Any], secret: dict[str, Any], origins: frozenset[str]
) -> tuple[proofs.Secret, Site]:
    site = Site(
        id=UUID(row["id"]),
        org_id=UUID(row["org_id"]),
        slug=row["slug"],
        secret_id=UUID(secret["id"]),
        kind=secret["kind"],
        phone_region=row["phone_region"],
        allowed_origins=origins,
    )
    key = _key(secret["kind"], secret["key"] or "")
    return proofs.Secret(secret["kind"], bytes.fromhex(secret["sha256"]), key, row["slug"], origins), site


def _key(kind: str, written: str) -> bytes:
    """The key that signs; that of a Standard Webhooks secret is in base64."""
    if kind == proofs.STANDARD:
        return standard_webhooks.key_of(written)
    return written.encode()
