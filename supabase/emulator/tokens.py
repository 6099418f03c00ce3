"""API keys and users' tokens: the caller of a request to REST or Auth.

The rules are those of a hosted project's gateway. An opaque `sb_` key belongs in `apikey`, a user's token
in `Authorization`; a token counts only if this hub's own ES256 key signed it for this hub.
"""

import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from jose import jwk, jws
from jose.exceptions import JWSError

from emulator.state import Keys

ALGORITHM = "ES256"
AUDIENCE = "authenticated"
ROLES = frozenset({"anon", "authenticated", "service_role"})
LIFETIME_SECONDS = 3600
SKEW_SECONDS = 30
LONGEST_TOKEN = 8192
REMEMBERED_TOKENS = 1000

PUBLIC_FIELDS = ("kty", "crv", "x", "y", "kid")
COMPACT_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

Claims = dict[str, Any]


class Refused(Exception):
    """The caller is not who they claim to be; PostgREST's and the hosted gateway's words for it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.hint = hint


class Tokens:
    def __init__(self, keys: Keys, project_url: str) -> None:
        self.issuer = f"{project_url.rstrip('/')}/auth/v1"
        self.jwks = {"keys": [_public(keys.signing_key)]}
        self._kid = keys.signing_key["kid"]
        self._signer = jwk.construct(keys.signing_key, ALGORITHM)
        self._verifier = jwk.construct(_public(keys.signing_key), ALGORITHM)
        self._publishable_key = keys.publishable_key.encode()
        self._secret_key = keys.secret_key.encode()
        self._verified: dict[str, Claims] = {}

    def authenticate(self, headers: Mapping[str, str]) -> Claims:
        """The claims a request acts with. `headers` are looked up by their lower-case names."""
        key = headers.get("apikey")
        bearer = bearer_token(headers)
        if key is not None:
            claims = self._claims_of_key(key.encode(), headers.get("user-agent", ""))
            if bearer is None or bearer == key:
                return claims
        if bearer is None:
            raise Refused(401, "no_api_key", "No API key found in request")
        if bearer.startswith("sb_"):
            raise Refused(401, "invalid_api_key", "An API key in Authorization has to be the one in apikey")
        return self.verify(bearer)

    def authenticate_with_secret_key(self, headers: Mapping[str, str]) -> Claims:
        """The claims of the secret key; any other caller is refused, whoever is signed in beside it."""
        claims = self.authenticate(headers)
        if not hmac.compare_digest(headers.get("apikey", "").encode(), self._secret_key):
            raise Refused(
                401,
                "secret_key_required",
                "Secret API key required",
                {"sb-error-code": "UNAUTHORIZED_INVALID_API_KEY_TYPE"},
                hint="Only secret API keys can be used for this endpoint.",
            )
        return claims

    def _claims_of_key(self, key: bytes, user_agent: str) -> Claims:
        if hmac.compare_digest(key, self._publishable_key):
            return {"iss": self.issuer, "role": "anon"}
        if not hmac.compare_digest(key, self._secret_key):
            raise Refused(401, "invalid_api_key", "Invalid API key")
        if "mozilla/" in user_agent.lower():
            raise Refused(401, "secret_key_in_browser", "Forbidden use of secret API key in browser")
        return {"iss": self.issuer, "role": "service_role"}

    def verify(self, token: str) -> Claims:
        """The claims of a token that this hub signed and that is valid now."""
        claims = self._verified.get(token)
        if claims is None:
            claims = self._check_signature(token)
            self._check_claims(claims)
            if len(self._verified) >= REMEMBERED_TOKENS:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = claims
        elif claims["exp"] < time.time() - SKEW_SECONDS:
            del self._verified[token]
            raise _wrong_claims("JWT expired")
        return claims

    def _check_signature(self, token: str) -> Claims:
        if len(token) > LONGEST_TOKEN:
            raise _undecodable("JWT is too long")
        if COMPACT_FORM.fullmatch(token) is None:
            raise _undecodable(f"Expected 3 parts in JWT; got {token.count('.') + 1}")
        try:
            header = jws.get_unverified_header(token)
        except (JWSError, RecursionError) as error:
            raise _undecodable("JWT couldn't be decoded") from error
        if header.get("alg") != ALGORITHM:
            raise _undecodable("Wrong or unsupported encoding algorithm")
        if header.get("kid") != self._kid or "crit" in header:
            raise _undecodable("No suitable key or wrong key type")
        try:
            claims = json.loads(jws.verify(token, self._verifier, [ALGORITHM]))
        except JWSError as error:
            raise _undecodable("JWT cryptographic operation failed") from error
        except ValueError as error:
            raise _wrong_claims("Parsing claims failed") from error
        if not isinstance(claims, dict):
            raise _wrong_claims("Parsing claims failed")
        return claims

    def _check_claims(self, claims: Claims) -> None:
        now = time.time()
        for name in ("exp", "nbf", "iat"):
            if type(claims.get(name, None if name == "exp" else 0)) not in (int, float):
                raise _wrong_claims(f"The JWT '{name}' claim must be a number")
        if claims["exp"] < now - SKEW_SECONDS:
            raise _wrong_claims("JWT expired")
        if claims.get("nbf", 0) > now + SKEW_SECONDS:
            raise _wrong_claims("JWT not yet valid")
        if claims.get("iat", 0) > now + SKEW_SECONDS:
            raise _wrong_claims("JWT issued at future")
        if claims.get("aud") != AUDIENCE:
            raise _wrong_claims("JWT not in audience")
        if claims.get("iss") != self.issuer:
            raise _wrong_claims("JWT of another issuer")
        if not isinstance(claims.get("role"), str) or claims["role"] not in ROLES:
            raise _wrong_claims("JWT of an unknown role")

    def issue(self, claims: Claims, lifetime_seconds: int = LIFETIME_SECONDS) -> str:
        now = int(time.time())
        standard = {"iss": self.issuer, "aud": AUDIENCE, "iat": now, "exp": now + lifetime_seconds}
        token: str = jws.sign(claims | standard, self._signer, {"kid": self._kid}, ALGORITHM)
        return token


def bearer_token(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("authorization")
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Refused(401, "PGRST301", "Authorization has to be a Bearer token")
    return token.strip()


def _public(key: Mapping[str, str]) -> dict[str, Any]:
    return {name: key[name] for name in PUBLIC_FIELDS} | {
        "alg": ALGORITHM,
        "use": "sig",
        "key_ops": ["verify"],
    }


def _undecodable(message: str) -> Refused:
    return Refused(401, "PGRST301", message, _challenge(message))


def _wrong_claims(message: str) -> Refused:
    return Refused(401, "PGRST303", message, _challenge(message))


def _challenge(message: str) -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{message}"'}
