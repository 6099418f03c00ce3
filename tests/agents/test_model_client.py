"""llm: one question to a model, asked again when the way fails, repaired once, and every failure by its name."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from support.hubs import free_port
from support.llm_server import (
    KEY,
    Answering,
    ModelServer,
    Picky,
    Refusal,
    Reply,
    completion,
    model_server,
    refusal,
    refusals,
    said,
    tool_call,
)
from support.scale import scaled

from shared.models import dialects, failures
from shared.models.client import ask, close
from shared.models.failures import (
    BrokenOff,
    CutOff,
    Failure,
    Garbled,
    InvalidAnswer,
    ModelRefused,
    OverBudget,
    RateLimited,
    RequestRefused,
    Resting,
    ServerFailed,
    TimedOut,
    Unreachable,
)
from shared.models.questions import SCHEMA_FOLLOWS, Question, QuestionLimits, Usage
from shared.settings import BadSetting, Llm, load_if_set

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["size"],
    "properties": {"size": {"type": "integer"}},
}
QUESTION = Question("some-model", "Be brief.", "How large?", "size", SCHEMA, 50, 0.5)
LIMITS = QuestionLimits(seconds=5, tries=2, rest_seconds=0)
GOOD = completion('{"size": 3}')


class Size(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: int


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)


def asked(
    *replies: Answering, server: ModelServer | None = None, limits: QuestionLimits = LIMITS, times: int = 1
) -> tuple[list[Any], Usage]:
    """What came of asking, an answer or a failure each time, and what it took."""
    if server:
        server.says(*replies)
    usage = Usage()

    async def run() -> list[Any]:
        outcomes: list[Any] = []
        for _ in range(times):
            try:
                outcomes.append(await ask(QUESTION, Size.model_validate, limits, usage))
            except Failure as failure:
                outcomes.append(failure)
        await close()
        return outcomes

    return asyncio.run(run()), usage


def test_a_question_is_asked_as_the_providers_document_it(server: ModelServer) -> None:
    (answer,), usage = asked(GOOD, server=server)

    (request,) = server.asked
    assert answer == Size(size=3)
    assert (usage.requests, usage.tokens_in, usage.tokens_out) == (1, 120, 30)
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "some-model",
        "messages": [
            {
                "role": "system",
                "content": f"Be brief.\n{SCHEMA_FOLLOWS}\n{json.dumps(SCHEMA, separators=(',', ':'))}",
            },
            {"role": "user", "content": "How large?"},
        ],
        "max_tokens": 50,
        "temperature": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "size", "strict": True, "schema": SCHEMA},
        },
    }


@pytest.mark.parametrize(
    ("reply", "failure", "requests"),
    [
        (refusal(429), RateLimited, 2),
        (refusal(429, retry_after="60"), RateLimited, 1),
        (refusal(429, retry_after=formatdate(time.time() + 86_400, usegmt=True)), RateLimited, 1),
        (refusal(429, "insufficient_quota"), RequestRefused, 1),
        (refusal(500), ServerFailed, 2),
        (refusal(503, retry_after="60"), ServerFailed, 1),
        (refusal(500, x_should_retry="false"), ServerFailed, 1),
        (refusal(400), RequestRefused, 1),
        (refusal(401), RequestRefused, 1),
        (refusal(307, location="http://127.0.0.1:1/v1/chat/completions"), RequestRefused, 1),
        (Reply(stalls=True), TimedOut, 1),
        (Reply(breaks_off=True), ServerFailed, 2),
        (Reply(body=GOOD.body[:40], breaks_off=True), ServerFailed, 2),
        (Reply(), Garbled, 2),
        (Reply(body=GOOD.body[:40]), Garbled, 2),
        (Reply(body=b"[" * 100_000), Garbled, 2),
        (Reply(body=b"x" * 300_000), Garbled, 2),
        (Reply(body=b'{"choices": []}'), Garbled, 2),
        (completion(None, refusal="I would rather not."), ModelRefused, 1),
        (completion('{"size": 3}', finish="content_filter"), ModelRefused, 1),
        (completion('{"size":', finish="length"), CutOff, 1),
        (completion(""), InvalidAnswer, 2),
        (completion('{"size":'), InvalidAnswer, 2),
        (completion('{"size": "3"}'), InvalidAnswer, 2),
        (completion('{"size": 3, "org_id": "another"}'), InvalidAnswer, 2),
        (completion("null"), InvalidAnswer, 2),
        (completion(None, finish="tool_calls", tool_calls=[tool_call("send_email")]), InvalidAnswer, 2),
    ],
)
def test_each_failure_has_its_name_and_its_number_of_tries(
    server: ModelServer, reply: Reply, failure: type[Failure], requests: int
) -> None:
    (outcome,), usage = asked(reply, server=server, limits=LIMITS.model_copy(update={"seconds": 1.5}))

    assert outcome.code == failure.code
    assert usage.requests == len(server.asked) == requests


def test_the_names_tell_each_failure_apart() -> None:
    kinds = [kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, Failure)]

    told = {(kind.code, kind.words) for kind in kinds if kind is not BrokenOff}
    assert len(told) == len({code for code, _ in told}) == len(kinds) - 1


def test_nobody_there_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")

    (outcome,), _ = asked()

    assert isinstance(outcome, Unreachable)


@pytest.mark.parametrize("wait", [{"retry_after": "0.2"}, {"retry_after_ms": "200"}])
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_the_server_asks_for_is_kept(
    server: ModelServer, status: int, wait: dict[str, str]
) -> None:
    started = time.perf_counter()

    (answer,), usage = asked(refusal(status, **wait), GOOD, server=server)

    assert (answer, usage.requests) == (Size(size=3), 2)
    assert time.perf_counter() - started >= 0.2


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (completion("Sure! It is 3."), "it is not JSON"),
        (completion('{"size": "large"}'), "size: int_type"),
        (completion('{"size": 3, "x y\\nz": 1}'), "…: extra_forbidden"),
        (completion(None, finish="tool_calls", tool_calls=[tool_call("bad name!")]), "it asks for a tool"),
    ],
)
def test_an_answer_that_does_not_fit_goes_back_once_with_what_is_wrong(
    server: ModelServer, first: Reply, problem: str
) -> None:
    (answer,), usage = asked(first, GOOD, server=server)

    assert (answer, usage.requests, usage.is_repaired) == (Size(size=3), 2, True)
    assert usage.tokens == 300
    roles = [message["role"] for message in server.asked[1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert problem in server.asked[1].body["messages"][3]["content"]


DRAFT = '{"size": 9}'
ANSWER = '{"size": 3}'


@pytest.mark.parametrize(
    "said",
    [
        f"```json\n{ANSWER}\n```",
        f"```\n{ANSWER}\n```\n",
        f"\ufeff {ANSWER}",
        f"Sure! Here it is:\n\n```json\n{ANSWER}\n```\nLet me know {{if}} it helps.",
        f"The answer is {ANSWER}",
        f"{ANSWER}\n\nIt is small, as {{size}} goes.",
        f"[{ANSWER}]",
        f"<think>Is it {DRAFT}? No.</think>\n{ANSWER}",
        f"<think>\n\n</think>\n\n```json\n{ANSWER}\n```",
        f"<thinking>Is it {DRAFT}?</thinking>{ANSWER}",
        f"It was asked for JSON, so {DRAFT}.\n</think>\n\n{ANSWER}",
        f"At first {DRAFT}, on second thoughts {ANSWER}",
        f'{{"not": "this"}} but {ANSWER}, and {{"nor": "that"}}',
        [{"type": "text", "text": '{"size"'}, {"type": "text", "text": ": 3}"}],
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
            {"type": "text", "text": ANSWER},
        ],
        {"size": 3},
    ],
)
def test_an_answer_is_read_in_whatever_form_it_comes_and_paid_once(server: ModelServer, said: Any) -> None:
    (answer,), usage = asked(completion(said), server=server)

    assert answer == Size(size=3)
    assert (usage.requests, usage.tokens, usage.is_repaired) == (1, 150, False)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_answer_that_a_server_takes_for_reasoning_is_read(server: ModelServer, name: str) -> None:
    (answer,), usage = asked(completion(None, **{name: f"So: {ANSWER}"}), server=server)

    assert (answer, usage.requests) == (Size(size=3), 1)


@pytest.mark.parametrize(
    "reply",
    [
        completion(None, finish="length", reasoning_content=f"Is it {DRAFT}? Let me"),
        completion(f"<think>Is it {DRAFT}? Let me", finish="length"),
        completion('{"draft": {"size": 9}, "size": 3', finish="length"),
    ],
)
def test_what_was_cut_off_before_its_end_is_no_answer(server: ModelServer, reply: Reply) -> None:
    (outcome,), usage = asked(reply, server=server)

    assert (outcome.code, usage.requests, usage.tokens) == ("cut_off", 1, 150)


def test_an_answer_that_was_whole_before_the_cut_is_read(server: ModelServer) -> None:
    (answer,), usage = asked(completion(f"{ANSWER}\n\nThe reason is that", finish="length"), server=server)

    assert (answer, usage.requests) == (Size(size=3), 1)


def test_much_of_anything_is_read_in_no_time(server: ModelServer) -> None:
    started = time.perf_counter()

    (outcome,), _ = asked(completion('{"a":' * 30_000), completion("{ " * 80_000), server=server)

    assert isinstance(outcome, InvalidAnswer)
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("refused", refusals("refusals"), ids=str)
def test_what_an_endpoint_does_not_take_is_left_out_or_spelled_the_other_way(
    server: ModelServer, refused: Refusal
) -> None:
    picky = Picky(GOOD, refused)

    (first, second), usage = asked(picky, server=server, times=2)

    assert first == second == Size(size=3)
    assert (picky.paid, usage.tokens, usage.is_estimated) == (2, 300, False)
    # Learnt once; and what was not refused is kept.
    assert usage.requests == len(server.asked) <= 1 + len(refused.refuses) + 1
    assert server.asked[-1].body == server.asked[-2].body
    kept = {"max_tokens", "temperature", "json_schema"} - refused.refuses
    assert kept <= server.asked[-1].parameters


def test_all_that_a_model_does_not_take_is_learnt_in_one_question(server: ModelServer) -> None:
    words = {
        name: said(400, {"error": {"message": f"{name} is not supported", "param": name}}) for name in PARTS
    }
    picky = Picky(GOOD, *(Refusal(name, reply, frozenset({name})) for name, reply in words.items()))

    (answer,), usage = asked(picky, server=server)

    assert (answer, usage.requests, usage.tokens) == (Size(size=3), len(PARTS) + 1, 150)
    assert server.asked[-1].body.keys() == {"model", "messages"}


PARTS = ["temperature", "max_completion_tokens", "json_object", "max_tokens", "json_schema"]


def test_the_schema_is_told_where_no_parameter_can_say_it(server: ModelServer) -> None:
    asked(Picky(GOOD, *refusals("refusals")), server=server)

    assert json.loads(server.asked[-1].system.splitlines()[-1]) == SCHEMA


@pytest.mark.parametrize("fault", refusals("faults"), ids=str)
def test_a_real_fault_is_no_reason_to_ask_otherwise(server: ModelServer, fault: Refusal) -> None:
    (outcome,), usage = asked(fault.reply, server=server)

    is_of_the_text = any(words in fault.of for words in ("too long", "too large", "filter"))
    code = "question_refused" if is_of_the_text else "request_refused"
    assert (outcome.code, outcome.status) == (code, fault.reply.status)
    assert usage.requests == len(server.asked) == 1
    assert usage.tokens == 0


TEXT_REFUSED = [fault.reply for fault in refusals("faults") if "too long" in fault.of or "filter" in fault.of]


@pytest.mark.parametrize("refused", TEXT_REFUSED)
def test_texts_that_a_model_refuses_do_not_take_it_from_others(server: ModelServer, refused: Reply) -> None:
    limits = QuestionLimits(seconds=5, rest_seconds=60)

    *outcomes, answer = asked(refused, refused, refused, GOOD, server=server, limits=limits, times=4)[0]

    assert {outcome.code for outcome in outcomes} == {"question_refused"}
    assert answer == Size(size=3)


@pytest.mark.parametrize("param", ["max_tokens", "temperature", "response_format"])
def test_an_endpoint_that_refuses_whatever_it_is_asked_is_soon_left(server: ModelServer, param: str) -> None:
    refusing = said(400, {"error": {"message": "This is not supported.", "param": param}})

    (outcome,), usage = asked(refusing, server=server)

    assert (outcome.code, usage.requests <= 3, usage.tokens) == ("request_refused", True, 0)


def test_what_did_not_help_is_not_remembered(server: ModelServer) -> None:
    refusing = said(400, {"error": {"message": "This is not supported.", "param": "temperature"}})

    (_, answer), _ = asked(refusing, refusing, GOOD, server=server, times=2)

    assert answer == Size(size=3)
    assert server.asked[-1].body == server.asked[0].body


def test_each_model_of_an_endpoint_is_known_by_itself(server: ModelServer) -> None:
    picky = Picky(GOOD, *refusals("refusals")[:2])
    server.says(picky)

    async def run() -> list[int]:
        requests = []
        for model in ("one", "one", "another", "one"):
            server.asked.clear()
            await ask(replace(QUESTION, model=model), Size.model_validate, LIMITS, Usage())
            requests.append(len(server.asked))
        await close()
        return requests

    assert asyncio.run(run()) == [3, 1, 3, 1]


def test_many_models_are_not_all_remembered_for_ever() -> None:
    known = dialects.Known()
    learnt = dialects.Dialect().without({"temperature"})
    for number in range(1000):
        known.learn(f"model-{number}", learnt)

    assert known["model-999"] == learnt
    assert known["model-0"] == dialects.Dialect()
    assert len(known) < 200


def test_questions_that_learn_at_the_same_time_are_all_answered_and_paid_once(server: ModelServer) -> None:
    picky = Picky(GOOD, *refusals("refusals"))
    server.says(picky)

    async def run() -> int:
        asking = (ask(QUESTION, Size.model_validate, LIMITS, Usage()) for _ in range(12))
        assert await asyncio.gather(*asking) == [Size(size=3)] * 12
        server.asked.clear()
        await ask(QUESTION, Size.model_validate, LIMITS, Usage())
        await close()
        return len(server.asked)

    assert asyncio.run(run()) == 1
    assert picky.paid == 13


def generated(text: str) -> Reply:
    """Groq's words for an answer that its own reading refused."""
    message = "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details."
    error = {"message": message, "type": "invalid_request_error", "code": "json_validate_failed"}
    return said(400, {"error": error | {"failed_generation": text}})


def test_an_answer_inside_a_refusal_is_read_and_counted(server: ModelServer) -> None:
    (answer,), usage = asked(generated(f"Sure: {ANSWER}"), server=server)

    assert (answer, usage.requests, usage.is_estimated) == (Size(size=3), 1, True)
    assert usage.tokens > 10


def test_what_is_generated_and_refused_goes_back_once(server: ModelServer) -> None:
    (answer,), usage = asked(generated("It is three."), GOOD, server=server)

    assert (answer, usage.requests, usage.is_repaired) == (Size(size=3), 2, True)


def test_whatever_happens_the_time_limit_holds(server: ModelServer) -> None:
    limits = QuestionLimits(seconds=1, tries=4)
    started = time.perf_counter()

    (outcome,), _ = asked(refusal(500, retry_after="0.4"), Reply(stalls=True), server=server, limits=limits)

    assert isinstance(outcome, TimedOut)
    assert time.perf_counter() - started < 1.5


def test_an_endpoint_that_keeps_failing_is_left_alone_for_a_while(server: ModelServer) -> None:
    limits = QuestionLimits(seconds=5, tries=1, rest_seconds=60)

    outcomes, _ = asked(refusal(500), server=server, limits=limits, times=5)

    assert [type(outcome) for outcome in outcomes] == [ServerFailed] * 3 + [Resting] * 2
    assert len(server.asked) == 3


def test_one_that_says_when_to_come_back_is_left_alone_until_then(server: ModelServer) -> None:
    limits = QuestionLimits(seconds=5, tries=2, rest_seconds=60)

    outcomes, _ = asked(refusal(429, retry_after="50"), server=server, limits=limits, times=2)

    assert [type(outcome) for outcome in outcomes] == [RateLimited, Resting]


def test_bad_answers_are_no_reason_to_leave_it_alone(server: ModelServer) -> None:
    limits = QuestionLimits(seconds=5, rest_seconds=60)

    outcomes, _ = asked(completion("no"), server=server, limits=limits, times=4)

    assert [type(outcome) for outcome in outcomes] == [InvalidAnswer] * 4


def test_a_run_has_a_limit_of_tokens(server: ModelServer) -> None:
    dear = completion("no", usage=(900, 90))

    (outcome,), usage = asked(dear, GOOD, server=server, limits=QuestionLimits(tokens=1000))

    assert isinstance(outcome, OverBudget)
    assert usage.requests == 1


def test_a_failure_is_named_though_a_second_try_would_be_too_dear(server: ModelServer) -> None:
    limits = QuestionLimits(tokens=QUESTION.likely_tokens + 10)

    (outcome,), usage = asked(Reply(breaks_off=True), GOOD, server=server, limits=limits)

    assert (outcome.code, usage.requests) == ("server_failed", 1)
    # The answer may have been written.
    assert (usage.tokens, usage.is_estimated) == (QUESTION.likely_tokens, True)


@pytest.mark.parametrize(
    "stated",
    [
        {"input_tokens": 120, "output_tokens": 30},
        {"prompt_tokens": 120, "completion_tokens": 30},
        {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": None},
        # What was thought is in the sum alone.
        {"prompt_tokens": 120, "completion_tokens": 10, "total_tokens": 150},
        {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 30},
    ],
)
def test_tokens_are_counted_under_whatever_name_they_come(
    server: ModelServer, stated: dict[str, Any]
) -> None:
    answer = json.loads(GOOD.body) | {"usage": stated}

    _, usage = asked(said(200, answer), server=server)

    assert (usage.tokens_in, usage.tokens_out, usage.is_estimated) == (120, 30, False)


@pytest.mark.parametrize("stated", [None, (-5, 3), (10**9, 1)])
def test_tokens_that_the_server_does_not_tell_are_estimated(server: ModelServer, stated: Any) -> None:
    (answer,), usage = asked(completion('{"size": 3}', usage=stated), server=server)

    assert answer == Size(size=3)
    assert usage.is_estimated
    assert 10 < usage.tokens < 1000


def test_an_outer_cancel_is_not_taken_for_the_limit(server: ModelServer) -> None:
    server.says(Reply(stalls=True))

    async def cut_short() -> None:
        try:
            async with asyncio.timeout(0.2):
                await ask(QUESTION, Size.model_validate, LIMITS, Usage())
        finally:
            await close()

    with pytest.raises(TimeoutError):
        asyncio.run(cut_short())


def test_the_key_is_in_no_failure(server: ModelServer, capfd: pytest.CaptureFixture[str]) -> None:
    (outcome,), _ = asked(refusal(401), server=server)

    assert KEY not in f"{outcome!r} {outcome} {outcome.__cause__!r} {outcome.words}"
    assert KEY not in "".join(capfd.readouterr())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@given(said=json_values)
@settings(max_examples=scaled(20, 100), deadline=None)
def test_any_json_is_an_answer_or_an_invalid_one(server: ModelServer, said: Any) -> None:
    (outcome,), _ = asked(completion(json.dumps(said)), server=server)

    assert isinstance(outcome, Size | InvalidAnswer)


@given(body=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=scaled(20, 100), deadline=None)
def test_any_body_ends_in_a_failure_with_a_name(server: ModelServer, body: bytes) -> None:
    (outcome,), _ = asked(Reply(body=body), server=server, limits=LIMITS.model_copy(update={"tries": 1}))

    assert isinstance(outcome, Failure)


def test_without_any_setting_there_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL"):
        monkeypatch.setenv(name, " ")

    assert load_if_set(Llm) is None


@pytest.mark.parametrize("name", ["LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL"])
def test_a_part_of_the_settings_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)

    with pytest.raises(BadSetting, match=name):
        load_if_set(Llm)


@pytest.mark.parametrize("key", ["two\nlines-4711", "with space-4711", "ümlaut-4711"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_told(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LLM_API_KEY", key)

    with pytest.raises(BadSetting, match="LLM_API_KEY") as refused:
        load_if_set(Llm)
    assert "4711" not in str(refused.value)
