"""`make reset`: what is a hub's goes, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator.postgres import Postgres, free_port, remove
from emulator.scratch import running_postgres
from emulator.state import State
from support.hubs import Hub, command


def everything_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def data_of_a_hub_in(folder: Path) -> Path:
    """Where the database of a new hub on this folder lies."""
    state = State(folder)
    state.open()
    with running_postgres(Postgres(state, free_port(0))) as postgres:
        return postgres.data.resolve()


# What is a hub's ---------------------------------------------------------------------------------------------------


def test_reset_removes_the_state_and_its_data(folder: Path) -> None:
    state = folder / "state"
    data = data_of_a_hub_in(state)

    done = command("--state", state, "--reset")

    assert done.stdout == f"Removed {state}.\n"
    assert not data.exists()
    assert not state.exists()


def test_a_hub_without_readable_keys_is_still_a_hubs(own_state: Path) -> None:
    (own_state / "keys.json").write_text("{")

    done = command("--state", own_state, "--reset")

    assert done.stdout == f"Removed {own_state}.\n"
    assert not own_state.exists()


def test_a_start_that_was_cut_off_is_removed_as_well(folder: Path) -> None:
    state = State(folder / "state")
    state.open()
    (state.folder / "postgres.new").mkdir()
    (state.folder / "keys.json.new").touch()

    done = command("--state", state.folder, "--reset")

    assert done.stdout == f"Removed {state.folder}.\n"
    assert not state.folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down; run the tests as root to see it")
def test_the_data_that_lies_outside_of_the_folder_goes_too(folder: Path) -> None:
    (folder / "home").mkdir(mode=0o700)
    state = folder / "home" / "state"
    data = data_of_a_hub_in(state)
    assert data.parent == Path("/var/tmp")

    done = command("--state", state, "--reset")

    assert done.stdout == f"Removed {state}.\n"
    assert not data.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down; run the tests as root to see it")
def test_the_data_of_a_folder_that_is_gone_already_goes_too(folder: Path) -> None:
    (folder / "home").mkdir(mode=0o700)
    state = folder / "home" / "state"
    data = data_of_a_hub_in(state)
    remove(state)

    done = command("--state", state, "--reset")

    assert done.stdout == f"Removed {data}.\n"
    assert not data.exists()


# What is not --------------------------------------------------------------------------------------------------------


def nothing(folder: Path) -> None:
    pass


def a_persons_files(folder: Path) -> None:
    (folder / "thesis.txt").write_text("all of it")
    (folder / "photos").mkdir()


def the_volumes_of_other_services(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    (folder / "logs").mkdir()
    (folder / "logs" / "postgres.log").write_text("ready\n")
    (folder / "keys.json").write_text('{"publishable_key": "mine"}')
    (folder / "lock").touch()


@pytest.mark.parametrize("fill", [nothing, a_persons_files, the_volumes_of_other_services])
def test_a_folder_that_is_no_hubs_is_refused_and_stays_as_it_is(
    folder: Path, fill: Callable[[Path], None]
) -> None:
    fill(folder)
    before = everything_in(folder)

    refused = command("--state", folder, "--reset")

    assert everything_in(folder) == before
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"There is no hub in {folder}; nothing was removed.\n"


def test_an_empty_name_is_not_the_folder_one_is_in(folder: Path) -> None:
    a_persons_files(folder)
    before = everything_in(folder)

    refused = command("--state", "", "--reset", cwd=folder)

    assert everything_in(folder) == before
    assert (refused.returncode, refused.stderr) == (1, "STATE is empty; name a folder.\n")


def test_nothing_is_made_where_there_is_nothing(folder: Path) -> None:
    done = command("--state", folder / "misspelt", "--reset")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"There is nothing at {folder / 'misspelt'}.\n"
    assert not (folder / "misspelt").exists()


def test_files_of_others_in_the_folder_are_left_and_named(own_state: Path) -> None:
    (own_state / "notes.txt").write_text("call Bob")
    (own_state / "logs" / "mine.log").write_text("hello")

    done = command("--state", own_state, "--reset")

    assert everything_in(own_state) == {"notes.txt": "call Bob", "logs": "", "logs/mine.log": "hello"}
    assert done.stdout == f"Removed the hub in {own_state}; what is not its own is left there.\n"


def test_a_database_behind_a_link_of_others_is_left_and_named(folder: Path, own_state: Path) -> None:
    elsewhere = own_state.with_name("elsewhere")
    (own_state / "postgres").rename(elsewhere)
    (own_state / "postgres").symlink_to(elsewhere)

    done = command("--state", own_state, "--reset")

    assert (elsewhere / "PG_VERSION").exists()
    assert not own_state.exists()
    assert done.stdout == f"Removed {own_state}. Its database was a link to {elsewhere}, which is left.\n"


def test_a_hub_that_runs_is_refused(own_hub: Hub) -> None:
    refused = command("--state", own_hub.state, "--reset")

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"A hub already runs on {own_hub.state}. Stop it")
    assert own_hub.submit("prime", {"email": "ada@example.com"})["duplicate"] is False
