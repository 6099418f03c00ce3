"""Say how every part of the hub is: ok, degraded or not configured, with the reason.

GET with a member's access token. Sites, agents, jobs, pulls and outgoing webhooks are judged by the database;
each function is asked whether it answers (OPTIONS, which every endpoint knows), and a provider is configured when
its settings are there, degraded when it decides nothing. `state` is degraded when any part is.
"""

import asyncio
import time
from typing import Any

import httpx

from shared import settings
from shared.callers.users import User, call, signed_in
from shared.web.endpoint import Instance, endpoint

FRESH_FOR = 15.0


@endpoint(
    caller=signed_in(),
    method="GET",
    needs=(settings.Supabase, settings.Deployment),
    wants=(settings.Llm,),
    instance=Instance(concurrency=20),
)
async def status(user: User) -> dict[str, Any]:
    functions, organizations = await asyncio.gather(_functions(), call(user, "hub_status"))
    parts = [*functions, _model(organizations)]
    every = [*parts, *(part for it in organizations for part in it["components"])]
    is_well = all(part["state"] != "degraded" for part in every)
    return {"state": "ok" if is_well else "degraded", "components": parts, "organizations": organizations}


def _model(organizations: list[dict[str, Any]]) -> dict[str, str]:
    if settings.load_if_set(settings.Llm) is None:
        return _part("provider", "llm", "not configured", "LLM_* is not set: agents decide by their rules.")
    for it in organizations:
        if it["model_fallback"]:
            return _part("provider", "llm", "degraded", it["model_fallback"])
    return _part("provider", "llm", "ok", "Agents with a prompt ask it.")


_asked: tuple[float, list[dict[str, str]]] | None = None


async def _functions() -> list[dict[str, str]]:
    """The answer of each function, at most FRESH_FOR seconds old: a question starts an instance of each."""
    global _asked
    if _asked is None or time.monotonic() - _asked[0] > FRESH_FOR:
        deployment = settings.load(settings.Deployment)
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answers = await asyncio.gather(
                *(_function(client, deployment.functions_url, name) for name in deployment.functions.split())
            )
        _asked = time.monotonic(), list(answers)
    return _asked[1]


async def _function(client: httpx.AsyncClient, base: str, name: str) -> dict[str, str]:
    try:
        answer = await client.options(f"{base.rstrip('/')}/{name}")
    except httpx.HTTPError as error:
        return _part("function", name, "degraded", f"It does not answer: {type(error).__name__}.")
    if answer.status_code == 204:
        return _part("function", name, "ok", "It answers.")
    if answer.status_code == 404:
        return _part("function", name, "not configured", "It is not deployed.")
    return _part("function", name, "degraded", f"It answers {answer.status_code}.")


def _part(kind: str, name: str, state: str, reason: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "state": state, "reason": reason}
