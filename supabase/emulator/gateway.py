"""One port in front of REST, Auth and the functions, with a hosted project's URLs.

Each request is read whole before anybody sees it, so a slow sender waits here and nowhere else. A request that
could be read in two ways (framing, repeated credentials) is refused before it reaches something that decides.
"""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import psycopg
from psycopg_pool import PoolTimeout
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from emulator import answers, cors, rest, server
from emulator.answers import Rejected
from emulator.auth.app import create_app as create_auth
from emulator.functions import Functions
from emulator.intake import ClientGone, whole
from emulator.rest import Rest
from emulator.state import State
from emulator.tokens import Tokens

REPOSITORY = Path(__file__).resolve().parents[2]

SERVED = {"rest": "/rest/v1/", "auth": "/auth/v1/", "functions": "/functions/v1/", "health": "/health"}
METHODS = frozenset(cors.METHODS.decode().split(", "))
NOT_HERE = {"realtime": "Realtime", "storage": "Storage", "graphql": "GraphQL", "pg": "The Postgres meta API"}

DATABASE_AWAY = Rejected(503, "database_unavailable", "The database does not answer", (b"retry-after", b"1"))
FAILED = Rejected(500, "internal_error", "Something went wrong; the log says what")

log = logging.getLogger("emulator.gateway")


class Gateway:
    def __init__(self, rest: Rest, auth: Starlette, functions: ASGIApp, project_url: str) -> None:
        self._closing = rest.close
        self._running = auth.router.lifespan_context(auth)
        self._rest = _mounted(rest, "/rest/v1")
        self._auth = _mounted(auth, "/auth/v1")
        self._functions = functions
        self._url = project_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        app = self._functions
        if not scope["path"].startswith("/functions/v1/"):
            app, send = self._elsewhere(scope, send)
        try:
            await app(scope, await whole(scope, receive), send)
        except Rejected as rejected:
            await answers.reject(send, rejected)
        except ClientGone:
            pass
        except (psycopg.OperationalError, PoolTimeout) as error:
            log.warning("The database does not answer: %s", error)
            await answers.reject(send, DATABASE_AWAY)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            await answers.reject(send, FAILED)

    def _elsewhere(self, scope: Scope, send: Send) -> tuple[ASGIApp, Send]:
        path: str = scope["path"]
        if path.startswith("/rest/v1/"):
            return cors.open_to_pages(self._rest, scope, send)
        if path.startswith("/auth/v1/"):
            return cors.open_to_pages(self._auth, scope, send)
        return (self._functions if path == "/functions/v1" else self._own), send

    async def _own(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        first = path.split("/", 2)[1] if path.startswith("/") else ""
        if path in ("/", "/health") and scope["method"] not in ("GET", "HEAD"):
            raise answers.wrong_method(scope["method"], b"GET, HEAD")
        if path == "/health":
            await answers.answer(send, 200, {"status": "ok"})
        elif path == "/":
            await answers.answer(send, 200, {name: self._url + path for name, path in SERVED.items()})
        elif first in NOT_HERE:
            raise Rejected(501, "not_implemented", f"{NOT_HERE[first]} is not part of the local stack")
        else:
            raise Rejected(404, "not_found", f"There is nothing at {path[:200]}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._running:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._closing()
            await _close_functions_pool()
        await send({"type": "lifespan.shutdown.complete"})


def _mounted(app: ASGIApp, prefix: str) -> ASGIApp:
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in METHODS:
            raise answers.wrong_method(scope["method"], cors.METHODS)
        await app({**scope, "root_path": prefix}, receive, send)

    return mounted


async def _close_functions_pool() -> None:
    """The pool that functions share, if one of them has used it."""
    database = sys.modules.get("shared.db")
    if database is not None:
        await database.close()


def create_app() -> Gateway:
    """The gateway of the hub whose state folder and URL the environment names."""
    state = State(Path(os.environ["STATE_DIR"]))
    url = os.environ["SUPABASE_URL"].rstrip("/")
    tokens = Tokens(state.keys, url)
    return Gateway(
        rest=rest.create_app(
            state.database_url("authenticator"),
            tokens.authenticate,
            authenticate_at_root=tokens.authenticate_with_secret_key,
            public_url=f"{url}/rest/v1",
        ),
        auth=create_auth(state.database_url("supabase_auth_admin"), tokens),
        functions=Functions(REPOSITORY / "functions", url),
        project_url=url,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--fd", type=int, required=True, help="the listening socket, opened by the supervisor"
    )
    listening = socket.socket(fileno=parser.parse_args().fd)
    server.run(create_app(), listening, restart_on_change_in=REPOSITORY / "shared")


if __name__ == "__main__":
    main()
