"""functions/manifest.toml: the functions that there are, read again when it changes."""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_TIMEOUT_SECONDS = 60


class UnreadableManifest(Exception):
    pass


@dataclass(frozen=True)
class Entry:
    """One function: `ingest_prime` in the manifest, as folder and as entry point, `ingest-prime` in URLs."""

    name: str
    folder: Path
    caller: str
    method: str
    timeout: float
    purpose: str

    @property
    def target(self) -> str:
        return self.folder.name

    @property
    def source(self) -> Path:
        return self.folder / "main.py"


class Manifest:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "manifest.toml"
        self._read_at: int | None = None
        self._entries: dict[str, Entry] = {}

    def entries(self) -> dict[str, Entry]:
        try:
            changed_at = self._path.stat().st_mtime_ns
            if changed_at != self._read_at:
                self._entries = self._read()
                self._read_at = changed_at
        except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableManifest(f"{self._path}: {error}") from error
        return self._entries

    def _read(self) -> dict[str, Entry]:
        sections = tomllib.loads(self._path.read_text())
        entries = (self._entry(target, section) for target, section in sections.items())
        return {entry.name: entry for entry in entries}

    def _entry(self, target: str, section: dict[str, Any]) -> Entry:
        return Entry(
            name=target.replace("_", "-"),
            folder=self._root / target,
            caller=section.get("caller", ""),
            method=section.get("method", "POST"),
            timeout=float(section.get("timeout", DEFAULT_TIMEOUT_SECONDS)),
            purpose=section.get("purpose", ""),
        )


def purpose(entry: Entry) -> str:
    """The purpose of a function: the manifest's, else its docstring's first line; nothing is imported for it."""
    if entry.purpose:
        return entry.purpose
    try:
        docstring = ast.get_docstring(ast.parse(entry.source.read_text()))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (docstring or "").partition("\n")[0]
