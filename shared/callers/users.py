"""Users: callers with an access token of the project's Auth, and the Data API as that user.

`as_user` is the Data API as the user, so that row level security decides. The libraries that this module needs go
only into the bundles of functions that users call.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from shared import settings
from shared.errors import HubError, Unauthorized, Unavailable
from shared.web.caller import Caller
from shared.web.requests import Request

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient

ALGORITHMS = ("ES256", "RS256")
_CLAIM_CHECKS = {
    "leeway": 30,
    "require_exp": True,
    "require_aud": True,
    "require_iss": True,
    "require_sub": True,
}
KEYS_FRESH_FOR = 600.0
# An unknown key id makes us fetch the keys again, at most so often.
FETCH_AGAIN_AFTER = 10.0


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    token: str


class signed_in(Caller[User]):
    """A user who is signed in. Rights come from our own tables, read as the user, never from the token's claims."""

    kind = "user"
    needs = (settings.Supabase,)

    async def __call__(self, request: Request) -> User:
        scheme, _, token = request.credential(b"authorization").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token or token.startswith("sb_"):
            raise Unauthorized
        claims = await _verified(token)
        return User(UUID(claims["sub"]), token)


def as_user(token: str) -> "AsyncPostgrestClient":
    """The Data API as the user whose access token this is."""
    from httpx import AsyncClient
    from postgrest import AsyncPostgrestClient

    supabase = settings.load(settings.Supabase)
    return AsyncPostgrestClient(
        f"{supabase.url.rstrip('/')}/rest/v1",
        headers={"apikey": supabase.publishable_key, "Authorization": f"Bearer {token}"},
        http_client=AsyncClient(timeout=10),
    )


async def call(user: User, function: str, **arguments: Any) -> Any:
    """Call a function of the Data API as this user."""
    async with as_user(user.token) as api:
        return await _answer(api.rpc(function, arguments))


async def _answer(question: Any) -> Any:
    import httpx
    from postgrest import APIError

    try:
        return (await question.execute()).data
    except httpx.HTTPError as error:
        raise Unavailable(code="data_api_unavailable") from error
    except APIError as error:
        # The Data API judges tokens by the same keys, and may be stricter: too long a token, or a role that is gone.
        if str(error.code) in ("401", "403", "42501") or str(error.code).startswith("PGRST3"):
            raise Unauthorized from error
        status = str(error.code).removeprefix("PT")
        if str(error.code).startswith("PT4") and status.isdigit():
            raise HubError(error.message, status=int(status), code=error.details or "refused") from error
        raise Unavailable(code="data_api_unavailable") from error


async def _verified(token: str) -> dict[str, Any]:
    from jose import JWTError, jwt

    issuer = f"{settings.load(settings.Supabase).url.rstrip('/')}/auth/v1"
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS or not isinstance(header.get("kid"), str):
            raise Unauthorized
        key = await _key(issuer, header["kid"])
        # The key names its algorithm, so that no token chooses one.
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key["alg"]] if key.get("alg") in ALGORITHMS else [],
            audience="authenticated",
            issuer=issuer,
            options=_CLAIM_CHECKS,
        )
        UUID(claims["sub"])
    except (JWTError, ValueError) as error:
        raise Unauthorized from error
    if claims.get("role") != "authenticated" or claims.get("is_anonymous"):
        raise Unauthorized
    return claims


@dataclass(frozen=True, slots=True)
class _Keys:
    by_id: dict[str, dict[str, Any]]
    fetched: float


_keys: dict[str, _Keys] = {}


async def _key(issuer: str, kid: str) -> dict[str, Any]:
    known = _keys.get(issuer)
    age = time.monotonic() - known.fetched if known else KEYS_FRESH_FOR
    if known is None or age >= KEYS_FRESH_FOR or (kid not in known.by_id and age >= FETCH_AGAIN_AFTER):
        known = _keys[issuer] = await _fetch_keys(issuer)
    if kid not in known.by_id:
        raise Unauthorized
    return known.by_id[kid]


async def _fetch_keys(issuer: str) -> _Keys:
    import httpx

    try:
        async with httpx.AsyncClient(timeout=3) as client:
            answer = (await client.get(f"{issuer}/.well-known/jwks.json")).raise_for_status().json()
        by_id = {key["kid"]: key for key in answer["keys"] if "kid" in key}
    except (httpx.HTTPError, ValueError, TypeError, KeyError) as error:
        raise Unavailable(code="auth_unavailable") from error
    return _Keys(by_id, time.monotonic())
