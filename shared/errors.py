"""Named errors. Each knows the status and the code it leaves an endpoint with."""

type Detail = dict[str, str]


class HubError(Exception):
    """An error in words that a caller may read: no value they sent, no text of ours they must not see."""

    status = 500
    code = "internal_error"
    message = "Something went wrong on our side."

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        status: int | None = None,
        details: list[Detail] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status or self.status
        self.code = code or self.code
        self.message = message or self.message
        self.details = details or []
        self.headers = headers or {}
        super().__init__(f"{self.code}: {self.message}")

    def body(self) -> dict[str, object]:
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


class BadRequest(HubError):
    status, code, message = 400, "bad_request", "The request cannot be read."


class Unauthorized(HubError):
    """One text for every reason, so that an answer never tells which secrets, sites or users exist."""

    status, code, message = 401, "unauthorized", "The credentials of this request are not valid here."


class Forbidden(HubError):
    status, code, message = 403, "forbidden", "This caller may not do this."


class MethodNotAllowed(HubError):
    status, code, message = 405, "method_not_allowed", "This method is not served here."


class BodyTimeout(HubError):
    status, code, message = 408, "body_timeout", "The body did not arrive in time."


class BodyTooLarge(HubError):
    status, code, message = 413, "body_too_large", "The body is larger than this endpoint accepts."


class UnsupportedMediaType(HubError):
    status, code, message = 415, "unsupported_media_type", "This content type is not accepted here."


class Unprocessable(HubError):
    status, code, message = 422, "validation_failed", "Some fields cannot be accepted."

    @classmethod
    def field(cls, field: str, message: str) -> "Unprocessable":
        return cls(details=[{"field": field, "message": message}])


class TooManyRequests(HubError):
    status, code, message = 429, "rate_limited", "Too many requests; nothing of this one was stored."

    def __init__(self, retry_after: str) -> None:
        super().__init__(headers={"retry-after": retry_after})


class Unavailable(HubError):
    status, code, message = 503, "unavailable", "Try again in a moment."

    def __init__(self, message: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message, code=code, headers={"retry-after": "2"})
