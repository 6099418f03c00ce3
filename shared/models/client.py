"""Ask a model: one OpenAI-compatible endpoint, a schema in, a checked answer out, or a failure with a name.

Nothing here knows what is asked for. `read` makes the answer of the model's JSON; JSON that `read` refuses goes back
once, with the reasons. A question always ends within `QuestionLimits.seconds`. An endpoint that keeps failing is left
alone for a while, so that a hundred questions do not each wait for the same silence. Each process learns for itself
which parameters a model takes (`dialects`): it costs a refusal, which is free. The schema is in the prompt from
the start, because an endpoint that does not heed it says nothing, and each answer is paid for.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from pydantic import ValidationError

from shared import log, retry_after, settings
from shared.models import completions, dialects
from shared.models.completions import Choice, Tokens
from shared.models.failures import (
    BrokenOff,
    CutOff,
    Failure,
    Garbled,
    InvalidAnswer,
    ModelRefused,
    OverBudget,
    QuestionRefused,
    RateLimited,
    RequestRefused,
    Resting,
    ServerFailed,
    TimedOut,
    Unreachable,
)
from shared.models.questions import Question, QuestionLimits, Usage

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT = 3.0
LARGEST_ANSWER = 256 * 1024
# Failures in a row after which the endpoint is left alone.
PATIENCE = 3

_TRANSIENT = frozenset({408, 409, 425})
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
REPAIR = (
    "That answer was not accepted: {problems}. Answer again with one JSON object that follows the schema, "
    "and with nothing else. There are no tools."
)


async def ask[Answer](
    question: Question, read: Callable[[Any], Answer], limits: QuestionLimits, usage: Usage
) -> Answer:
    """Ask; answers what `read` makes of the model's JSON. `read` refuses JSON by a ValueError."""
    endpoint = _endpoint()
    endpoint.refuse_while_resting()
    try:
        async with asyncio.timeout(limits.seconds) as limit:
            answer = await _Exchange(endpoint, question, limits, usage).run(read)
    except TimeoutError as error:
        if not limit.expired():
            raise
        usage.add_unknown(question)
        endpoint.note(TimedOut(), limits)
        raise TimedOut from error
    except Failure as failure:
        endpoint.note(failure, limits)
        raise
    endpoint.note(None, limits)
    return answer


async def close() -> None:
    """Close this loop's connections, and forget the state of the endpoint."""
    endpoint = _endpoints.pop(_here(), None)
    if endpoint:
        await endpoint.http.aclose()


class _Reply(NamedTuple):
    status: int
    headers: "httpx.Headers"
    body: bytes


class _Exchange:
    """One question, from the first request to the answer: retries of failed requests, one repair of an unfit answer."""

    def __init__(
        self, endpoint: "_Endpoint", question: Question, limits: QuestionLimits, usage: Usage
    ) -> None:
        self._endpoint = endpoint
        self._question = question
        self._limits = limits
        self._usage = usage
        self._ends_at = time.monotonic() + limits.seconds
        self._dialect = endpoint.known[question.model]
        self._messages = [
            {"role": "system", "content": question.prompt},
            {"role": "user", "content": question.user},
        ]

    async def run[Answer](self, read: Callable[[Any], Answer]) -> Answer:
        said = await self._tried()
        try:
            return _read(said, read, self._usage)
        except _Unfit as unfit:
            problems = str(unfit)
        self._usage.is_repaired = True
        self._messages += [
            {"role": "assistant", "content": completions.spoken(said.text)[:2_000] or "{}"},
            {"role": "user", "content": REPAIR.format(problems=problems)},
        ]
        try:
            return _read(await self._tried(), read, self._usage)
        except _Unfit as unfit:
            raise InvalidAnswer from unfit

    async def _tried(self) -> Choice:
        failures = 0
        last: Failure | None = None
        while True:
            try:
                return await self._completion()
            except OverBudget as broke:
                # Why there was a second try says more than that there was no money for it.
                raise last or broke from broke
            except Failure as failure:
                last = failure
                failures += 1
                pause = failure.retry_after
                if pause is None:
                    pause = min(8.0, 0.25 * 2**failures) * random.uniform(0.5, 1)  # noqa: S311
                in_time = time.monotonic() + pause < self._ends_at
                if not failure.can_be_retried or failures >= self._limits.tries or not in_time:
                    raise
                await asyncio.sleep(pause)

    async def _completion(self) -> Choice:
        while (reply := await self._asked()).status != 200:
            if completions.generated(reply.body) is not None:
                break
            tried = self._parameters()
            if reply.status in dialects.REFUSING:
                self._dialect = self._dialect.without(dialects.refused(reply.body))
            if self._parameters() == tried:
                raise _refusal(reply)
        self._endpoint.known.learn(self._question.model, self._dialect)
        return self._accounted(reply.body)

    async def _asked(self) -> _Reply:
        if self._usage.tokens + self._question.likely_tokens > self._limits.tokens:
            raise OverBudget
        self._usage.requests += 1
        body = {"model": self._question.model, "messages": self._messages, **self._parameters()}
        try:
            return await self._endpoint.post(orjson.dumps(body))
        except (BrokenOff, Garbled):
            self._usage.add_unknown(self._question)
            raise

    def _parameters(self) -> dict[str, Any]:
        question, dialect = self._question, self._dialect
        parameters: dict[str, Any] = {}
        if limit := dialect.word("limit"):
            parameters[limit] = question.max_tokens
        if question.temperature is not None and dialect.word("temperature"):
            parameters["temperature"] = question.temperature
        if kind := dialect.word("answer"):
            parameters["response_format"] = {"type": kind}
        if kind == "json_schema":
            schema = {"name": question.schema_name, "strict": True, "schema": question.schema}
            parameters["response_format"]["json_schema"] = schema
        return parameters

    def _accounted(self, body: bytes) -> Choice:
        try:
            completion = completions.completion(body)
        except ValueError as error:
            self._spend(None, body)
            raise Garbled from error
        self._spend(completion.usage, body)
        choice = completion.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            raise ModelRefused
        return choice

    def _spend(self, stated: Any, body: bytes) -> None:
        """Count the tokens that the server states, else an estimate."""
        try:
            tokens = Tokens.model_validate(stated)
        except ValidationError:
            self._usage.is_estimated = True
            question = self._question
            most = question.max_tokens if self._dialect.word("limit") else len(body)
            tokens = Tokens(
                prompt_tokens=question.likely_tokens - question.max_tokens,
                completion_tokens=min(len(body) // 3, most),
            )
        self._usage.tokens_in += tokens.prompt_tokens
        self._usage.tokens_out += tokens.spoken


class _Unfit(Exception):
    """An answer is unfit; the message says why and quotes nothing of it."""


def _read[Answer](said: Choice, read: Callable[[Any], Answer], usage: Usage) -> Answer:
    """The last JSON value that `read` takes: a draft or a quotation may stand before it."""
    if calls := said.message.tool_calls:
        names = [_tool_name(call) for call in calls[:10]]
        usage.refused_tools += names
        log.line("tools_refused", severity="WARNING", tools=names)
        raise _Unfit("it asks for a tool")
    problems = []
    for value in reversed(completions.values(said.text)):
        try:
            return read(value)
        except ValueError as error:
            problems.append(_problem(error))
    if said.is_cut_off:
        raise CutOff
    raise _Unfit(problems[0] if problems else "it is not JSON")


def _problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return "it does not fit the schema"
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{_place(each['loc'])}: {each['type']}" for each in wrong[:5])


def _place(loc: tuple[int | str, ...]) -> str:
    """The place of a problem in the answer, without names of the model's own making."""
    return ".".join(str(part) if _TOOL_NAME.fullmatch(str(part)) else "…" for part in loc[:3]) or "answer"


def _tool_name(call: Any) -> str:
    name = call.get("function", {}).get("name") if isinstance(call, dict) else None
    return name if isinstance(name, str) and _TOOL_NAME.fullmatch(name) else "unnamed"


def _refusal(reply: _Reply) -> Failure:
    wait = _retry_after(reply.headers)
    failure: Failure
    if reply.status == 429 and b"insufficient_quota" not in reply.body:
        failure = RateLimited(status=429, retry_after=wait)
    elif reply.status >= 500 or reply.status in _TRANSIENT:
        failure = ServerFailed(status=reply.status, retry_after=wait)
    elif dialects.is_about_the_text(reply.status, reply.body):
        failure = QuestionRefused(status=reply.status)
    else:
        failure = RequestRefused(status=reply.status)
    if reply.headers.get("x-should-retry") == "false":
        failure.can_be_retried = False
    return failure


def _retry_after(headers: "httpx.Headers") -> float | None:
    try:
        # Milliseconds are finer, and some send both.
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    except (KeyError, ValueError):
        return retry_after.seconds(headers.get("retry-after"))


class _Endpoint:
    """The endpoint as this process knows it: its connections, and whether it is worth asking."""

    def __init__(self, llm: settings.Llm) -> None:
        import httpx

        self._url = f"{llm.base_url.rstrip('/')}/chat/completions"
        self.known = dialects.Known()
        self._failed = 0
        self._rests_until = 0.0
        self.http = httpx.AsyncClient(
            headers={
                "authorization": f"Bearer {llm.api_key}",
                "content-type": "application/json",
                # Unpacking could make a large body out of a small one.
                "accept-encoding": "identity",
            },
            # The whole question has its own limit.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=30),
            follow_redirects=False,
        )

    async def post(self, body: bytes) -> _Reply:
        import httpx

        try:
            async with self.http.stream("POST", self._url, content=body) as answer:
                return _Reply(answer.status_code, answer.headers, await _bounded(answer))
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.InvalidURL,
            httpx.UnsupportedProtocol,
        ) as error:
            raise Unreachable from error
        except httpx.HTTPError as error:
            raise BrokenOff from error

    def refuse_while_resting(self) -> None:
        if time.monotonic() < self._rests_until:
            raise Resting

    def note(self, failure: Failure | None, limits: QuestionLimits) -> None:
        if isinstance(failure, OverBudget):
            return  # the endpoint may not have been asked
        if failure is None or not failure.is_endpoints:
            self._failed = 0
            return
        self._failed += 1
        if failure.retry_after is not None:
            rest = min(failure.retry_after, limits.rest_seconds)
        else:
            rest = limits.rest_seconds if self._failed >= PATIENCE else 0.0
        self._rests_until = max(self._rests_until, time.monotonic() + rest)


async def _bounded(answer: "httpx.Response") -> bytes:
    body = b""
    async for part in answer.aiter_raw():
        body += part
        if len(body) > LARGEST_ANSWER:
            raise Garbled
    return body


# Keyed by process and event loop, like the database's pools.
_endpoints: dict[tuple[int, asyncio.AbstractEventLoop], _Endpoint] = {}


def _here() -> tuple[int, asyncio.AbstractEventLoop]:
    return os.getpid(), asyncio.get_running_loop()


def _endpoint() -> _Endpoint:
    here = _here()
    endpoint = _endpoints.get(here)
    if endpoint is None:
        endpoint = _endpoints[here] = _Endpoint(settings.load(settings.Llm))
    return endpoint
