"""A request's body: rows to write, or a function's arguments, always handed on as JSON text."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any, NoReturn

from emulator.rest import url
from emulator.rest.errors import contains_nul, invalid_body, invalid_utf8

JSON = "application/json"
CSV = "text/csv"
FORM = "application/x-www-form-urlencoded"
RAW = {"text/plain": "text", "text/xml": "xml", "application/octet-stream": "bytea"}


@dataclass(frozen=True)
class Rows:
    text: str
    # The keys that every row has, or those that the `columns` parameter names.
    keys: tuple[str, ...]

    @property
    def is_object(self) -> bool:
        return self.text.lstrip(" \t\r\n").startswith("{")


def media_type(header: str | None) -> str:
    return (header or JSON).partition(";")[0].strip().lower()


def rows(body: bytes, content_type: str, columns: tuple[str, ...] | None) -> Rows:
    match content_type:
        case "application/json":
            text = decoded(body)
            return Rows(text, columns) if columns is not None else _uniform(text, parsed(text))
        case "text/csv":
            table = _table(decoded(body))
            return _uniform(json.dumps(table), table, "All lines must have same number of fields")
        case "application/x-www-form-urlencoded":
            form = dict(url.parameters(body, "form"))
            return Rows(json.dumps(form), tuple(form))
        case _:
            raise invalid_body(f"Content-Type not acceptable: {content_type}")


def decoded(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise invalid_utf8("body") from error
    if "\0" in text:
        raise contains_nul()
    return text


def parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid_body("Empty or invalid json") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _uniform(text: str, content: Any, complaint: str = "All object keys must match") -> Rows:
    if isinstance(content, dict):
        return Rows(text, tuple(content))
    if not isinstance(content, list) or not content:
        return Rows("[]", ())
    if not all(isinstance(row, dict) for row in content):
        raise invalid_body(complaint)
    keys = content[0].keys()
    if any(row.keys() != keys for row in content):
        raise invalid_body(complaint)
    return Rows(text, tuple(keys))


def _table(text: str) -> list[dict[str, str | None]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise invalid_body(f"Invalid CSV: {error}") from error
    if not lines:
        raise invalid_body("not enough input")
    header, *records = lines
    if any(len(record) != len(header) for record in records):
        raise invalid_body("All lines must have same number of fields")
    return [
        {key: None if cell == "NULL" else cell for key, cell in zip(header, record, strict=True)}
        for record in records
    ]
