"""Endpoints: the caller, the body, the answer and one log line of every function, in one place.

    @endpoint(caller=sites.sender("prime"), body=Submission)
    async def ingest_prime(site: Site, submission: Submission, request: Request): ...

The handler gets the caller, the body when the endpoint has a model for it, and the request when it asks for a
parameter of that name. It answers a dictionary or model, alone or with a status, or raises a named error.
"""

import gc
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

import orjson
from functions_framework import aio
from pydantic import BaseModel, ValidationError
from starlette.requests import Request as FrameworkRequest
from starlette.routing import Route
from uvicorn.config import HTTP_PROTOCOLS

from shared import log, settings, tracing
from shared.errors import HubError, MethodNotAllowed, Unprocessable
from shared.web import bodies
from shared.web.caller import Caller
from shared.web.protocol import Protocol
from shared.web.requests import Request
from shared.web.responses import Response

type Answer = BaseModel | dict[str, Any]
type Handler = Callable[..., Awaitable[Answer | tuple[Answer, int]]]
type Served = Callable[[FrameworkRequest], Awaitable[Response]]

_EMPTY = b""
_PREFLIGHT_HEADERS = b"content-type, idempotency-key, traceparent, x-page-token, x-webhook-secret"


@dataclass(frozen=True)
class Instance:
    """The instance of a deployed function: memory in MB, timeout in seconds, concurrency in requests at a time."""

    memory: int = 256
    timeout: int = 15
    concurrency: int = 80
    min_instances: int = 0
    # Each instance holds up to four connections, and a small pooler serves 200 clients.
    max_instances: int = 10


USUAL = Instance()


class Endpoint:
    """An endpoint as it was declared."""

    def __init__(
        self,
        handler: Handler,
        caller: Caller[Any],
        body: type[BaseModel] | None,
        method: str,
        max_body: int,
        kinds: tuple[str, ...],
        needs: tuple[type[settings.Settings], ...],
        wants: tuple[type[settings.Settings], ...],
        instance: Instance,
    ) -> None:
        self.name = handler.__name__
        self.caller = caller
        self.method = method
        self.body = body
        self.needs = tuple(dict.fromkeys((*caller.needs, *needs)))
        self.wants = wants
        self.instance = instance
        self._handler = handler
        self._max_body = max_body
        self._kinds = kinds
        self._allow = ", ".join(("GET", "HEAD", "OPTIONS") if method == "GET" else (method, "OPTIONS"))
        self._wants_request = "request" in inspect.signature(handler).parameters

    async def answer(self, framework_request: FrameworkRequest) -> Response:
        """Everything that can happen ends here as one response and one line in the log."""
        started = time.perf_counter()
        scope = framework_request.scope
        request = Request(scope["method"], scope["headers"], framework_request.receive, self._max_body, scope)
        trace = tracing.begin(request.credential(b"traceparent"))
        code = None
        try:
            response = await self._respond(request)
        except HubError as error:
            code = error.code
            response = self._refusal(error, trace)
            if error.status >= 500:
                cause = error.__cause__ or error
                log.crash("failure", cause, trace_id=trace.trace_id, function=self.name, code=code)
        except Exception as error:  # the one place that turns the unknown into an answer
            code = HubError.code
            response = self._refusal(HubError(), trace)
            log.crash("crash", error, trace_id=trace.trace_id, function=self.name)
        response.headers.append((b"x-trace-id", trace.trace_id.encode()))
        response.headers.append((b"traceparent", trace.traceparent.encode()))
        if request.credential(b"origin"):
            await self._allow_origin(request, response)
        log.line(
            "request",
            trace_id=trace.trace_id,
            function=self.name,
            caller=self.caller.kind,
            method=request.method,
            status=response.status,
            code=code,
            ms=round((time.perf_counter() - started) * 1000, 2),
        )
        return response

    async def _respond(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return self._options(request)
        if request.method != self.method and not (request.method == "HEAD" and self.method == "GET"):
            raise MethodNotAllowed(headers={"allow": self._allow})
        arguments = [await self.caller(request)]
        if self.body is not None:
            arguments.append(await self._parsed(self.body, request))
        result = await (
            self._handler(*arguments, request=request) if self._wants_request else self._handler(*arguments)
        )
        content, status = result if isinstance(result, tuple) else (result, 200)
        if isinstance(content, BaseModel):
            return Response(status, content.model_dump_json().encode())
        return Response(status, orjson.dumps(content))

    async def _parsed(self, model: type[BaseModel], request: Request) -> BaseModel:
        kind = bodies.kind_of(request, self._kinds)
        fields = await bodies.parse(await request.body(), kind, request.header(b"content-type") or _EMPTY)
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise Unprocessable(
            details=[{"field": ".".join(map(str, it["loc"])), "message": it["msg"]} for it in problems[:50]]
        )

    def _options(self, request: Request) -> Response:
        response = Response(204, _EMPTY)
        del response.headers[:2]
        response.headers.append((b"allow", self._allow.encode()))
        return response

    async def _allow_origin(self, request: Request, response: Response) -> None:
        """Let browsers on the origins that the caller's site lists send this and read the answer."""
        response.headers.append((b"vary", b"origin"))
        origin = request.credential(b"origin")
        try:
            allowed = origin.decode("latin-1") in await self.caller.allowed_origins(request)
        except (
            Exception
        ) as error:  # the answer is there: a browser that may not read it is told nothing worse
            if not isinstance(error, HubError):
                log.crash("origins_unknown", error, function=self.name)
            return
        if allowed:
            response.headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"retry-after, x-trace-id"),
            ]
        if allowed and request.method == "OPTIONS":
            response.headers += [
                (b"access-control-allow-methods", self.method.encode()),
                (b"access-control-allow-headers", _PREFLIGHT_HEADERS),
                (b"access-control-max-age", b"600"),
            ]

    def _refusal(self, error: HubError, trace: tracing.Trace) -> Response:
        if error.status >= 500 and not error.details:
            error.details = [{"trace_id": trace.trace_id}]
        response = Response(error.status, orjson.dumps(error.body()))
        response.headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
        return response


class EveryMethod(Route):
    """A function's route, whatever the method: functions-framework's own refuses unusual ones in plain text."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *, methods: list[str]) -> None:
        super().__init__(path, endpoint, methods=methods)
        if "POST" in methods:
            self.methods = None


# functions-framework lets nobody choose its server or its routes: it finds these where it looks for its own.
HTTP_PROTOCOLS["auto"] = f"{Protocol.__module__}:{Protocol.__name__}"
aio.Route = EveryMethod  # type: ignore[assignment, attr-defined]

# Every endpoint of this process, by name, for the manifest.
declared: dict[str, Endpoint] = {}


def endpoint(
    *,
    caller: Caller[Any],
    body: type[BaseModel] | None = None,
    method: str = "POST",
    max_body: int = 1_000_000,
    kinds: tuple[str, ...] = ("json", "form"),
    needs: tuple[type[settings.Settings], ...] = (),
    wants: tuple[type[settings.Settings], ...] = (),
    instance: Instance = USUAL,
) -> Callable[[Handler], Served]:
    """Declare a handler as an endpoint. It fails here, at start, when a setting that it needs is missing, or
    when one of those that it wants is set in part."""

    def declare(handler: Handler) -> Served:
        made = Endpoint(handler, caller, body, method, max_body, kinds, needs, wants, instance)
        declared[made.name] = made
        for group in made.needs:
            settings.load(group)
        for group in made.wants:
            settings.load_if_set(group)
        # Imported objects live as long as the function does: no collection need look at them.
        gc.freeze()

        @wraps(handler)
        async def serve(request: FrameworkRequest) -> Response:
            return await made.answer(request)

        return cast(Served, aio.http(cast(Any, serve)))

    return declare
