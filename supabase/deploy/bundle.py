"""Bundles: the files of this repository that one deployed function needs, written to dist/<function>/.

The function's own folder, the modules of shared/ that its main.py imports, directly or through each other,
and requirements.txt: the packages that these import and those that they need in turn, pinned with the hashes
of the lock file. An import inside a function counts like any other, one for type checkers only does not.
"""

import ast
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ROOT / "functions"
DIST = ROOT / "dist"
LOCK = ROOT / ".requirements.lock"

# Packages that a module needs although nothing imports them: the server's loop and parser, the reader of forms.
COMPANIONS = {
    "functions_framework.aio": ("httptools", "uvloop"),
    "starlette.formparsers": ("python-multipart",),
}


class NotBundled(Exception):
    """A function imports something that cannot be put into its bundle."""


def main() -> None:
    lock = Lock(LOCK.read_text())
    shutil.rmtree(DIST, ignore_errors=True)
    try:
        for function in tomllib.loads((FUNCTIONS / "manifest.toml").read_text()):
            write(function, lock, DIST)
            print(f"  {DIST.name}/{function}")
    except NotBundled as error:
        sys.exit(f"{function} cannot be bundled: {error}.")


def write(function: str, lock: "Lock", dist: Path) -> Path:
    source, folder = FUNCTIONS / function, dist / function
    requirements = lock.pinned(packages(function))
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("requirements.txt", "__pycache__"))
    for module in shared_modules(function):
        copy = folder / module.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, copy)
    (folder / "requirements.txt").write_text(requirements)
    return folder


def shared_modules(function: str) -> list[Path]:
    """The modules of shared/ that the function imports, however deep."""
    return sorted(source for source in _imports_by_source(function) if source.is_relative_to(ROOT / "shared"))


def packages(function: str) -> list[str]:
    """The packages that the function and its part of shared/ use directly."""
    modules = {module for modules in _imports_by_source(function).values() for module in modules}
    found = {companion for module in modules for companion in COMPANIONS.get(module, ())}
    for name in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"shared"}:
        if name not in _providers():
            raise NotBundled(f"nothing installed provides the module {name}")
        found.update(map(_normalized, _providers()[name]))
    return sorted(found)


class Lock:
    """A lock file: its pins, and the packages that each package needs."""

    def __init__(self, text: str) -> None:
        self._pins: dict[str, str] = {}
        self._needs: dict[str, set[str]] = {}
        for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
            name = _normalized(re.split(r"[=\[ ]", entry, maxsplit=1)[0])
            pin, *reasons = entry.split("    # via")
            self._pins[name] = pin
            for needed_by in re.findall(r"[\w.-]+$", "".join(reasons), flags=re.MULTILINE):
                self._needs.setdefault(_normalized(needed_by), set()).add(name)

    def pinned(self, names: Iterable[str]) -> str:
        """These packages and everything they need, as a requirements file."""
        found: set[str] = set()
        unseen = set(names)
        while unseen:
            name = unseen.pop()
            if name not in self._pins:
                raise NotBundled(f"{LOCK.name} does not pin {name}")
            found.add(name)
            unseen |= self._needs.get(name, set()) - found
        return "".join(self._pins[name] for name in sorted(found))

    def version(self, name: str) -> str:
        return re.split(r"==|[ ;\\]", self._pins[name])[1]


@cache
def _imports_by_source(function: str) -> dict[Path, set[str]]:
    found: dict[Path, set[str]] = {}
    unread = {FUNCTIONS / function / "main.py"}
    while unread:
        source = unread.pop()
        found[source] = set(_imports(ast.parse(source.read_text())))
        unread |= {module for name in found[source] for module in _of_shared(name)} - found.keys()
    return found


def _imports(tree: ast.AST) -> Iterator[str]:
    """The full name of everything imported; `from a import b` may mean the module a.b and names both."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise NotBundled(f"{ast.unparse(node)!r} is relative; write the whole name")
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case _:
                yield from _imports(node)


def _of_shared(name: str) -> Iterator[Path]:
    """The files of shared/ that importing this name runs: those of its packages, and its own."""
    parts = name.split(".")
    if parts[0] != "shared":
        return
    for depth in range(1, len(parts) + 1):
        module = ROOT.joinpath(*parts[:depth])
        yield from filter(Path.is_file, (module / "__init__.py", module.with_name(f"{module.name}.py")))


@cache
def _providers() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


if __name__ == "__main__":
    main()
