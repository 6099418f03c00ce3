"""The manifest, made: functions/manifest.toml and each requirements.txt, from the declarations and imports of main.py.

    python -m deploy.manifest [--check]

Each fact has one place: the purpose is the docstring's first line, all else is said to `@endpoint` or follows from it.
With --check nothing is written, and a difference is an error.
"""

import contextlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from deploy.bundle import FUNCTIONS, LOCK, ROOT, Lock, NotBundled, packages
from shared import settings
from shared.web.endpoint import Endpoint, declared

MANIFEST = FUNCTIONS / "manifest.toml"
HEADING = """\
# Made by `make manifest` of what each main.py declares: change it there.
#
# Every deployed endpoint: /functions/v1/<name with hyphens>. `optional_settings` are given all or not at all.
# Memory in MB, timeout in seconds, concurrency in requests per instance.
"""


class Undeclared(Exception):
    """A function cannot be listed; the message says why."""


def main() -> int:
    try:
        if "--check" in sys.argv[1:]:
            found = [_shown(path) for path in changes()]
            if found:
                print(f"make manifest would change {', '.join(found)}.", file=sys.stderr)
            return bool(found)
        for path in write():
            print(f"  {_shown(path)}")
    except Undeclared as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


def write() -> list[Path]:
    """Write the files that are not as they would be made; answers them."""
    changed = changes()
    for path, text in changed.items():
        # Whole or not at all: a gateway reads the manifest all the time.
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(text)
        unfinished.replace(path)
    return [*changed]


def changes() -> dict[Path, str]:
    """The files that are not as they would be made, with their right text."""
    made = _made()
    return {path: text for path, text in made.items() if not path.exists() or path.read_text() != text}


def _made() -> dict[Path, str]:
    lock = Lock(LOCK.read_text())
    functions = sorted(path.parent.name for path in FUNCTIONS.glob("*/main.py"))
    sections = [HEADING, *(_section(name) for name in functions)]
    return {MANIFEST: "\n".join(sections)} | {
        FUNCTIONS / name / "requirements.txt": _requirements(name, lock) for name in functions
    }


def _section(name: str) -> str:
    purpose, endpoint = _declaration(name)
    entry: dict[str, Any] = {"purpose": purpose, "caller": endpoint.caller.kind}
    if endpoint.method != "POST":
        entry["method"] = endpoint.method
    entry["settings"] = _names(endpoint.needs)
    if endpoint.wants:
        entry["optional_settings"] = _names(endpoint.wants)
    entry |= vars(endpoint.instance)
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _declaration(name: str) -> tuple[str, Endpoint]:
    """The docstring's first line, and the endpoint of the function's name."""
    source = FUNCTIONS / name / "main.py"
    spec = importlib.util.spec_from_file_location(f"functions.{name}.main", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    declared.pop(name, None)
    try:
        # No setting is needed here: an endpoint is declared before it fails for one.
        with contextlib.suppress(settings.BadSetting):
            spec.loader.exec_module(module)
    except Exception as error:
        raise Undeclared(f"{_shown(source)} cannot be imported: {error}.") from error
    if name not in declared:
        raise Undeclared(f"{_shown(source)} declares no endpoint {name}.")
    if not module.__doc__:
        raise Undeclared(f"{_shown(source)} has no docstring.")
    return module.__doc__.partition("\n")[0], declared[name]


def _names(groups: tuple[type[settings.Settings], ...]) -> list[str]:
    return sorted({name for group in groups for name in settings.names(group)})


def _requirements(name: str, lock: Lock) -> str:
    try:
        return "".join(f"{package}=={lock.version(package)}\n" for package in packages(name))
    except NotBundled as problem:
        raise Undeclared(f"{_shown(FUNCTIONS / name)} cannot be bundled: {problem}.") from problem


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
