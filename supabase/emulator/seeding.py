"""Stores a local hub's secrets and users, once; on a hosted project its owner does so by hand.

A process of its own, started by the supervisor when it is needed. It is ready to begin while the migrations
still run, and begins when its input ends.
"""

import asyncio
import os
import sys
from pathlib import Path

import psycopg

from emulator.auth.users import seed_user
from emulator.migrations import USERS
from emulator.postgres import new_password, said
from emulator.state import State, email

ORGANIZATION = "trades"


async def seed(state: State) -> None:
    keys = state.keys
    async with await psycopg.AsyncConnection.connect(state.database_url("supabase_admin")) as connection:
        users = {
            role: await seed_user(connection, email(role), password)
            for role, password in keys.passwords.items()
        }
        await connection.execute("set local role postgres")
        for role, user_id in users.items():
            await connection.execute("select private.add_member(%s, %s, %s)", [ORGANIZATION, user_id, role])
        for site, secret in keys.site_secrets.items():
            await connection.execute("select private.set_site_secret(%s, %s)", [site, secret])
        password = keys.role_passwords["hub_service"]
        await connection.execute(new_password(connection, "hub_service", password))
        await connection.execute(
            "insert into supabase_migrations.seed_files (path, hash) values (%s, '')", [USERS]
        )


if __name__ == "__main__":
    sys.stdin.read()
    try:
        asyncio.run(seed(State(Path(os.environ["STATE_DIR"]))))
    except psycopg.Error as error:
        sys.exit(said(error))
