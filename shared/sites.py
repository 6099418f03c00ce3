"""Sites and their secrets: who posts a form.

`from_secret("prime")` is the caller of an ingest function: whoever sends one of the site's valid secrets in
`x-webhook-secret`. What the hub knows of a site is kept for half a minute; SQL looks at the secret again in
the transaction that uses it, so a revoked one is refused at once all the same.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from shared import db, settings
from shared.errors import Unauthorized
from shared.requests import Request

HEADER = b"x-webhook-secret"
FRESH_FOR = 30.0
# How often a wrong secret may make us look for a new one.
LOOK_AGAIN_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Site:
    """A site that has shown the secret `secret_id`."""

    id: UUID
    org_id: UUID
    slug: str
    secret_id: UUID
    phone_region: str
    allowed_origins: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Known:
    """A site with the digests of its secrets; a slug without a site has none."""

    secrets: tuple[tuple[bytes, Site], ...]
    allowed_origins: frozenset[str]
    looked_up: float

    def shown(self, secret: bytes) -> Site | None:
        digest = hashlib.sha256(secret).digest()
        match = None
        for known, site in self.secrets:
            if hmac.compare_digest(digest, known):
                match = site
        return match


class from_secret:
    kind = "site"
    needs = (settings.Database,)

    def __init__(self, slug: str) -> None:
        self._slug = slug

    async def __call__(self, request: Request) -> Site:
        secret = request.credential(HEADER)
        site = (await _known(self._slug, FRESH_FOR)).shown(secret)
        if site is None:
            site = (await _known(self._slug, LOOK_AGAIN_AFTER)).shown(secret)
        if site is None or not secret:
            raise Unauthorized
        return site

    async def allowed_origins(self) -> Collection[str]:
        return (await _known(self._slug, FRESH_FOR)).allowed_origins


def forget(slug: str) -> None:
    """Look the site up again at its next request: SQL has just refused what we believed."""
    _cache.pop(slug, None)


_cache: dict[str, _Known] = {}
_lookups: dict[str, asyncio.Task[_Known]] = {}


async def _known(slug: str, max_age: float) -> _Known:
    known = _cache.get(slug)
    if known is not None and time.monotonic() - known.looked_up < max_age:
        return known
    # One look-up serves all who wait; a client that leaves must not take it from the others.
    lookup = _lookups.get(slug)
    if lookup is None:
        lookup = _lookups[slug] = asyncio.create_task(_look_up(slug))
        lookup.add_done_callback(lambda _: _lookups.pop(slug, None))
    return await asyncio.shield(lookup)


async def _look_up(slug: str) -> _Known:
    row = await db.call("site", slug=slug) or {"secrets": (), "allowed_origins": ()}
    origins = frozenset(row["allowed_origins"])
    secrets = tuple(
        (
            bytes.fromhex(secret["sha256"]),
            Site(
                id=UUID(row["id"]),
                org_id=UUID(row["org_id"]),
                slug=row["slug"],
                secret_id=UUID(secret["id"]),
                phone_region=row["phone_region"],
                allowed_origins=origins,
            ),
        )
        for secret in row["secrets"]
    )
    known = _cache[slug] = _Known(secrets, origins, time.monotonic())
    return known
