"""An HTTP request, understood as far as that goes without the catalog."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request

from emulator.rest import media, payload, preferences, url
from emulator.rest.errors import Fault, contains_nul, out_of_range, unacceptable_schema
from emulator.rest.media import Media
from emulator.rest.preferences import Preferences
from emulator.rest.query import EVERYTHING, Page
from emulator.rest.url import Parameters

LARGEST_BODY = 10 * 1024 * 1024
ROWS = re.compile(r"(?:items=)?([0-9]{1,18})-([0-9]{0,18})")


@dataclass(frozen=True)
class Configuration:
    schemas: tuple[str, ...]
    extra_search_path: tuple[str, ...]
    anon_role: str
    max_rows: int
    plan_enabled: bool
    tx_end_override: bool
    public_url: str


@dataclass(frozen=True)
class Asked:
    method: str
    schema: str
    name: str
    parameters: Parameters
    body: bytes
    content_type: str
    preferences: Preferences
    media: Media
    range: Page
    max_rows: int
    names_profile: bool

    @property
    def is_read(self) -> bool:
        return self.method in ("GET", "HEAD")


async def understand(
    request: Request, configuration: Configuration, name: str, is_timezone: Callable[[str], bool]
) -> Asked:
    schema, names_profile = profile(request, configuration.schemas)
    asked = Asked(
        method=request.method,
        schema=schema,
        name=name,
        parameters=url.parameters(request.scope["query_string"]),
        body=await _body(request),
        content_type=payload.media_type(request.headers.get("content-type")),
        preferences=preferences.parse(
            request.headers.getlist("prefer"), is_timezone, tx_override=configuration.tx_end_override
        ),
        media=_media(request, configuration),
        range=_range(request.headers.get("range")) if request.method == "GET" else EVERYTHING,
        max_rows=configuration.max_rows,
        names_profile=names_profile,
    )
    asked.preferences.refuse_invalid()
    return asked


def is_root(request: Request) -> bool:
    return _below_mount(request) in ("", "/")


def keyed_headers(request: Request) -> Mapping[str, str]:
    """The headers, with the key from the URL if they have none: some readers take nothing but a URL."""
    keys = request.query_params.getlist("apikey")
    return {"apikey": keys[0]} | dict(request.headers) if len(keys) == 1 else request.headers


def path(request: Request) -> list[str]:
    path = _below_mount(request)
    segments = [each for each in path.split("/") if each]
    if "\0" in path:
        raise contains_nul()
    is_function = len(segments) == 2 and segments[0] == "rpc"
    is_table = len(segments) == 1 and segments != ["rpc"]
    if not (is_function or is_table or is_root(request)):
        raise Fault(404, "PGRST125", "Invalid path specified in request URL")
    return segments


def _below_mount(request: Request) -> str:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def profile(request: Request, schemas: tuple[str, ...]) -> tuple[str, bool]:
    """The schema that is asked for, and whether the answer has to name it."""
    is_read = request.method in ("GET", "HEAD")
    named = request.headers.get("accept-profile" if is_read else "content-profile")
    if named is not None and named not in schemas:
        raise unacceptable_schema(named, schemas)
    return named or schemas[0], named is not None or len(schemas) > 1


def accept(request: Request) -> str:
    return ",".join(request.headers.getlist("accept"))


def _media(request: Request, configuration: Configuration) -> Media:
    return media.negotiate(accept(request), plan_enabled=configuration.plan_enabled)


def _range(header: str | None) -> Page:
    """Rows as `first-last`, or from `first` on; anything else is no range of rows."""
    found = ROWS.fullmatch(header or "")
    if found is None:
        return EVERYTHING
    offset, last = int(found[1]), found[2]
    if not last:
        return Page(None, offset)
    if int(last) < offset:
        raise out_of_range(
            "The lower boundary must be lower than or equal to the upper boundary in the Range header."
        )
    return Page(int(last) - offset + 1, offset)


async def _body(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise Fault(413, "PGRST102", f"The body is larger than {LARGEST_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
