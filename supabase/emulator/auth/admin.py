"""POST /admin/users: users whom an operator adds, without a sign-up of their own."""

import re
import secrets

from psycopg_pool import AsyncConnectionPool

from emulator.auth import passwords, users
from emulator.auth.bodies import NewPerson, refuse_large
from emulator.auth.errors import AuthError, NotImplementedHere
from emulator.auth.users import Connection, User

LONGEST_EMAIL = 255
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
EMAIL_FORM = re.compile(rf"[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*")


async def add_user(pool: AsyncConnectionPool[Connection], asked: NewPerson) -> User:
    """An admin's password may be weak: hosted Auth does not look at its strength here."""
    if not asked.email and not asked.phone:
        raise _invalid("Cannot create a user without either an email or phone")
    _refuse_what_is_not_here(asked)
    email = _checked(asked.email or "")
    password = asked.password or secrets.token_urlsafe(48)
    if len(password.encode()) > passwords.LONGEST_PASSWORD:
        raise _invalid("bcrypt: password length exceeds 72 bytes")
    user_metadata, app_metadata = asked.user_metadata or {}, asked.app_metadata or {}
    refuse_large(user_metadata | app_metadata)
    password_hash = await passwords.hashed(password)
    async with pool.connection() as connection:
        user = await users.add(
            connection, email, password_hash, asked.email_confirm, user_metadata, app_metadata
        )
    if user is None:
        raise AuthError(422, "email_exists", "A user with this email address has already been registered")
    return user


def _refuse_what_is_not_here(asked: NewPerson) -> None:
    for name in ("phone", "password_hash", "role", "ban_duration", "id"):
        if getattr(asked, name) not in (None, "", _USUAL.get(name)):
            raise NotImplementedHere(f"Adding a user with {name}")


_USUAL = {"role": "authenticated", "ban_duration": "none"}


def _checked(email: str) -> str:
    if len(email.encode()) > LONGEST_EMAIL:
        raise _invalid("An email address is too long")
    if EMAIL_FORM.fullmatch(email) is None:
        raise _invalid("Unable to validate email address: invalid format")
    return email.lower()


def _invalid(message: str) -> AuthError:
    return AuthError(400, "validation_failed", message)
