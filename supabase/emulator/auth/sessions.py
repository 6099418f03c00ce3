"""Sessions and their refresh tokens: one live token per session, replaced at every use.

A token that comes twice is forgiven when its answer may have been lost (it is the parent of the live token)
or when two tabs raced (within ten seconds). Any other repeat means that somebody has a copy: the family is
revoked.
"""

import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from emulator.auth.errors import AuthError
from emulator.auth.users import INSTANCE, Connection, User

REUSE_INTERVAL = timedelta(seconds=10)


async def start(
    connection: Connection, user: User, user_agent: str, ip: str | None
) -> tuple[dict[str, Any], str]:
    """A new session and its first refresh token."""
    async with connection.transaction():
        started = await connection.execute(
            """
            insert into auth.sessions (id, user_id, created_at, updated_at, aal, user_agent, ip)
            values (%s, %s, now(), now(), 'aal1', %s, %s) returning *
            """,
            [uuid4(), user["id"], user_agent, ip],
        )
        session = await started.fetchone()
        assert session is not None
        await connection.execute("update auth.users set last_sign_in_at = now() where id = %s", [user["id"]])
        return session, await _new_token(connection, session, parent=None)


async def refresh(connection: Connection, token: str) -> tuple[dict[str, Any], str]:
    """The session of this refresh token and the token to use next."""
    async with connection.transaction():
        session = await _lock_session(connection, token)
        next_token = await _next_token(connection, session, token)
        if next_token is None:
            await connection.execute(
                "update auth.refresh_tokens set revoked = true, updated_at = now() where session_id = %s",
                [session["id"]],
            )
        else:
            await connection.execute(
                "update auth.sessions set refreshed_at = now(), updated_at = now() where id = %s",
                [session["id"]],
            )
    if next_token is None:
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
    return session, next_token


async def _lock_session(connection: Connection, token: str) -> dict[str, Any]:
    """The session, locked first: two uses of one token are looked at one after the other."""
    found = await connection.execute(
        """
        select sessions.* from auth.sessions
        where id = (select session_id from auth.refresh_tokens where token = %s)
        for update
        """,
        [token],
    )
    session = await found.fetchone()
    if session is None:
        raise AuthError(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
    return session


async def _next_token(connection: Connection, session: dict[str, Any], token: str) -> str | None:
    found = await connection.execute(
        """
        select
          used.revoked,
          now() - used.updated_at as revoked_for,
          live.token as live,
          live.parent as live_parent
        from auth.refresh_tokens as used
        left join lateral (
          select token, parent from auth.refresh_tokens
          where session_id = used.session_id and not revoked order by id desc limit 1
        ) as live on true
        where used.token = %s
        """,
        [token],
    )
    used = await found.fetchone()
    assert used is not None
    if used["revoked"] and used["live_parent"] == token:
        return str(used["live"])
    if used["revoked"] and (used["live"] is None or used["revoked_for"] > REUSE_INTERVAL):
        return None
    await connection.execute(
        "update auth.refresh_tokens set revoked = true, updated_at = now() where token = %s and not revoked",
        [token],
    )
    return await _new_token(connection, session, parent=token)


async def _new_token(connection: Connection, session: dict[str, Any], parent: str | None) -> str:
    token = secrets.token_urlsafe(24)
    await connection.execute(
        """
        insert into auth.refresh_tokens
          (instance_id, token, user_id, revoked, parent, session_id, created_at, updated_at)
        values (%s, %s, %s, false, %s, %s, now(), now())
        """,
        [INSTANCE, token, session["user_id"], parent, session["id"]],
    )
    return token


async def exists(connection: Connection, session_id: str, user_id: UUID) -> bool:
    found = await connection.execute(
        "select from auth.sessions where id = %s and user_id = %s", [session_id, user_id]
    )
    return await found.fetchone() is not None


END = {
    "global": "delete from auth.sessions where user_id = %(user)s",
    "local": "delete from auth.sessions where user_id = %(user)s and id = %(session)s",
    "others": "delete from auth.sessions where user_id = %(user)s and id <> %(session)s",
}


async def end(connection: Connection, scope: str, user_id: UUID, session_id: str) -> None:
    await connection.execute(END[scope], {"user": user_id, "session": session_id})
