"""The hub itself as a caller: the database and its clock."""

import hashlib
import hmac

from shared import settings
from shared.errors import Unauthorized
from shared.web.caller import Caller
from shared.web.requests import Request


class _Hub(Caller[None]):
    """`apikey` is HUB_INVOKE_SECRET, which may hold two, with a comma between."""

    kind = "hub"
    needs = (settings.Hub,)

    async def __call__(self, request: Request) -> None:
        digest = hashlib.sha256(request.credential(b"apikey")).digest()
        # Every secret is compared, whichever matches.
        if not sum(hmac.compare_digest(digest, known) for known in _invoke_secrets()):
            raise Unauthorized


hub = _Hub()


def _invoke_secrets() -> list[bytes]:
    return [hashlib.sha256(secret.encode()).digest() for secret in settings.load(settings.Hub).invoke_secrets]
