"""The REST endpoint as an ASGI app: HTTP in, one transaction, HTTP out."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import psycopg
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from emulator.rest import functions, media, tables
from emulator.rest.action import Action, Answer, Builder, overridden
from emulator.rest.asked import Asked, Configuration, accept, is_root, keyed_headers, profile, understand
from emulator.rest.asked import path as asked_path
from emulator.rest.catalog import Catalog
from emulator.rest.database import Database, Transaction
from emulator.rest.errors import (
    Fault,
    NotInCatalog,
    from_database,
    invalid_utf8,
    unsupported_method,
)
from emulator.rest.headers import merged, token
from emulator.rest.media import Media
from emulator.rest.openapi import Descriptions
from emulator.rest.schema_cache import SchemaCache
from emulator.rest.statement import Result, explained, planned_rows
from emulator.tokens import Refused

TABLE_METHODS: dict[str, Builder] = {
    "GET": tables.read,
    "HEAD": tables.read,
    "POST": tables.insert,
    "PATCH": tables.update,
    "PUT": tables.replace_row,
    "DELETE": tables.delete,
}
FUNCTION_METHODS: dict[str, Builder] = {"GET": functions.call, "HEAD": functions.call, "POST": functions.call}

Authenticate = Callable[[Mapping[str, str]], dict[str, Any]]

log = logging.getLogger(__name__)


class Rest:
    def __init__(
        self,
        database_url: str,
        authenticate: Authenticate,
        authenticate_at_root: Authenticate,
        configuration: Configuration,
    ) -> None:
        self._database = Database(database_url)
        self._cache = SchemaCache(self._database, configuration.schemas)
        self._descriptions = Descriptions(self._database, configuration.public_url)
        self._authenticate = authenticate
        self._authenticate_at_root = authenticate_at_root
        self._configuration = configuration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            response = await self._response(Request(scope, receive))
            await response(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def close(self) -> None:
        await self._cache.close()
        await self._database.close()

    async def _response(self, request: Request) -> Response:
        try:
            answer = await self._answer(request)
        except Fault as fault:
            answer = _fault_answer(fault)
        except psycopg.Error as error:
            answer = _fault_answer(from_database(error, is_anonymous=False))
        except ClientDisconnect:
            answer = Answer(400)
        except Exception:
            # The caller learns nothing of an unknown error.
            log.exception("rest: unhandled error for %s %s", request.method, request.url.path)
            answer = _fault_answer(Fault(500, "PGRSTX00", "Internal error"))
        is_bare = request.method == "HEAD" or answer.status in (204, 304)
        response = Response(b"" if is_bare else answer.body, answer.status, answer.headers)
        if is_bare:
            del response.headers["content-length"]
        return response

    async def _answer(self, request: Request) -> Answer:
        claims = self._claims(request)
        role = claims.get("role") or self._configuration.anon_role
        if not isinstance(role, str) or "\0" in role:
            raise Fault(401, "PGRST303", "The role claim is not a role's name")
        path = asked_path(request)
        if not path:
            return await self._description(request, claims, role)
        timezones = await self._timezones(request)
        asked = await understand(request, self._configuration, path[-1], timezones.__contains__)
        is_function = len(path) == 2
        catalog = await self._cache.current()
        if asked.method == "OPTIONS":
            return await self._options(asked, catalog, is_function=is_function)
        builder = (FUNCTION_METHODS if is_function else TABLE_METHODS).get(asked.method)
        if builder is None:
            raise _wrong_method(asked.method, is_function=is_function)
        action = await self._built(builder, asked, catalog)
        settings = self._settings(request, asked.schema, catalog, claims, role)
        settings += action.settings
        if timezone := asked.preferences.get("timezone"):
            settings.append(("timezone", timezone))
        return await self._run(asked, action, settings, is_anonymous=role == self._configuration.anon_role)

    def _claims(self, request: Request) -> dict[str, Any]:
        try:
            if is_root(request):
                return self._authenticate_at_root(keyed_headers(request))
            return self._authenticate(request.headers)
        except Refused as refused:
            raise Fault(
                refused.status, refused.code, refused.message, hint=refused.hint, headers=refused.headers
            ) from refused

    async def _description(self, request: Request, claims: dict[str, Any], role: str) -> Answer:
        schema, names_profile = profile(request, self._configuration.schemas)
        if request.method == "OPTIONS":
            return _allowed("OPTIONS,GET,HEAD")
        if request.method not in ("GET", "HEAD"):
            raise unsupported_method(request.method)
        media.require_openapi(accept(request))
        catalog = await self._cache.current()
        settings = self._settings(request, schema, catalog, claims, role)
        try:
            body = await self._descriptions.of(schema, catalog, role, settings)
        except psycopg.Error as error:
            raise from_database(error, is_anonymous=role == self._configuration.anon_role) from error
        headers = {"Content-Type": f"{media.OPENAPI}; charset=utf-8"}
        return Answer(200, headers | ({"Content-Profile": schema} if names_profile else {}), body)

    async def _timezones(self, request: Request) -> frozenset[str]:
        """The zones that exist, if the request names one."""
        preferences = ",".join(request.headers.getlist("prefer"))
        return await self._cache.timezones() if "timezone=" in preferences else frozenset()

    async def _built(self, builder: Builder, asked: Asked, catalog: Catalog) -> Action:
        try:
            return builder(asked, catalog)
        except NotInCatalog:
            newer = await self._cache.newer_than(catalog)
            if newer is catalog:
                raise
            return builder(asked, newer)
        except UnicodeEncodeError as error:
            raise invalid_utf8("request") from error

    async def _options(self, asked: Asked, catalog: Catalog, *, is_function: bool) -> Answer:
        def allowed(asked: Asked, catalog: Catalog) -> str:
            if is_function:
                return functions.allowed(asked, catalog)
            return tables.allowed(catalog.table((asked.schema, asked.name)))

        try:
            methods = allowed(asked, catalog)
        except NotInCatalog:
            methods = allowed(asked, await self._cache.newer_than(catalog))
        return _allowed(methods)

    def _settings(
        self,
        request: Request,
        schema: str,
        catalog: Catalog,
        claims: dict[str, Any],
        role: str,
    ) -> list[tuple[str, str]]:
        search_path = dict.fromkeys((schema, *self._configuration.extra_search_path))
        headers = {key: content for key, content in request.headers.items() if key != "cookie"}
        return [
            ("search_path", ", ".join('"' + schema.replace('"', '""') + '"' for schema in search_path)),
            *catalog.role_settings.get(role, ()),
            ("role", role),
            ("request.jwt.claims", json.dumps(claims | {"role": role})),
            ("request.method", request.method),
            ("request.path", "/" + "/".join(asked_path(request))),
            ("request.headers", json.dumps(headers)),
            ("request.cookies", json.dumps(request.cookies)),
        ]

    async def _run(
        self, asked: Asked, action: Action, settings: list[tuple[str, str]], *, is_anonymous: bool
    ) -> Answer:
        isolation = dict(settings).get("default_transaction_isolation")
        try:
            async with self._database.transaction(
                settings, read_only=action.read_only, isolation=isolation
            ) as transaction:
                if asked.preferences.get("tx") == "rollback":
                    transaction.undo()
                if asked.media.plan is not None:
                    return await _plan(transaction, asked.media, action)
                result = await _result(transaction, asked, action)
                return overridden(action.answer(result), result)
        except psycopg.Error as error:
            raise from_database(error, is_anonymous=is_anonymous) from error
        except UnicodeEncodeError as error:
            raise invalid_utf8("request") from error


async def _result(transaction: Transaction, asked: Asked, action: Action) -> Result:
    [row] = await transaction.rows(action.statement)
    result = Result(*row)
    wanted = asked.preferences.get("count")
    if not action.estimate or wanted not in ("planned", "estimated"):
        return result
    if wanted == "estimated" and result.total is not None and result.total <= asked.max_rows:
        return result
    [[explanation]] = await transaction.rows(planned_rows(action.estimate))
    planned = int(explanation[0]["Plan"]["Plan Rows"])
    return replace(result, total=max(planned, result.total or 0))


async def _plan(transaction: Transaction, media: Media, action: Action) -> Answer:
    lines = [row[0] for row in await transaction.rows(explained(action.statement, media))]
    text = json.dumps(lines[0]) if media.plan == "json" else "\n".join(lines)
    return Answer(200, {"Content-Type": media.content_type}, text.encode())


def _allowed(methods: str) -> Answer:
    return Answer(200, {"Allow": methods, "Access-Control-Allow-Origin": "*"})


def _fault_answer(fault: Fault) -> Answer:
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Proxy-Status": f"PostgREST; error={token(fault.code)}",
    }
    return Answer(fault.status, merged(headers, fault.headers), fault.body())


def _wrong_method(method: str, *, is_function: bool) -> Fault:
    if is_function:
        return Fault(405, "PGRST101", f"Cannot use the {method} method on RPC")
    return unsupported_method(method)
