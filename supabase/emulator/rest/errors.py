"""Faults, in PostgREST's codes, statuses and words."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import psycopg

from emulator.rest.headers import InvalidHeaders, checked

RETRY_AFTER = {"Retry-After": "1"}
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Fault(Exception):
    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Any = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        error = {"code": self.code, "details": self.details, "hint": self.hint, "message": self.message}
        return json.dumps(error, ensure_ascii=False).encode("utf-8", "backslashreplace")


class NotInCatalog(Fault):
    """A name the schema cache does not have; perhaps a newer cache does."""


def unsupported(feature: str) -> Fault:
    return Fault(501, "PGRST127", "Feature not implemented", feature)


def bad_query(message: str, details: str) -> Fault:
    return Fault(400, "PGRST100", message, details)


def invalid_body(message: str) -> Fault:
    return Fault(400, "PGRST102", message)


def too_complex(what: str) -> Fault:
    return Fault(400, "PGRST100", f"The request has {what}", "Ask for less in one request.")


def contains_nul() -> Fault:
    return Fault(400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00')


def invalid_utf8(where: str) -> Fault:
    return Fault(400, "22021", f"The {where} is not valid UTF-8")


def out_of_range(details: str) -> Fault:
    return Fault(416, "PGRST103", "Requested range not satisfiable", details)


def unacceptable_schema(schema: str, exposed: Iterable[str]) -> Fault:
    listed = ", ".join(exposed)
    return Fault(
        406,
        "PGRST106",
        f"Invalid schema: {schema}",
        hint=f"Only the following schemas are exposed: {listed}",
    )


def not_embedded(resource: str) -> Fault:
    return Fault(
        400,
        "PGRST108",
        f"'{resource}' is not an embedded resource in this request",
        hint=f"Verify that '{resource}' is included in the 'select' query parameter.",
    )


def not_singular(rows: int) -> Fault:
    return Fault(
        406,
        "PGRST116",
        "Cannot coerce the result to a single JSON object",
        f"The result contains {rows} rows",
    )


def unsupported_method(method: str) -> Fault:
    return Fault(405, "PGRST117", f"Unsupported HTTP method: {method}")


def too_many_affected(rows: int) -> Fault:
    return Fault(
        400,
        "PGRST124",
        "Query result exceeds max-affected preference constraint",
        f"The query affects {rows} rows",
    )


def column_not_found(relation: str, column: str) -> Fault:
    return NotInCatalog(
        400, "PGRST204", f"Could not find the '{column}' column of '{relation}' in the schema cache"
    )


def database_unavailable(details: str) -> Fault:
    return Fault(
        503,
        "PGRST001",
        "Database client error. Retrying the connection.",
        details,
        headers=RETRY_AFTER,
    )


def pool_exhausted() -> Fault:
    return Fault(504, "PGRST003", "Timed out acquiring connection from connection pool.")


EXACT_STATUS = {
    "21000": 500,
    "22023": 400,
    "23503": 409,
    "23505": 409,
    "25006": 405,
    "42501": 403,
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "53400": 500,
    "57P01": 503,
    "P0001": 400,
}
CLASS_STATUS = {
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "25": 500,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "53": 503,
    "54": 500,
    "55": 500,
    "57": 500,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "XX": 500,
}


def from_database(error: psycopg.Error, *, is_anonymous: bool) -> Fault:
    state = error.sqlstate
    if state is None:
        return _without_state(error)
    message = error.diag.message_primary or str(error)
    if state == "PGRST":
        return _raised_response(message, error.diag.message_detail)
    status = _status(state, message, is_anonymous)
    headers = CHALLENGE if status == 401 else RETRY_AFTER if status == 503 else None
    return Fault(status, state, message, error.diag.message_detail, error.diag.message_hint, headers)


def _without_state(error: psycopg.Error) -> Fault:
    if isinstance(error, psycopg.DataError):
        return contains_nul()
    return database_unavailable(str(error))


def _status(state: str, message: str, is_anonymous: bool) -> int:
    if state.startswith("PT"):
        return _status_in(state[2:])
    if state == "21000" and message.endswith("requires a WHERE clause"):
        return 400
    if state == "22023" and message.startswith("role") and message.endswith("does not exist"):
        return 401
    if state == "42501" and is_anonymous:
        return 401
    return EXACT_STATUS.get(state) or CLASS_STATUS.get(state[:2], 400)


def _status_in(digits: str) -> int:
    return int(digits) if digits.isdecimal() and digits.isascii() and 200 <= int(digits) <= 599 else 500


def _raised_response(message: str, detail: str | None) -> Fault:
    """RAISE sqlstate 'PGRST': the function writes the whole response itself."""
    said = _object(message)
    if said is None or not {"code", "message"} <= said.keys():
        return _unparsable_raise(
            f"Invalid JSON value for MESSAGE: '{message}'",
            "MESSAGE must be a JSON object with obligatory keys: 'code', 'message' "
            "and optional keys: 'details', 'hint'.",
        )
    shape = (
        "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' "
        "and optional key: 'status_text'."
    )
    if detail is None:
        return _unparsable_raise("DETAIL is missing in the RAISE statement", shape)
    response = _object(detail)
    try:
        headers = checked(response["headers"]) if response else {}
        status = HTTPStatus(response["status"]) if response else HTTPStatus.INTERNAL_SERVER_ERROR
    except (InvalidHeaders, KeyError, ValueError, TypeError, AttributeError):
        response = None
    if response is None:
        return _unparsable_raise(f"Invalid JSON value for DETAIL: '{detail}'", shape)
    return Fault(
        status, str(said["code"]), str(said["message"]), said.get("details"), said.get("hint"), headers
    )


def _object(text: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _unparsable_raise(details: str, hint: str) -> Fault:
    message = "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error"
    return Fault(500, "PGRST121", message, details, hint)
