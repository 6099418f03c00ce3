"""Callers that are neither sites nor people: the hub itself, and anyone."""

import hashlib
import hmac
from collections.abc import Collection

from shared import settings
from shared.errors import Unauthorized
from shared.requests import Request


class _Hub:
    """The database and its clock: `apikey` is HUB_INVOKE_SECRET, which may hold two, with a comma between."""

    kind = "hub"
    needs = (settings.Hub,)

    async def __call__(self, request: Request) -> None:
        digest = hashlib.sha256(request.credential(b"apikey")).digest()
        # Every one is compared, whichever matches.
        if not sum(hmac.compare_digest(digest, known) for known in _invoke_secrets()):
            raise Unauthorized

    async def allowed_origins(self, request: Request) -> Collection[str]:
        return ()


hub = _Hub()


class _Anyone:
    """Nobody in particular: for what holds nothing that anybody may not know."""

    kind = "anyone"
    needs: tuple[type[settings.Settings], ...] = ()

    async def __call__(self, request: Request) -> None:
        return None

    async def allowed_origins(self, request: Request) -> Collection[str]:
        return ()


anyone = _Anyone()


def _invoke_secrets() -> list[bytes]:
    secrets = settings.load(settings.Hub).invoke_secret.split(",")
    return [hashlib.sha256(secret.strip().encode()).digest() for secret in secrets if secret.strip()]
