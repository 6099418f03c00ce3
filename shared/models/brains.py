"""An agent's brain that is a model: its part of the version, and one paid question for one delivery.

The tokens and cost of a question are reserved in the database before it is asked, so that the limits of a day hold
however many functions ask at once; a delivery that is handled again gets the answer that was paid for. Every failure
becomes a `Thought` without an answer, and the agent's rules decide instead.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared import db, log, settings
from shared.errors import HubError
from shared.models.client import ask
from shared.models.failures import Failure
from shared.models.questions import Question, QuestionLimits, Usage
from shared.work.envelopes import Agent, Delivery
from shared.work.outcomes import Unreadable


class Prices(BaseModel):
    """In cents for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def cents(self, tokens_in: int, tokens_out: int) -> float:
        return round((tokens_in * self.input + tokens_out * self.output) / 1_000_000, 4)

    def dearest(self, tokens: int) -> float:
        return max(self.cents(tokens, 0), self.cents(0, tokens))


class Limits(QuestionLimits):
    """Limits of one run, and of all agents of the organization in a day; the organization may set less."""

    runs: int = Field(default=2, ge=1, le=10)
    day_tokens: int | None = Field(default=None, ge=0)
    day_cents: float | None = Field(default=None, ge=0)


class Brain(BaseModel):
    """The part of a version that a model needs. Without a prompt no model is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    # LLM_MODEL, when the version names none.
    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int = Field(default=500, ge=1, le=20_000)
    # No agent has tools yet: a version that lists one is refused, and so is a model that asks for one.
    tools: Annotated[tuple[str, ...], Field(max_length=0)] = ()
    limits: Limits = Limits()
    prices: Prices | None = None

    @model_validator(mode="after")
    def _has_a_price_for_its_limit(self) -> Self:
        if self.limits.day_cents is not None and self.prices is None:
            raise ValueError("limits.day_cents needs prices")
        return self


def version_of[Config: BaseModel](agent: Agent, shape: type[Config]) -> Config:
    """The config of the version that decides, as this agent's function understands it."""
    try:
        return shape.model_validate(agent.config)
    except ValidationError as error:
        raise Unreadable(f"Version {agent.version} cannot be read: {_first_problem(error)}.") from None


def _first_problem(error: ValidationError) -> str:
    # A wrong field tells more than a missing one.
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = min(problems, key=lambda problem: problem["type"] == "missing")
    field = ".".join(map(str, first["loc"]))
    words = first["msg"].removeprefix("Value error, ").replace(" after validation", "")
    if not field:
        return words
    _, should, rest = words.removesuffix(".").partition(" should ")
    return f"{field} {_WRONG.get(first['type'], f'should {rest}' if should else f'has a problem: {words}')}"


# Our words for problems that pydantic tells in words of its own.
_WRONG = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "tuple_type": "should be a valid list",
    "model_type": "should be an object",
    "dict_type": "should be an object",
}


@dataclass(slots=True)
class Thought[Answer: BaseModel]:
    """The result of a question. Without an answer, `failure` is a code and `words` say why."""

    model: str
    answer: Answer | None = None
    failure: str | None = None
    words: str | None = None
    is_reused: bool = False
    usage: Usage = field(default_factory=Usage)
    tokens: int = 0
    cost_cents: float | None = None

    def record(self) -> dict[str, Any]:
        """The question and its result, for the output of the action."""
        usage = self.usage
        record: dict[str, Any] = {"name": self.model, "requests": usage.requests}
        flags = {
            "reused": self.is_reused,
            "repaired": usage.is_repaired,
            "tokens_estimated": usage.is_estimated,
        }
        record |= {name: True for name, is_so in flags.items() if is_so}
        if usage.refused_tools:
            record["refused_tools"] = usage.refused_tools
        return record


REFUSED = {
    "credits": "no decision credits are left",
    "day": "the day's limit for models is used up",
    "tries": "the model was asked for this often enough",
    "price_unknown": "there is a limit in money and no price of the model",
}


def configured() -> settings.Llm | None:
    return settings.load_if_set(settings.Llm)


async def think[Answer: BaseModel](
    delivery: Delivery,
    brain: Brain,
    question: Question,
    read: Callable[[Any], Answer],
) -> Thought[Answer]:
    """Ask once for this delivery, within the limits. `read` takes its own answers again, as JSON."""
    thought = Thought[Answer](question.model)
    limits, prices = brain.limits, brain.prices
    lease = {"delivery_id": str(delivery.id), "lease_token": str(delivery.lease_token)}
    begun = await db.call(
        "begin_model_run",
        **lease,
        prompt_digest=hashlib.sha256(repr(question).encode()).hexdigest(),
        tokens=limits.tokens,
        cost_cents=prices.dearest(limits.tokens) if prices else None,
        day_tokens=limits.day_tokens,
        day_cents=limits.day_cents,
        tries=limits.runs,
    )
    if begun["state"] == "refused":
        thought.failure, thought.words = f"limit_{begun['reason']}", REFUSED[begun["reason"]]
    elif begun["state"] == "answered":
        thought.is_reused = True
        thought.answer = read(begun["answer"])
        thought.tokens, thought.cost_cents = begun["tokens"], begun["cost_cents"]
    else:
        await _ask(thought, question, read, limits)
        usage = thought.usage
        thought.tokens = usage.tokens
        thought.cost_cents = prices.cents(usage.tokens_in, usage.tokens_out) if prices else None
        await _end(lease, thought)
    log.line(
        "model_run",
        trace_id=delivery.event.trace_id,
        delivery=delivery.id,
        outcome=thought.failure or "answered",
        tokens=thought.tokens,
        **thought.record(),
    )
    return thought


async def _ask[Answer: BaseModel](
    thought: Thought[Answer], question: Question, read: Callable[[Any], Answer], limits: Limits
) -> None:
    try:
        thought.answer = await ask(question, read, limits, thought.usage)
    except Failure as failure:
        thought.failure = failure.code
        thought.words = failure.words + (f" ({failure.status})" if failure.status else "")


async def _end[Answer: BaseModel](lease: dict[str, str], thought: Thought[Answer]) -> None:
    answer = thought.answer.model_dump(mode="json") if thought.answer else None
    try:
        await db.call(
            "end_model_run", **lease, tokens=thought.tokens, cost_cents=thought.cost_cents, answer=answer
        )
    except HubError as error:
        # The reservation then counts as spent, which is no reason to lose the answer.
        log.crash("model_run_unended", error, delivery=lease["delivery_id"])
