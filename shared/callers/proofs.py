"""Proofs: a request shows them to be from a site, each checked against the site's secrets of its kind.

- static: the secret itself, in `x-webhook-secret`.
- standard: Standard Webhooks. `webhook-signature` lists signatures `v1,…` of `webhook-id`, `webhook-timestamp` and body.
  Svix calls the three `svix-…`. Each set is a proof of its own: a relay may leave another's headers beside its own, and
  no header of one set counts in the other.
- hmac: `x-hub-signature: sha256=…`, the hex HMAC-SHA256 of `x-hub-timestamp`, a dot and the body.
- page: `x-page-token`, handed out to a page of an allowed origin a short while ago.

All comparisons are of bytes and take the same time whatever they find. A request may show several proofs while its
site changes from one to another; one that holds is enough.
"""

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from shared import standard_webhooks
from shared.web.requests import Request

STATIC, STANDARD, HMAC, PAGE = "static", "standard", "hmac", "page"
# The most seconds that a sender's clock may be off, or a request be under way.
TOLERANCE = 300
PAGE_TOKEN_LIFETIME = 600
MOST_SIGNATURES = 16
STANDARD_NAMES = (b"webhook", b"svix")

_TIMESTAMP = re.compile(rb"[0-9]{10}")
# A dot would leave open where the id ends and the timestamp begins.
_MESSAGE_ID = re.compile(rb"[\x21-\x2d\x2f-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret of a site: the digest of a static one, the key of one that signs."""

    kind: str
    digest: bytes
    key: bytes
    site: str
    origins: Collection[str]


class Proof:
    """Something that looks like a proof. This one holds for no secret."""

    # The sender's own id of this message, if the proof covers it.
    message_id: str | None = None

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        # The reason that is counted when the proof does not hold.
        self.reason = reason

    def holds(self, secret: Secret) -> bool:
        return False


async def shown(request: Request) -> list[Proof]:
    """The proofs that the request shows. Its body is read only for a signature that might hold."""
    proofs: list[Proof] = []
    for name in STANDARD_NAMES:
        if request.has(name + b"-signature"):
            proofs.append(await _standard(request, name))
    if request.has(b"x-hub-signature"):
        proofs.append(await _hmac(request))
    if request.has(b"x-page-token"):
        proofs.append(PageToken(request.credential(b"x-page-token"), request.credential(b"origin")))
    secret = request.credential(b"x-webhook-secret")
    if secret:
        proofs.append(StaticSecret(secret))
    return proofs


class StaticSecret(Proof):
    def __init__(self, secret: bytes) -> None:
        super().__init__(STATIC, "secret")
        self._digest = hashlib.sha256(secret).digest()

    def holds(self, secret: Secret) -> bool:
        return hmac.compare_digest(self._digest, secret.digest)


class Signature(Proof):
    """A proof that holds if any of its signatures is the one that the secret's key makes of the request."""

    def __init__(
        self, kind: str, right: Callable[[bytes], bytes], signatures: list[bytes], message_id: str | None
    ) -> None:
        super().__init__(kind, "signature")
        self.message_id = message_id
        self._right = right
        self._signatures = signatures

    def holds(self, secret: Secret) -> bool:
        right = self._right(secret.key)
        # Every secret is compared, whichever matches.
        return bool(sum(hmac.compare_digest(right, signature) for signature in self._signatures))


class PageToken(Proof):
    def __init__(self, token: bytes, origin: bytes) -> None:
        super().__init__(PAGE, "page_token")
        self._expires, _, self._mac = token.partition(b".")
        self._origin = origin.decode("latin-1")
        lifetime = int(self._expires) - time.time() if _TIMESTAMP.fullmatch(self._expires) else 0.0
        self._is_valid = 0 < lifetime <= PAGE_TOKEN_LIFETIME + TOLERANCE

    def holds(self, secret: Secret) -> bool:
        right = _page_mac(secret, self._origin, self._expires)
        is_signed = hmac.compare_digest(right, self._mac)
        return is_signed and self._is_valid and self._origin in secret.origins


def page_token(secret: Secret, origin: str) -> str:
    """A token with which a page of this origin may post to the secret's site for a while."""
    expires = b"%d" % (int(time.time()) + PAGE_TOKEN_LIFETIME)
    return (expires + b"." + _page_mac(secret, origin, expires)).decode()


def _page_mac(secret: Secret, origin: str, expires: bytes) -> bytes:
    signed = b"\n".join((b"page-token", secret.site.encode(), origin.encode(), expires))
    return base64.urlsafe_b64encode(hmac.digest(secret.key, signed, "sha256")).rstrip(b"=")


async def _standard(request: Request, name: bytes) -> Proof:
    message_id = request.credential(name + b"-id")
    timestamp = request.credential(name + b"-timestamp")
    signatures = request.credential(name + b"-signature").split(b" ")[:MOST_SIGNATURES]
    if not _is_fresh(timestamp):
        return Proof(STANDARD, "timestamp")
    if not _MESSAGE_ID.fullmatch(message_id):
        return Proof(STANDARD, "signature")
    body = await request.body()

    def right(key: bytes) -> bytes:
        return standard_webhooks.signature(key, message_id, timestamp, body)

    return Signature(STANDARD, right, signatures, message_id.decode())


async def _hmac(request: Request) -> Proof:
    timestamp = request.credential(b"x-hub-timestamp")
    if not _is_fresh(timestamp):
        return Proof(HMAC, "timestamp")
    signed = b".".join((timestamp, await request.body()))

    def right(key: bytes) -> bytes:
        return b"sha256=" + hmac.digest(key, signed, "sha256").hex().encode()

    return Signature(HMAC, right, [request.credential(b"x-hub-signature")], None)


def _is_fresh(timestamp: bytes) -> bool:
    return bool(_TIMESTAMP.fullmatch(timestamp)) and abs(time.time() - int(timestamp)) <= TOLERANCE
