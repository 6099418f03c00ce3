"""Callers that are not sites: the hub itself, and people with an access token of the project's Auth."""

import hashlib
import hmac
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from shared import db, settings
from shared.errors import Forbidden, Unauthorized, Unavailable
from shared.requests import Request

ALGORITHMS = ("ES256", "RS256")
_CLAIM_CHECKS = {
    "leeway": 30,
    "require_exp": True,
    "require_aud": True,
    "require_iss": True,
    "require_sub": True,
}
KEYS_FRESH_FOR = 600.0
# How often an unknown key id may make us fetch the keys again.
FETCH_AGAIN_AFTER = 10.0


class _Hub:
    """The database and its clock: `apikey` is HUB_INVOKE_SECRET, which may hold two, with a comma between."""

    kind = "hub"
    needs = (settings.Hub,)

    async def __call__(self, request: Request) -> None:
        digest = hashlib.sha256(request.credential(b"apikey")).digest()
        # Every one is compared, whichever matches.
        if not sum(hmac.compare_digest(digest, known) for known in _invoke_secrets()):
            raise Unauthorized

    async def allowed_origins(self) -> Collection[str]:
        return ()


hub = _Hub()


def _invoke_secrets() -> list[bytes]:
    secrets = settings.load(settings.Hub).invoke_secret.split(",")
    return [hashlib.sha256(secret.strip().encode()).digest() for secret in secrets if secret.strip()]


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    token: str
    org_ids: tuple[UUID, ...]


class user:
    """A signed-in person; with `role`, one who has it in some organizations: those of `User.org_ids`."""

    kind = "user"
    needs = (settings.Supabase,)

    def __init__(self, role: str | None = None) -> None:
        self._role = role

    async def __call__(self, request: Request) -> User:
        scheme, _, token = request.credential(b"authorization").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token or token.startswith("sb_"):
            raise Unauthorized
        claims = await _verified(token)
        user_id = UUID(claims["sub"])
        # Rights come from our own tables, read as the person: never from claims a user can write.
        rows = await _memberships(token, user_id)
        orgs = tuple(UUID(row["org_id"]) for row in rows if self._role in (None, row["role"]))
        if self._role and not orgs:
            raise Forbidden
        return User(user_id, token, orgs)

    async def allowed_origins(self) -> Collection[str]:
        return ()


async def _memberships(token: str, user_id: UUID) -> list[dict[str, str]]:
    import httpx
    from postgrest import APIError

    async with db.as_user(token) as person:
        try:
            memberships = person.table("memberships").select("org_id,role")
            answer = await memberships.eq("user_id", str(user_id)).execute()
        except httpx.HTTPError as error:
            raise Unavailable(code="data_api_unavailable") from error
        except APIError as error:
            # It judges tokens by the same keys, and may be stricter: too long a token, or a role that is gone.
            refused = str(error.code) in ("401", "403", "42501") or str(error.code).startswith("PGRST3")
            raise (Unauthorized() if refused else Unavailable(code="data_api_unavailable")) from error
    return cast(list[dict[str, str]], answer.data)


async def _verified(token: str) -> dict[str, Any]:
    from jose import JWTError, jwt

    issuer = f"{settings.load(settings.Supabase).url.rstrip('/')}/auth/v1"
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS or not isinstance(header.get("kid"), str):
            raise Unauthorized
        key = await _key(issuer, header["kid"])
        # The key says what it signs with, so that no token chooses for it.
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
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(code="auth_unavailable") from error
    return _Keys({key["kid"]: key for key in answer["keys"] if "kid" in key}, time.monotonic())
