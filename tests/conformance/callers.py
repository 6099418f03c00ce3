"""Who calls REST in the conformance tests: tokens here are the claims themselves."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from emulator.rest import Rest
from emulator.tokens import Refused

# What fixtures hand out: to serve an app, answering its URL, and to run SQL as the database's owner.
type Serve = Callable[[Rest], str]
type Rows = Callable[..., list[Any]]

USER = "00000000-0000-4000-8000-000000000001"


def token(role: str, **claims: Any) -> str:
    return json.dumps({"role": role} | claims)


def authenticate(headers: Mapping[str, str]) -> dict[str, Any]:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    if bearer == "expired":
        raise Refused(401, "PGRST303", "JWT expired", {"WWW-Authenticate": "Bearer"})
    return dict(json.loads(bearer)) if bearer else {}


def client(base_url: str, bearer: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    return httpx.Client(base_url=base_url, headers=headers, timeout=10)


def wait_for(condition: Callable[[], bool]) -> None:
    """The cache is read again at most once a second."""
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
