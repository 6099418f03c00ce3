"""Anyone: the caller of endpoints whose answers anybody may know."""

from shared.web.caller import Caller
from shared.web.requests import Request


class _Anyone(Caller[None]):
    kind = "anyone"

    async def __call__(self, request: Request) -> None:
        return None


anyone = _Anyone()
