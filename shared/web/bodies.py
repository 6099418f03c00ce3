"""Bodies: parsed into a dictionary that Postgres can store as jsonb."""

import contextlib
import json
import re
from collections.abc import AsyncGenerator
from functools import lru_cache
from itertools import accumulate
from typing import NoReturn
from urllib.parse import parse_qsl

from shared.errors import BadRequest, Unprocessable, UnsupportedMediaType
from shared.web.requests import Request

MAX_DEPTH = 32
MAX_FIELDS = 200
# The most entries of all objects and lists of a body, counted by commas: a text has one in some eighty letters.
MAX_ENTRIES = 50_000
_LARGEST_INTEGER = 2**63
_BRACKET = re.compile(r"[][{}]")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def kind_of(request: Request, kinds: tuple[str, ...]) -> str:
    """How the body is written: "json", "form" or "multipart"."""
    if request.header(b"content-encoding") not in (None, b"identity"):
        raise UnsupportedMediaType("Compressed bodies are not accepted.")
    kind = _kind(request.header(b"content-type") or b"")
    if kind is None or ("form" if kind == "multipart" else kind) not in kinds:
        raise UnsupportedMediaType
    return kind


@lru_cache(maxsize=64)
def _kind(content_type: bytes) -> str | None:
    essence, *parameters = content_type.decode("latin-1").lower().split(";")
    charset = next(
        (value for name, _, value in (p.strip().partition("=") for p in parameters) if name == "charset"), ""
    )
    if charset.strip('"') not in ("", "utf-8", "utf8", "us-ascii"):
        return None
    return {
        "application/json": "json",
        "application/x-www-form-urlencoded": "form",
        "multipart/form-data": "multipart",
    }.get(essence.strip())


async def parse(body: bytes, kind: str, content_type: bytes) -> object:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", code="invalid_utf8") from None
    if kind == "json":
        return _json(text)
    if kind == "form" and text.startswith("{"):
        # `curl -d @form.json` calls a JSON body a form.
        with contextlib.suppress(BadRequest):
            return _json(text)
    return _fields(await _multipart(body, content_type) if kind == "multipart" else _urlencoded(text))


def _json(text: str) -> object:
    if len(text) > MAX_ENTRIES and text.count(",") > MAX_ENTRIES:
        raise Unprocessable(f"A body may have {MAX_ENTRIES} entries.", code="too_many_entries")
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise Unprocessable(f"The body is nested more than {MAX_DEPTH} deep.", code="too_deep")
    try:
        value: object = _DECODER.decode(text)
    except ValueError:
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from None
    # Without an escape there can be neither a NUL nor half a surrogate pair.
    if "\\u" in text:
        _check(value, "")
    return value


def _depth(text: str) -> int:
    """How deep the text nests objects and lists, whether or not it is JSON.

    The parser cannot be asked: how deep it reads differs between versions of Python, and so does its error.
    """
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    outside_of_strings = "".join(unescaped.split('"')[::2])
    return max(accumulate(_STEPS[bracket] for bracket in _BRACKET.findall(outside_of_strings)), default=0)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise Unprocessable.field(_printable(name), "is there twice")
            seen.add(name)
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST_INTEGER <= (number := int(digits)) < _LARGEST_INTEGER:
        raise Unprocessable("A number is too large.", code="number_too_large")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise Unprocessable("A number is too large.", code="number_too_large")
    return number


def _constant(name: str) -> NoReturn:
    raise BadRequest(f"{name} is not JSON.", code="invalid_json")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _check(value: object, path: str) -> None:
    """Refuse text that Postgres cannot store as jsonb, naming its field."""
    if isinstance(value, str):
        if "\0" in value:
            raise Unprocessable.field(path, "contains a NUL character")
        if not _is_encodable(value):
            raise Unprocessable.field(path, "contains half a surrogate pair")
    elif isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            name = f"{path}.{_printable(str(key))}" if path else _printable(str(key))
            _check(str(key), name)
            _check(entry, name)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    return name[:80].encode(errors="replace").decode().replace("\0", "?")


def _urlencoded(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", code="invalid_utf8") from None
    except ValueError:
        raise Unprocessable(f"A form may have {MAX_FIELDS} fields.", code="too_many_fields") from None


async def _multipart(body: bytes, content_type: bytes) -> list[tuple[str, str]]:
    from python_multipart.multipart import parse_options_header
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    # Without the last boundary some of the form never arrived; the parser would be content.
    if not boundary or b"--" + boundary + b"--" not in body:
        raise BadRequest("The body is not a whole multipart form.", code="invalid_multipart")

    async def whole() -> AsyncGenerator[bytes]:
        yield body

    headers = Headers({"content-type": content_type.decode("latin-1")})
    parser = MultiPartParser(
        headers, whole(), max_fields=MAX_FIELDS, max_files=MAX_FIELDS, max_part_size=len(body)
    )
    try:
        form = await parser.parse()
    except MultiPartException:
        raise BadRequest("The body is not a valid multipart form.", code="invalid_multipart") from None
    fields = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            fields.append((name, value))
        # A browser sends a file input that was left empty as a file without name and content.
        elif value.filename or value.size:
            await form.close()
            raise Unprocessable.field(_printable(name), "is a file; files are not accepted here")
    await form.close()
    return fields


def _fields(pairs: list[tuple[str, str]]) -> dict[str, object]:
    """A field that is there more than once, as ticked boxes are, becomes a list."""
    fields: dict[str, object] = {}
    for name, value in pairs:
        if "\0" in value or "\0" in name:
            raise Unprocessable.field(_printable(name), "contains a NUL character")
        earlier = fields.get(name)
        if isinstance(earlier, list):
            earlier.append(value)
        else:
            fields[name] = value if earlier is None else [earlier, value]
    return fields
