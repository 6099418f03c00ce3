"""A hub that cannot start says why in one sentence, and the next start has lost nothing."""

import ctypes
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator.state import Keys, write_private
from support.hubs import command, start_hub

PRIVILEGED = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


def may_not_bind_privileged_ports() -> None:
    """Also when it is root."""
    PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE = 24, 10
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE, 0, 0, 0)


def refusal(*arguments: str | Path, preexec_fn: Callable[[], None] | None = None) -> str:
    """The sentence that a start is refused with."""
    refused = command(*arguments, preexec_fn=preexec_fn)
    lines = refused.stderr.splitlines()
    assert (refused.returncode, len(lines)) == (1, 1), refused.stderr
    return lines[0]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def assert_nothing_is_lost(state: Path) -> None:
    hub = start_hub(state)
    try:
        assert hub.rows("select count(*) from public.organizations where slug = 'trades'") == [(1,)]
        assert hub.rows("select count(*) > 0 from vault.decrypted_secrets") == [(True,)]
        assert hub.submit("prime", {"email": "ada@example.com"})["duplicate"] is False
    finally:
        hub.stop()


# Keys -----------------------------------------------------------------------------------------------------------------


def gone(keys: Path) -> None:
    keys.unlink()


def empty(keys: Path) -> None:
    keys.write_text("")


def cut(keys: Path) -> None:
    keys.write_text(keys.read_text()[:200])


def not_text(keys: Path) -> None:
    keys.write_bytes(b"\xff\xfe\x00")


def something_else(keys: Path) -> None:
    keys.write_text("[1]")


def a_field_less(keys: Path) -> None:
    keys.write_text(json.dumps({**json.loads(keys.read_text()), "vault_key": None}))


def another_hubs(keys: Path) -> None:
    write_private(keys, json.dumps(vars(Keys.create())))


@pytest.mark.parametrize("harm", [gone, empty, cut, not_text, something_else, a_field_less, another_hubs])
def test_keys_that_do_not_open_the_database_are_refused_and_it_stays_as_it_was(
    own_state: Path, harm: Callable[[Path], None]
) -> None:
    keys = own_state / "keys.json"
    harm(keys)
    before = everything_in(own_state)

    said = refusal("--port", "0", "--state", own_state)

    assert said.startswith(f"{keys} ")
    assert said.endswith("Put the right one back from a backup; `make reset` begins anew, without the data.")
    assert everything_in(own_state) == before


def test_with_its_keys_back_the_hub_has_lost_nothing(own_state: Path) -> None:
    keys = own_state / "keys.json"
    kept = keys.rename(own_state / "kept.json")
    refusal("--port", "0", "--state", own_state)

    kept.rename(keys)

    assert_nothing_is_lost(own_state)


def test_broken_keys_without_a_database_are_nothing_to_keep(folder: Path) -> None:
    (folder / "keys.json").write_text("{")

    said = refusal("--port", "0", "--state", folder)

    assert said.startswith(f"{folder / 'keys.json'} cannot be read (")
    assert said.endswith("Remove it, and the next start makes another.")


def test_somebody_elses_database_is_not_taken_for_the_hubs(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "postgresql.conf").write_text("port = 5432\n")
    before = everything_in(folder)

    said = refusal("--port", "0", "--state", folder)

    assert said.startswith(f"{folder / 'keys.json'} is missing")
    assert everything_in(folder) == before


# Ports and folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["", "web", "5 4", "-1", "65536", "99999999999999999999", "54321.0"])
def test_a_port_that_is_none_is_refused_before_anything_is_made(folder: Path, port: str) -> None:
    said = refusal("--port", port, "--state", folder / "state")

    assert said == f"PORT is a number from 0 to 65535, not {port!r}."
    assert not (folder / "state").exists()


def test_the_highest_port_in_use_is_not_answered_with_a_higher_one(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 65535)):
        said = refusal("--port", "65535", "--state", folder)

    assert said == "Port 65535 is in use. Choose another: make run PORT=65534"


@pytest.mark.skipif(PRIVILEGED < 2, reason="here every account may listen on every port")
def test_a_privileged_port_is_not_called_in_use(folder: Path) -> None:
    port = PRIVILEGED - 1

    said = refusal("--port", str(port), "--state", folder, preexec_fn=may_not_bind_privileged_ports)

    assert said == f"Port {port} cannot be used: Permission denied. Choose another: make run PORT=54321"


def test_a_state_that_is_a_file_is_refused_and_stays(folder: Path) -> None:
    (folder / "file").write_text("mine")

    said = refusal("--port", "0", "--state", folder / "file")

    assert said == f"{folder / 'file'} is a file; STATE names a folder."
    assert (folder / "file").read_text() == "mine"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "state"


def below_what_takes_no_folders(folder: Path) -> Path:
    return Path("/proc/self/state")


def with_too_long_a_name(folder: Path) -> Path:
    return folder / ("long" * 100)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (below_a_file, "Not a directory"),
        (below_what_takes_no_folders, "No such file or directory"),
        (with_too_long_a_name, "File name too long"),
    ],
)
def test_a_state_that_cannot_be_made_is_refused_in_the_systems_words(
    folder: Path, place: Callable[[Path], Path], why: str
) -> None:
    state = place(folder)

    said = refusal("--port", "0", "--state", state)

    assert said.startswith(f"The hub cannot run: {why}: ")


# Files that are not what they were -------------------------------------------------------------------------------------


def folder_for_the_environment_file(state: Path) -> None:
    (state / "hub.env").mkdir()


def file_for_the_logs(state: Path) -> None:
    shutil.rmtree(state / "logs")
    (state / "logs").touch()


def folder_for_the_lock(state: Path) -> None:
    (state / "lock").unlink()
    (state / "lock").mkdir()


def folder_for_the_keys(state: Path) -> None:
    (state / "keys.json").unlink()
    (state / "keys.json").mkdir()


def file_for_the_database(state: Path) -> None:
    shutil.rmtree(state / "postgres")
    (state / "postgres").touch()


def older_database(state: Path) -> None:
    (state / "postgres" / "PG_VERSION").write_text("16\n")


def empty_control_file(state: Path) -> None:
    os.truncate(state / "postgres" / "global" / "pg_control", 0)


def torn_settings(state: Path) -> None:
    (state / "postgres" / "postgresql.auto.conf").write_text("work_mem = '4MB\nfsync")


def other_password(state: Path) -> None:
    keys = Keys.load(state)
    passwords = dict.fromkeys(keys.role_passwords, "other")
    write_private(state / "keys.json", json.dumps({**vars(keys), "role_passwords": passwords}))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (folder_for_the_environment_file, "The hub cannot run: Is a directory: {state}/hub.env"),
        (file_for_the_logs, "The hub cannot run: File exists: {state}/logs"),
        (folder_for_the_lock, "The hub cannot run: Is a directory: {state}/lock"),
        (folder_for_the_keys, "The hub cannot run: Is a directory: {state}/keys.json"),
        (file_for_the_database, "The hub cannot run: Not a directory: {state}/postgres"),
        (older_database, "initialized by PostgreSQL version 16, which is not compatible with this version"),
        (empty_control_file, 'Postgres did not start: could not read file "global/pg_control"'),
        (torn_settings, 'postgresql.auto.conf" contains errors'),
        (other_password, 'password authentication failed for user "supabase_admin"'),
    ],
)
def test_what_lies_wrong_in_the_state_is_said_as_the_system_or_postgres_says_it(
    own_state: Path, harm: Callable[[Path], None], why: str
) -> None:
    harm(own_state)

    said = refusal("--port", "0", "--state", own_state)

    assert why.format(state=own_state) in said
