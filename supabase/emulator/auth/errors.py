"""Auth's refusals, in both shapes that clients know."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse

API_VERSION_HEADER = "x-supabase-api-version"
API_VERSION = "2024-01-01"


class AuthError(Exception):
    def __init__(self, status: int, code: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details


class NotImplementedHere(AuthError):
    def __init__(self, feature: str) -> None:
        super().__init__(501, "not_implemented", f"{feature} is not part of the local stack")


def answer(request: Request, error: AuthError, headers: Mapping[str, str]) -> JSONResponse:
    headers = {**headers, "X-Sb-Error-Code": error.code}
    if request.headers.get(API_VERSION_HEADER, "") >= API_VERSION:
        headers["X-Supabase-Api-Version"] = API_VERSION
        body: dict[str, object] = {"code": error.code, "message": error.message}
    else:
        body = {"code": error.status, "error_code": error.code, "msg": error.message}
    return JSONResponse(body | error.details, error.status, headers)
