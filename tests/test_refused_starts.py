"""A hub that cannot start says why in one sentence, and the next start has lost nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator.state import Keys, write_private
from hubs import command, start_hub


def refusal(*arguments: str | Path) -> str:
    """The sentence that a start is refused with."""
    refused = command(*arguments)
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
