"""Completions: the text in a server's answer, the JSON in the text, and the tokens it took.

Servers differ in all three: text comes in parts, after thoughts, inside a fence, between sentences. An answer in any
of these forms was paid for, so it is read.
"""

import contextlib
import json
import re
from typing import Annotated, Any

import orjson
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

# So many places are tried at which an object may begin.
MOST_STARTS = 200
_THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
# Only the end is there when the server's template has opened the thoughts.
_END_OF_THOUGHTS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_DECODER = json.JSONDecoder()


class Message(BaseModel):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Annotated[
        list[Any], BeforeValidator(lambda calls: calls if isinstance(calls, list) else [])
    ] = []


class Choice(BaseModel):
    message: Message
    finish_reason: Any = None

    @property
    def is_cut_off(self) -> bool:
        return self.finish_reason in ("length", "max_tokens")

    @property
    def text(self) -> str:
        text = _text(self.message.content)
        if text.strip() or self.is_cut_off:
            return text
        # Some servers take a whole answer for reasoning.
        return _text(self.message.reasoning_content) or _text(self.message.reasoning)


class Completion(BaseModel):
    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Any = None


class Tokens(BaseModel):
    prompt_tokens: int = Field(
        ge=0, le=10_000_000, validation_alias=AliasChoices("prompt_tokens", "input_tokens")
    )
    completion_tokens: int = Field(
        ge=0, le=10_000_000, validation_alias=AliasChoices("completion_tokens", "output_tokens")
    )
    total_tokens: int | None = Field(default=None, le=10_000_000)

    @property
    def spoken(self) -> int:
        """The tokens of the answer and its thoughts, which some servers count in the total alone."""
        return max(self.completion_tokens, (self.total_tokens or 0) - self.prompt_tokens)


def completion(body: bytes) -> Completion:
    """The completion in a body; a ValueError if there is none."""
    text = generated(body)
    if text is not None:
        return Completion(choices=[Choice(message=Message(content=text))])
    return Completion.model_validate(orjson.loads(body))


def generated(body: bytes) -> str | None:
    """The model's text in a refusal of a server that refuses its form, as Groq does."""
    try:
        text = orjson.loads(body)["error"]["failed_generation"]
    except (ValueError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def spoken(text: str) -> str:
    """The text without the thoughts before it."""
    return _END_OF_THOUGHTS.split(_THOUGHTS.sub("", text))[-1]


def values(text: str) -> list[Any]:
    """The JSON that a text is, else the outermost objects in it."""
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _objects(spoken(text))
    return _objects(text) if isinstance(whole, list) else [whole]


def _objects(text: str) -> list[Any]:
    found: list[Any] = []
    start = text.find("{")
    for _ in range(MOST_STARTS):
        if start < 0:
            break
        try:
            _, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            # The text before the error belongs to an object that is not whole.
            end = max(start + 1, error.pos)
        except RecursionError:
            break
        else:
            with contextlib.suppress(orjson.JSONDecodeError):
                found.append(orjson.loads(text[start:end]))
        start = text.find("{", end)
    return found


def _text(content: Any) -> str:
    if isinstance(content, dict):
        return orjson.dumps(content).decode()
    if isinstance(content, list):
        return "".join(
            part["text"]
            for part in content
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""
