"""What tests share: one hub for all of them, and a hub of its own for a test that breaks things."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import Database, Server, running_server
from hubs import Hub, new_state, running_hub, start_hub


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def prepared_state() -> Iterator[Path]:
    """The state of a hub that was started once and stopped: a copy of it starts sooner than a new one."""
    while True:
        with new_state() as state:
            hub = start_hub(state)
            # A quarter of an hour that begins during a test would be one more event and action to count.
            hub.sql(
                "select cron.alter_job(jobid, active => false) from cron.job where jobname = 'tick_monitors'"
            )
            has_begun = hub.rows("select from public.events") != []
            hub.stop()
            if not has_begun:
                yield state
                return


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
