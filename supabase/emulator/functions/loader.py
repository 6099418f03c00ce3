"""Loading one function through functions-framework, as its own process would.

The framework expects to load one function per process. It leaves that function's name in its registry and in
the environment, its folder on sys.path and its module under the name `main`; each load here starts and ends
without them.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from starlette.types import ASGIApp

from emulator.functions.manifest import Entry

Stamp = frozenset[tuple[str, int, int]]

LEFT_IN_ENVIRONMENT = ("FUNCTION_TARGET", "FUNCTION_SIGNATURE_TYPE", "FUNCTION_TRIGGER_TYPE")

_one_at_a_time = threading.Lock()


class NotAFunction(Exception):
    """The folder's code runs, but cannot be deployed."""


def load(entry: Entry) -> ASGIApp:
    """The function's ASGI application; raises whatever its import raises."""
    # Not at the top: importing the framework, with Flask, takes as long as the rest of the gateway.
    from functions_framework import _function_registry as registry
    from functions_framework import create_app

    with _one_at_a_time, _alone(entry.folder):
        for table in (registry.REGISTRY_MAP, registry.INPUT_TYPE_MAP, registry.ASGI_FUNCTIONS):
            table.clear()
        # Python keeps compiled code by the second: two edits within one would be taken for one.
        Path(importlib.util.cache_from_source(str(entry.source))).unlink(missing_ok=True)
        try:
            app = create_app(entry.target, str(entry.source), registry.HTTP_SIGNATURE_TYPE)
        except SystemExit as exit:
            raise NotAFunction(f"{entry.target} ended the process when it was imported") from exit
        if entry.target not in registry.ASGI_FUNCTIONS:
            raise NotAFunction(f"{entry.target} is not declared with functions_framework.aio")
        return cast(ASGIApp, app)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    environment = {name: os.environ.pop(name, None) for name in LEFT_IN_ENVIRONMENT}
    path = list(sys.path)
    modules = set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules | {"main"}:
            if _lies_in(folder, sys.modules.get(name)):
                del sys.modules[name]
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _lies_in(folder: Path, module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder.resolve())


def stamp(folder: Path) -> Stamp:
    """A stamp that tells one state of a folder from another, without reading its files."""
    found: set[tuple[str, int, int]] = set()
    unseen = [str(folder)]
    while unseen:
        try:
            with os.scandir(unseen.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if entry.name != "__pycache__":
                            unseen.append(entry.path)
                    else:
                        status = entry.stat()
                        found.add((entry.path, status.st_mtime_ns, status.st_size))
        except FileNotFoundError:
            continue
    return frozenset(found)
