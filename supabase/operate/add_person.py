"""Add a person: python -m operate.add_person, with EMAIL and ROLE in the environment.

    EMAIL=jo@bobs.example ROLE=operator python -m operate.add_person --state .state

Makes an account for them by Auth's admin API and prints its password, once; then they are a member of ORG in this role.
Who has an account keeps it and its password, and only the role is set.

The hub is the one that runs on the state folder, or a project: ADMIN_DATABASE_URL, SUPABASE_URL and SUPABASE_SECRET_KEY.
"""

import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import httpx
import psycopg

from operate.hub import Refused
from operate.target import Database, Target, organization, run

EMAIL_FORM = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True)
class Person:
    email: str
    role: str

    @classmethod
    def asked_for(cls, environment: Mapping[str, str]) -> "Person":
        email, role = environment.get("EMAIL", "").strip().lower(), environment.get("ROLE", "").strip()
        if not email or not role:
            raise Refused("Say whom: make add-person EMAIL=jo@bobs.example ROLE=operator")
        if not EMAIL_FORM.fullmatch(email):
            raise Refused(f"EMAIL is an address, as in jo@bobs.example: {email!r} is not.")
        return cls(email, role)


def main() -> int:
    return run("add_person", Person.asked_for, add)


def add(person: Person, hub: Target) -> None:
    with hub.connect() as database:
        _refuse_unknown_role(person, database)
        org = organization(database, "member")
        user_id = _account(person, database)
        if user_id is None:
            password = secrets.token_urlsafe(18)
            create_account(person, password, hub)
            # Before all else that may fail: nobody can look it up later.
            print(
                f"  {person.email} can sign in.\n  password    {password}   (it is not shown again)",
                flush=True,
            )
            user_id = _account(person, database)
            if user_id is None:
                raise Refused(
                    "SUPABASE_URL and ADMIN_DATABASE_URL are of two projects: the account is not in this database."
                )
        else:
            print(f"  {person.email} is here already and keeps their password.")
        try:
            database.execute("select private.add_member(%s, %s, %s)", [org, user_id, person.role])
        except psycopg.DatabaseError as error:
            if error.sqlstate is None or not error.sqlstate.startswith("PT"):
                raise
            raise Refused(f"{person.email}: {error.diag.message_primary}") from error
        print(f"  {person.email} is {person.role} of {org}.")


def _refuse_unknown_role(person: Person, database: Database) -> None:
    rows = database.execute("select unnest(enum_range(null::public.member_role))::text")
    roles = [role for (role,) in rows]
    if person.role not in roles:
        raise Refused(f"ROLE is one of {', '.join(roles)}: {person.role!r} is not.")


def _account(person: Person, database: Database) -> UUID | None:
    found = database.execute(
        "select id from auth.users where lower(email) = %s and not is_sso_user and deleted_at is null",
        [person.email],
    ).fetchone()
    return found[0] if found else None


def create_account(person: Person, password: str, hub: Target) -> None:
    """As an admin of Auth, so that nothing has to be confirmed by e-mail."""
    missing = [name for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY") if not hub.environment.get(name)]
    if missing:
        raise Refused(f"Set {' and '.join(missing)} to the project's, for Auth.")
    key = hub.environment["SUPABASE_SECRET_KEY"]
    url = f"{hub.environment['SUPABASE_URL'].rstrip('/')}/auth/v1/admin/users"
    account = {"email": person.email, "password": password, "email_confirm": True}
    try:
        answer = httpx.post(
            url, json=account, headers={"apikey": key, "authorization": f"Bearer {key}"}, timeout=30
        )
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise Refused(f"Auth cannot be reached at {url}: {error}") from error
    except httpx.TransportError as error:
        raise Refused(
            f"Auth did not answer ({type(error).__name__}). Run this again:"
            f" if {person.email} is here then, their password is {password}"
        ) from error
    if not answer.is_success:
        raise Refused(f"Auth adds no {person.email}: {_said(answer)}")


def _said(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return str(body.get("msg") or body.get("message") or answer.status_code)
    except (ValueError, AttributeError):
        return f"{answer.status_code} {answer.text[:200]}"


if __name__ == "__main__":
    sys.exit(main())
