"""A full disk: one sentence at a start, 503 while it runs, and nothing of what was accepted is lost."""

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import psycopg
import pytest
from support.hubs import Hub, command, start_hub, web


@dataclass(frozen=True)
class Disk:
    """A small one of a test's own."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def fill(self) -> None:
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            for piece in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while ballast.write(bytes(piece)):
                        pass

    def free(self) -> None:
        (self.folder / "ballast").unlink()


@pytest.fixture
def disk(folder: Path) -> Iterator[Disk]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=755,size=1g", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk of its own can be mounted here, as root can: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


def assert_refused_for_want_of_room(state: Path) -> None:
    refused = command("--port", "0", "--state", state)
    lines = refused.stderr.splitlines()
    assert (refused.returncode, len(lines)) == (1, 1), refused.stderr
    assert os.strerror(errno.ENOSPC) in lines[0] or "Check free disk space." in lines[0], lines[0]


def test_each_start_goes_on_where_the_last_one_found_the_disk_full(disk: Disk) -> None:
    disk.resize("16k")
    disk.fill()
    assert_refused_for_want_of_room(disk.state)
    disk.free()
    # Full at the port's file, in three places of initdb, at the bootstrap and at two migrations, or thereabouts.
    for size in ("4k", "16k", "1m", "20m", "38m", "40m", "42m"):
        disk.resize(size)
        assert_refused_for_want_of_room(disk.state)
    disk.resize("1g")

    hub = start_hub(disk.state)

    try:
        assert hub.submit("prime", {"email": "ada@example.com"})["duplicate"] is False
        assert hub.token("OPERATOR")
    finally:
        hub.stop()


def test_a_hub_that_ran_before_starts_again_when_there_is_room(disk: Disk, prepared_state: Path) -> None:
    subprocess.run(["cp", "-a", prepared_state, disk.state], check=True)
    hub = start_hub(disk.state)
    hub.submit("prime", {"email": "ada@example.com"})
    hub.stop()
    disk.fill()

    assert_refused_for_want_of_room(disk.state)
    disk.free()
    again = start_hub(disk.state)

    try:
        assert again.rows("select count(*) from public.leads") == [(1,)]
    finally:
        again.stop()


def test_while_the_disk_is_full_a_form_is_stored_or_refused_as_such(disk: Disk, prepared_state: Path) -> None:
    subprocess.run(["cp", "-a", prepared_state, disk.state], check=True)
    hub = start_hub(disk.state)
    try:
        disk.fill()
        forms = (
            json.dumps({"email": "ada@example.com", "message": os.urandom(30_000).hex()}) for _ in count()
        )
        answers = [send(hub, next(forms)) for _ in range(20)]
        assert web.get(f"{hub.url}/functions/v1/ready").status_code == 200
        disk.free()
        answers.append(send(hub, next(forms)))

        assert {answer.status_code for answer in answers} == {202, 503}
        assert answers[-1].status_code == 202
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
        stored = [answer.json()["event_id"] for answer in answers if answer.status_code == 202]
        events = hub.rows("select id::text from public.events where type = 'form.submitted' order by id")
        assert events == [(event,) for event in stored]
    finally:
        hub.stop()


def test_a_database_that_the_full_disk_has_ended_comes_back_with_room(
    disk: Disk, prepared_state: Path
) -> None:
    subprocess.run(["cp", "-a", prepared_state, disk.state], check=True)
    hub = start_hub(disk.state)
    try:
        kept = hub.submit("prime", {"email": "ada@example.com"})["event_id"]
        disk.fill()
        with contextlib.suppress(psycopg.OperationalError):
            hub.as_superuser("select pg_switch_wal()")
            while True:
                hub.as_superuser("select pg_logical_emit_message(true, '', repeat('x', 1000000))")
        # What is left of the last segment may still hold a form or two.
        answers = (send(hub, '{"email": "bob@example.com"}') for _ in range(1000))
        refused = next(answer for answer in answers if answer.status_code != 202)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        disk.free()

        assert hub.until(lambda: send(hub, '{"email": "bob@example.com"}').status_code == 202)
        assert hub.rows("select count(*) from public.events where id = %s", kept) == [(1,)]
        assert hub.process.poll() is None
    finally:
        hub.stop()


def send(hub: Hub, form: str) -> httpx.Response:
    headers = {"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"], "content-type": "application/json"}
    return web.post(f"{hub.url}/functions/v1/ingest-prime", content=form, headers=headers)
