"""Pages: browsers that post a form with a token instead of a secret.

A page of an origin that the site lists asks for a token and sends it along. That keeps out other sites' pages and
repeated requests; a forged browser is held by the limit for its address.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from shared import db, settings
from shared.callers import proofs, refusals, sites
from shared.errors import TooManyRequests, Unauthorized, Unprocessable
from shared.web.caller import Caller
from shared.web.requests import Request


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a site, with the key that signs its tokens."""

    site: sites.Site
    secret: proofs.Secret
    origin: str
    address: str


class _Visitor(Caller[Page]):
    """A page of the site that the URL names, by its origin."""

    kind = "page"
    needs = (settings.Database, settings.Front)

    async def __call__(self, request: Request) -> Page:
        slug, origin = _slug(request), request.credential(b"origin").decode("latin-1")
        known = await sites.look_up(slug)
        if origin not in known.allowed_origins:
            known = await sites.look_up(slug, sites.LOOK_AGAIN_AFTER)
        # The newest key signs.
        signing = next((it for it in known.secrets if it[0].kind == proofs.PAGE), None)
        if signing is None:
            raise Unauthorized
        if origin not in known.allowed_origins:
            refusals.count(slug, "origin")
            raise Unauthorized
        return Page(signing[1], signing[0], origin, sites.client_address(request))

    async def allowed_origins(self, request: Request) -> Collection[str]:
        return (await sites.look_up(_slug(request))).allowed_origins


def _slug(request: Request) -> str:
    name = request.query("site")
    if not sites.is_slug(name):
        raise Unprocessable.field("site", "The URL names a site by its slug, once.")
    return name


visitor = _Visitor()


async def issue(page: Page) -> dict[str, Any]:
    """Make a token for the page, if the address has a turn."""
    try:
        await db.call("count_page_token", site_id=page.site.id, address=page.address)
    except TooManyRequests:
        refusals.count(page.site.slug, "rate")
        raise
    return {"token": proofs.page_token(page.secret, page.origin), "expires_in": proofs.PAGE_TOKEN_LIFETIME}
