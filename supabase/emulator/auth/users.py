"""Rows of auth.users: finding, seeding, changing, and how Auth shows them."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from emulator.auth import passwords

User = dict[str, Any]
Connection = psycopg.AsyncConnection[User]

INSTANCE = UUID(int=0)


SELECT = (
    "select *, coalesce(banned_until > now(), false) as is_banned from auth.users where deleted_at is null"
)


async def by_email(connection: Connection, email: str) -> User | None:
    found = await connection.execute(
        f"{SELECT} and lower(email) = lower(%s) and not is_sso_user", [email.strip()]
    )
    return await found.fetchone()


async def by_id(connection: Connection, user_id: str) -> User | None:
    found = await connection.execute(f"{SELECT} and id = %s", [user_id])
    return await found.fetchone()


async def change(
    connection: Connection, user_id: UUID, password_hash: str | None, metadata: dict[str, Any]
) -> User | None:
    """Set a new password and merge metadata; a key set to null goes away, as in hosted Auth."""
    changed = await connection.execute(
        """
        update auth.users
        set encrypted_password = coalesce(%s, encrypted_password),
            raw_user_meta_data = jsonb_strip_nulls(coalesce(raw_user_meta_data, '{}') || %s),
            updated_at = now()
        where id = %s
        returning *
        """,
        [password_hash, Jsonb(metadata), user_id],
    )
    return await changed.fetchone()


async def add(
    connection: psycopg.AsyncConnection[Any],
    email: str,
    password_hash: str,
    is_confirmed: bool,
    user_metadata: dict[str, Any],
    app_metadata: dict[str, Any],
) -> User | None:
    """Add a user; None when another user has the address already.

    Rows like those of hosted Auth: its scanner wants empty token columns, not null ones.
    """
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        """
        insert into auth.users
          (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data,
           raw_user_meta_data, created_at, updated_at, confirmation_token, recovery_token,
           email_change_token_new, email_change)
        values
          (%s, %s, 'authenticated', 'authenticated', %s, %s, case when %s then now() end, %s, %s, now(), now(),
           '', '', '', '')
        on conflict (email) where is_sso_user = false do nothing
        returning *
        """,
        [
            INSTANCE,
            uuid4(),
            email,
            password_hash,
            is_confirmed,
            Jsonb({"provider": "email", "providers": ["email"]} | app_metadata),
            Jsonb(user_metadata | ({"email_verified": True} if is_confirmed else {})),
        ],
    )
    return await cursor.fetchone()


async def seed_user(connection: psycopg.AsyncConnection[Any], email: str, password: str) -> UUID:
    """Make sure this person can sign in; one who is there already keeps the password they have."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute("select id from auth.users where email = %s", [email])
    if existing := await cursor.fetchone():
        return UUID(str(existing[0]))
    user = await add(connection, email, await passwords.hashed(password), True, {}, {})
    assert user is not None
    return UUID(str(user["id"]))


def shown(user: User) -> dict[str, Any]:
    """The user as Auth's API shows one."""
    is_verified = user["email_confirmed_at"] is not None
    identity = {
        "identity_id": str(user["id"]),
        "id": str(user["id"]),
        "user_id": str(user["id"]),
        "identity_data": {"sub": str(user["id"]), "email": user["email"], "email_verified": is_verified},
        "provider": "email",
        "last_sign_in_at": _time(user["last_sign_in_at"]),
        "created_at": _time(user["created_at"]),
        "updated_at": _time(user["updated_at"]),
        "email": user["email"],
    }
    return {
        "id": str(user["id"]),
        "aud": user["aud"],
        "role": user["role"],
        "email": user["email"],
        "email_confirmed_at": _time(user["email_confirmed_at"]),
        "phone": user["phone"] or "",
        "confirmed_at": _time(user["confirmed_at"]),
        "last_sign_in_at": _time(user["last_sign_in_at"]),
        "app_metadata": user["raw_app_meta_data"] or {},
        "user_metadata": user["raw_user_meta_data"] or {},
        "identities": [identity],
        "created_at": _time(user["created_at"]),
        "updated_at": _time(user["updated_at"]),
        "is_anonymous": user["is_anonymous"],
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None
