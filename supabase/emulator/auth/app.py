"""The endpoints of /auth/v1."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulator.auth import admin, bodies, errors, passwords, sessions, users
from emulator.auth.errors import AuthError, NotImplementedHere
from emulator.auth.users import Connection, User
from emulator.tokens import LIFETIME_SECONDS, Claims, Refused, Tokens, bearer_token

SHORTEST_PASSWORD = 6
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def create_app(database_url: str, tokens: Tokens) -> Starlette:
    """Auth on the database as the role supabase_auth_admin."""
    auth = Auth(database_url, tokens)
    return Starlette(
        routes=[
            Route("/health", auth.health),
            Route("/settings", auth.settings),
            Route("/.well-known/jwks.json", auth.jwks),
            Route("/token", auth.token, methods=["POST"]),
            Route("/user", auth.user, methods=["GET", "PUT"]),
            Route("/logout", auth.logout, methods=["POST"]),
            Route("/admin/users", auth.add_user, methods=["POST"]),
            Route("/{feature:path}", auth.something_else, methods=METHODS),
        ],
        exception_handlers=dict.fromkeys(
            (AuthError, Refused, psycopg.OperationalError, psycopg.DataError, PoolTimeout, HTTPException),
            _refusal,
        ),
        lifespan=auth.lifespan,
    )


class Auth:
    def __init__(self, database_url: str, tokens: Tokens) -> None:
        self._tokens = tokens
        # Connections are made when needed and tried before use: the database may restart under a running hub.
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            database_url,
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=0,
            max_size=4,
            timeout=5,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._pool:
            yield

    async def health(self, _: Request) -> Response:
        return JSONResponse(
            {"name": "GoTrue", "version": "emulator", "description": "Supabase Auth, local stack"}
        )

    async def settings(self, _: Request) -> Response:
        return JSONResponse(
            {
                "external": {"email": True, "phone": False, "anonymous_users": False},
                "disable_signup": True,
                "mailer_autoconfirm": True,
                "phone_autoconfirm": False,
                "saml_enabled": False,
            }
        )

    async def jwks(self, _: Request) -> Response:
        return JSONResponse(self._tokens.jwks, headers={"Cache-Control": "public, max-age=600"})

    async def token(self, request: Request) -> Response:
        self._tokens.authenticate(request.headers)
        match request.query_params.get("grant_type"):
            case "password":
                return await self._sign_in(request)
            case "refresh_token":
                return await self._refresh(request)
            case None:
                raise AuthError(400, "validation_failed", "missing required parameter: grant_type")
            case other:
                raise NotImplementedHere(f"The grant type {other[:40]}")

    async def _sign_in(self, request: Request) -> Response:
        grant = await bodies.read(request, bodies.PasswordGrant)
        if grant.phone:
            raise NotImplementedHere("Signing in by phone")
        if not grant.email:
            raise AuthError(400, "validation_failed", "missing email or phone")
        async with self._pool.connection() as connection:
            user = await users.by_email(connection, grant.email)
        if (
            not await passwords.is_right(grant.password, user["encrypted_password"] if user else None)
            or user is None
        ):
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        if user["email_confirmed_at"] is None:
            raise AuthError(400, "email_not_confirmed", "Email not confirmed")
        if user["is_banned"]:
            raise AuthError(400, "user_banned", "User is banned")
        async with self._pool.connection() as connection:
            ip = request.client.host if request.client else None
            session, refresh_token = await sessions.start(
                connection, user, request.headers.get("user-agent", ""), ip
            )
        return self._signed_in(user, session, refresh_token)

    async def _refresh(self, request: Request) -> Response:
        grant = await bodies.read(request, bodies.RefreshGrant)
        if not grant.refresh_token:
            raise AuthError(400, "validation_failed", "refresh_token required")
        async with self._pool.connection() as connection:
            session, refresh_token = await sessions.refresh(connection, grant.refresh_token)
            user = await users.by_id(connection, session["user_id"])
            if user is None or user["is_banned"]:
                raise AuthError(400, "user_banned", "User is banned")
        return self._signed_in(user, session, refresh_token)

    def _signed_in(self, user: User, session: dict[str, Any], refresh_token: str) -> Response:
        signed_in_at = int(session["created_at"].timestamp())
        shown = users.shown(user)
        access_token = self._tokens.issue(
            {
                "sub": shown["id"],
                "email": shown["email"],
                "phone": shown["phone"],
                "app_metadata": shown["app_metadata"],
                "user_metadata": shown["user_metadata"],
                "role": shown["role"],
                "aal": session["aal"],
                "amr": [{"method": "password", "timestamp": signed_in_at}],
                "session_id": str(session["id"]),
                "is_anonymous": shown["is_anonymous"],
            }
        )
        return JSONResponse(
            {
                "access_token": access_token,
                "token_type": "bearer",
                "expires_in": LIFETIME_SECONDS,
                "expires_at": self._tokens.verify(access_token)["exp"],
                "refresh_token": refresh_token,
                "user": shown,
            },
            headers={"Cache-Control": "no-store"},
        )

    async def user(self, request: Request) -> Response:
        claims = self._users_claims(request)
        async with self._pool.connection() as connection:
            user = await _signed_in_user(connection, claims)
        if request.method == "PUT":
            user = await self._change(request, user, claims)
        return JSONResponse(users.shown(user))

    async def _change(self, request: Request, user: User, claims: Claims) -> User:
        change = await bodies.read(request, bodies.Change)
        if change.email not in (None, user["email"]) or change.phone:
            raise NotImplementedHere("Changing the e-mail address or phone number")
        password_hash = None
        if change.password is not None:
            await _refuse_weak(change.password, user)
            password_hash = await passwords.hashed(change.password)
        async with self._pool.connection() as connection, connection.transaction():
            if password_hash:
                await sessions.end(connection, "others", user["id"], claims["session_id"])
            changed = await users.change(connection, user["id"], password_hash, change.data)
            if changed is None:
                raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
            if change.data:
                bodies.refuse_large(changed["raw_user_meta_data"])
        return changed

    async def logout(self, request: Request) -> Response:
        claims = self._users_claims(request)
        scope = request.query_params.get("scope", "global")
        if scope not in sessions.END:
            raise AuthError(400, "validation_failed", f"Unsupported logout scope {scope[:20]!r}")
        async with self._pool.connection() as connection:
            user = await _signed_in_user(connection, claims)
            await sessions.end(connection, scope, user["id"], claims["session_id"])
        return Response(status_code=204)

    async def add_user(self, request: Request) -> Response:
        if self._claims(request)["role"] != "service_role":
            raise AuthError(403, "not_admin", "User not allowed")
        asked = await bodies.read(request, bodies.NewPerson)
        return JSONResponse(users.shown(await admin.add_user(self._pool, asked)))

    async def something_else(self, request: Request) -> Response:
        raise NotImplementedHere(f"{request.method} /auth/v1/{request.path_params['feature'][:60]}")

    def _users_claims(self, request: Request) -> Claims:
        """The claims of a user's token; a key is nobody's."""
        bearer = bearer_token(request.headers)
        if bearer is None or bearer.startswith("sb_"):
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        claims = self._claims(request)
        if claims["role"] != "authenticated" or "sub" not in claims or "session_id" not in claims:
            raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
        return claims

    def _claims(self, request: Request) -> Claims:
        try:
            return self._tokens.authenticate(request.headers)
        except Refused as refusal:
            if not refusal.code.startswith("PGRST"):
                raise
            raise AuthError(403, "bad_jwt", f"invalid JWT: {refusal.message}") from refusal


async def _signed_in_user(connection: Connection, claims: Claims) -> User:
    user = await users.by_id(connection, claims["sub"])
    if user is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    if not await sessions.exists(connection, claims["session_id"], UUID(claims["sub"])):
        raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
    if user["is_banned"]:
        raise AuthError(403, "user_banned", "User is banned")
    return user


async def _refuse_weak(password: str, user: User) -> None:
    if len(password) < SHORTEST_PASSWORD:
        message = f"Password should be at least {SHORTEST_PASSWORD} characters."
        raise AuthError(
            422, "weak_password", message, weak_password={"reasons": ["length"], "message": message}
        )
    if len(password.encode()) > passwords.LONGEST_PASSWORD:
        raise AuthError(422, "validation_failed", "Password cannot be longer than 72 bytes")
    if await passwords.is_right(password, user["encrypted_password"]):
        raise AuthError(422, "same_password", "New password should be different from the old password.")


async def _refusal(request: Request, error: Exception) -> Response:
    headers: Mapping[str, str] = {}
    match error:
        case AuthError():
            refusal = error
        case Refused():
            refusal, headers = AuthError(error.status, error.code, error.message), error.headers
        case HTTPException():
            refusal = AuthError(error.status_code, "not_served", error.detail)
        case psycopg.DataError():
            refusal = AuthError(400, "validation_failed", "The database cannot hold what was sent")
        case _:
            refusal = AuthError(503, "database_unavailable", "The database does not answer")
            headers = {"Retry-After": "1"}
    return errors.answer(request, refusal, headers)
