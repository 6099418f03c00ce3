"""A question to a model, the limits of asking it, and what it took."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

SCHEMA_FOLLOWS = "The answer is one JSON object and nothing else. It follows this JSON Schema:"


class QuestionLimits(BaseModel):
    """Limits of one question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(default=10, gt=0, le=12)
    tries: int = Field(default=2, ge=1, le=4)
    tokens: int = Field(default=8_000, ge=100, le=200_000)
    # The endpoint is left alone at most so long, after failures or because it asks for it.
    rest_seconds: float = Field(default=30, ge=0, le=120)


@dataclass(frozen=True, slots=True)
class Question:
    model: str
    system: str
    user: str
    schema_name: str
    schema: dict[str, Any]
    max_tokens: int
    temperature: float | None = None

    @property
    def prompt(self) -> str:
        return f"{self.system}\n{SCHEMA_FOLLOWS}\n{orjson.dumps(self.schema).decode()}"

    @property
    def likely_tokens(self) -> int:
        """About the most tokens that a request costs, its answer included."""
        return (
            len(self.prompt.encode()) + len(self.user.encode()) + len(orjson.dumps(self.schema))
        ) // 3 + self.max_tokens


@dataclass(slots=True)
class Usage:
    """Requests and tokens of a question so far, whether or not it got an answer."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    is_estimated: bool = False
    is_repaired: bool = False
    refused_tools: list[str] = field(default_factory=list)

    def add_unknown(self, question: Question) -> None:
        """Count a request whose answer never came: it may have been written, and be paid for."""
        self.is_estimated = True
        self.tokens_in += question.likely_tokens - question.max_tokens
        self.tokens_out += question.max_tokens

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out
