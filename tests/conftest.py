"""What tests share: one hub for all of them, and a hub of its own for a test that breaks things."""

import fcntl
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulator.scratch import Database, Server, new_state, running_server
from support.hubs import Hub, Post, running_hub, start_hub


@pytest.fixture(scope="session")
def hub(prepared_state: Path) -> Iterator[Hub]:
    with running_hub(prepared_state) as hub:
        hub.sql(SET_TICKS, True)
        yield hub


# A quarter of an hour that begins during a test would be one more event and action to count.
SET_TICKS = "select cron.alter_job(jobid, active => %s) from cron.job where jobname = 'tick_monitors'"


@pytest.fixture(scope="session")
def prepared_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a hub that was started once, by any of the processes that test, and stopped.

    A copy of it starts sooner than a new one.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    state = folder / "prepared"
    with (folder / "prepared.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        while not state.exists():
            with new_state() as fresh:
                hub = start_hub(fresh)
                hub.sql(SET_TICKS, False)
                has_begun = hub.rows("select from public.events") != []
                hub.stop()
                if not has_begun:
                    subprocess.run(["cp", "-a", fresh, state], check=True)
    return state


@pytest.fixture
def own_state(prepared_state: Path) -> Iterator[Path]:
    """The state of a hub that has run before and does not run now."""
    with new_state() as state:
        subprocess.run(["cp", "-a", prepared_state, state], check=True)
        yield state


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="state-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def post(hub: Hub) -> Post:
    """Send a form that nobody has sent before."""
    return lambda **form: hub.submit("prime", {"message": uuid.uuid4().hex, **form})


@pytest.fixture
def own_hub(prepared_state: Path) -> Iterator[Hub]:
    with running_hub(prepared_state) as hub:
        yield hub


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def database(server: Server) -> Database:
    """As a new project has it, before any migration."""
    return server.fresh_database()
