"""A gateway of a test's own, behind the server that the hub runs, on a port of its own."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from emulator import rest
from emulator.auth.app import create_app as create_auth
from emulator.functions import Functions
from emulator.gateway import Gateway
from emulator.server import Server, configured
from emulator.state import State
from emulator.tokens import Tokens
from starlette.types import ASGIApp

UNCHANGING = Path("/nonexistent")
NO_DATABASE = "postgresql://nobody:nothing@127.0.0.1:1/postgres"


def gateway(state: Path, functions: ASGIApp | Path, url: str = "http://hub.test") -> Gateway:
    """With any functions, without a database."""
    State(state).open()
    tokens = Tokens(State(state).keys, url)
    hosted = Functions(functions, url) if isinstance(functions, Path) else functions
    return Gateway(
        rest.create_app(NO_DATABASE, tokens.authenticate), create_auth(NO_DATABASE, tokens), hosted, url
    )


@contextlib.contextmanager
def served(app: ASGIApp, watched: Path = UNCHANGING) -> Iterator[str]:
    """The app's URL, while it is served."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(configured(app), watched)
        thread = threading.Thread(target=server.run, args=([listening.dup()],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
