"""The host: built on first use, built again when its folder changes; a broken function harms no other."""

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from emulator import answers
from emulator.answers import Rejected
from emulator.functions import loader
from emulator.functions.deadlines import Deadlines
from emulator.functions.manifest import Entry, Manifest, UnreadableManifest, purpose

PREFIX = "/functions/v1/"
LOOK_EVERY_SECONDS = 0.1

log = logging.getLogger("emulator.functions")


@dataclass
class Built:
    """One function at one state of its folder; without an app when that state does not load."""

    entry: Entry
    stamp: loader.Stamp
    app: ASGIApp | None
    looked_at: float


class Functions:
    def __init__(self, root: Path, project_url: str) -> None:
        self._manifest = Manifest(root)
        self._url = f"{project_url}{PREFIX}"
        self._built: dict[str, Built] = {}
        self._building: dict[str, asyncio.Task[Built]] = {}
        self._deadlines = Deadlines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, slash, rest = scope["path"][len(PREFIX) :].partition("/")
        if not name:
            await self._list(scope["method"], send)
            return
        built = self._built.get(name)
        if built is None or built.looked_at + LOOK_EVERY_SECONDS < asyncio.get_running_loop().time():
            built = await self._current(self._entry(name))
        if built.app is None:
            raise Rejected(500, "function_unavailable", f"{name} could not be loaded; the log says why")
        # A deployed function has a host of its own, so it sees only the path after its name.
        scope["raw_path"] = _raw_rest(scope) if slash else b"/"
        scope["path"] = slash + rest or "/"
        try:
            await self._deadlines.run(built.entry.timeout, built.app(scope, receive, send))
        except TimeoutError as error:
            # If the answer has begun, the server takes no second one and cuts the connection, as it should.
            message = f"{name} did not answer within {built.entry.timeout:g} seconds"
            raise Rejected(504, "function_timeout", message) from error

    def _entry(self, name: str) -> Entry:
        entry = self._entries().get(name)
        if entry is None:
            self._built.pop(name, None)
            raise Rejected(404, "function_not_found", f"There is no function {name[:80]}")
        return entry

    def _entries(self) -> dict[str, Entry]:
        try:
            entries = self._manifest.entries()
        except UnreadableManifest as unreadable:
            log.error(str(unreadable))
            message = "functions/manifest.toml cannot be read; the log says why"
            raise Rejected(500, "manifest_unreadable", message) from unreadable
        # `make deploy` makes this setting of the manifest.
        os.environ["HUB_FUNCTIONS"] = " ".join(entries)
        return entries

    async def _current(self, entry: Entry) -> Built:
        built = self._built.get(entry.name)
        if built and built.entry == entry and built.stamp == loader.stamp(entry.folder):
            built.looked_at = asyncio.get_running_loop().time()
            return built
        building = self._building.get(entry.name)
        if building is None:
            building = self._building[entry.name] = asyncio.create_task(self._build(entry))
            building.add_done_callback(lambda _: self._building.pop(entry.name))
        return await asyncio.shield(building)

    async def _build(self, entry: Entry) -> Built:
        stamp = loader.stamp(entry.folder)
        try:
            app = await asyncio.to_thread(loader.load, entry)
        except Exception:
            log.exception("%s could not be loaded", entry.name)
            app = None
        built = Built(entry, stamp, app, asyncio.get_running_loop().time())
        self._built[entry.name] = built
        return built

    async def _list(self, method: str, send: Send) -> None:
        if method not in ("GET", "HEAD"):
            raise answers.wrong_method(method, b"GET, HEAD")
        functions = [
            {
                "name": entry.name,
                "purpose": await asyncio.to_thread(purpose, entry),
                "caller": entry.caller,
                "method": entry.method,
                "url": self._url + entry.name,
            }
            for entry in self._entries().values()
        ]
        await answers.answer(send, 200, {"functions": functions})


def _raw_rest(scope: Scope) -> bytes:
    return b"/" + b"".join(scope["raw_path"].split(b"/", 4)[4:])
