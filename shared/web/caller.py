"""The base of every kind of caller: it says who may call an endpoint."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from shared.settings import Settings
from shared.web.requests import Request


class Caller[Who](ABC):
    """Called with a request, it answers who that is, or raises Unauthorized."""

    kind: ClassVar[str]
    needs: ClassVar[tuple[type[Settings], ...]] = ()

    @abstractmethod
    async def __call__(self, request: Request) -> Who: ...

    async def allowed_origins(self, request: Request) -> Collection[str]:
        """Origins whose browsers may send this and read the answer."""
        return ()
