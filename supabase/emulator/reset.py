"""`make reset`: removes the files that a hub has made in its state folder, and no others there."""

import contextlib
from pathlib import Path

from emulator.postgres import data_apart, remove
from emulator.state import Keys, State, StateUnusable

# Hubs before this one had a seeding.log.
LOGS = ("gateway.log", "postgres.log", "seeding.log", "workers.log")
# The keys go late: a hub's folder is known by them, also after a reset that was cut off.
FILES = ("hub.env", "hub.env.new", "postgres.port", "keys.json.new", "keys.json", "lock")


class NotAHub(Exception):
    """No hub has made this folder."""


def reset(state: State) -> str:
    """Remove a hub's files; answers a sentence about them."""
    folder, apart = state.folder, data_apart(state.folder)
    if not folder.exists():
        return _remove_orphan(apart) or f"There is nothing at {folder}."
    if not _is_a_hubs(folder):
        raise NotAHub(folder)
    state.lock()
    foreign = _foreign_data(folder / "postgres", apart)
    for data in (folder / "postgres", apart):
        remove(data)
        remove(data.with_name(data.name + ".new"))
    for log in LOGS:
        _unlink(folder / "logs" / log)
    _remove_if_empty(folder / "logs")
    for file in FILES:
        _unlink(folder / file)
    _remove_if_empty(folder)
    said = f"Removed {folder}."
    if folder.exists():
        said = f"Removed the hub in {folder}; what is not its own is left there."
    return f"{said} Its database was a link to {foreign}, which is left." if foreign else said


def _remove_orphan(data: Path) -> str | None:
    """The data of a folder that somebody has removed by hand."""
    if not data.exists():
        return None
    remove(data)
    return f"Removed {data}."


def _is_a_hubs(folder: Path) -> bool:
    try:
        Keys.load(folder)
    except (StateUnusable, OSError):
        return (folder / "postgres" / "vault.key").exists()
    return True


def _foreign_data(link: Path, apart: Path) -> Path | None:
    """A database that somebody has moved or linked: another hub may use it as well."""
    return link.resolve() if link.is_symlink() and link.resolve() != apart else None


def _unlink(file: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        file.unlink()


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
