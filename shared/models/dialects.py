"""Dialects: the parameters that an endpoint takes, learnt from its refusals.

Many servers speak the API that one vendor made, and each takes other parameters of it. A server refuses a parameter by
name and before anything is generated, so that a refusal costs nothing. A parameter that is refused is spelled the other
way, then left out; a schema becomes `json_object`, then the words of the prompt alone. No step is taken back, so that
an endpoint which refuses everything is soon left.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import orjson

from shared import log

# Some answer 404 when no provider of theirs takes a parameter, or 500 when a server of theirs raised an exception.
REFUSING = frozenset({400, 404, 422, 500, 501})
MOST_MODELS = 100
MOST_TEXTS = 50
_WAYS: dict[str, tuple[str | None, ...]] = {
    "limit": ("max_tokens", "max_completion_tokens", None),
    "temperature": ("temperature", None),
    "answer": ("json_schema", "json_object", None),
}
_NAMES = re.compile(
    r"(?P<limit>max_(?:completion_)?tokens)"
    r"|(?P<temperature>temperature)"
    r"|(?P<answer>response.?format|json.?(?:schema|object|mode)|structured.?output|grammar|requested.parameters)",
    re.IGNORECASE,
)
# A refusal of too long a text may name a parameter as well, but no other dialect helps.
_TOO_LONG = re.compile(r"context.?(?:length|window|size)|inputs. tokens", re.IGNORECASE)
_FILTERED = re.compile(r"content.?(?:filter|management|policy)|ResponsibleAI", re.IGNORECASE)
_OTHER_PARAMETERS = re.compile(r"messages|model\b|prompt|input\b")
# The fields in which a refusal repeats the request.
_ECHOES = frozenset({"input", "ctx"})


class Dialect(NamedTuple):
    """For each thing that is asked for, how many of its spellings were refused."""

    limit: int = 0
    temperature: int = 0
    answer: int = 0

    def word(self, thing: str) -> str | None:
        """The spelling of a thing; None when it is left out."""
        return _WAYS[thing][self._asdict()[thing]]

    def without(self, refused: set[str]) -> "Dialect":
        steps = zip(self._fields, self, strict=True)
        return Dialect(*(min(way + (thing in refused), len(_WAYS[thing]) - 1) for thing, way in steps))


class Known(dict[str, Dialect]):
    """The dialect of each model of an endpoint, as far as it is known; beyond MOST_MODELS the earliest is forgotten."""

    def __missing__(self, model: str) -> Dialect:
        return Dialect()

    def learn(self, model: str, dialect: Dialect) -> None:
        # Another question at the same time may have learnt something else.
        learnt = Dialect(*map(max, self[model], dialect))
        if learnt == self[model]:
            return
        if model not in self and len(self) >= MOST_MODELS:
            del self[next(iter(self))]
        self[model] = learnt
        log.line("model_dialect", model=model, **{thing: learnt.word(thing) for thing in learnt._fields})


def is_about_the_text(status: int, body: bytes) -> bool:
    """Whether a refusal is of this text, too long or filtered, and not of whatever is asked."""
    if status not in (400, 422):
        return status == 413
    said = body.decode(errors="replace")
    return bool(_TOO_LONG.search(said) or _FILTERED.search(said))


def refused(body: bytes) -> set[str]:
    """The things that a refusal names as wrong with the request."""
    said = body.decode(errors="replace")
    if _TOO_LONG.search(said):
        return set()
    # Only the first name in each text: the right spellings, or all that there are, come after it.
    firsts = map(_NAMES.search, islice(_texts(said), MOST_TEXTS))
    return {str(first.lastgroup) for first in firsts if first}


def _texts(said: Any, depth: int = 0) -> Iterator[str]:
    """The texts of a refusal at any depth; the parameter alone if a field of its own names it."""
    if depth > 8:
        return
    if isinstance(said, str):
        inner = _json(said)
        if inner is None:
            yield said
        else:
            yield from _texts(inner, depth + 1)
    elif isinstance(said, list):
        for each in said:
            yield from _texts(each, depth + 1)
    elif isinstance(said, dict):
        where = said.get("loc") or said.get("param")
        path = ".".join(map(str, where)) if isinstance(where, list) else where
        if isinstance(path, str) and (_NAMES.search(path) or _OTHER_PARAMETERS.match(path)):
            yield path
        else:
            for name, value in said.items():
                if name not in _ECHOES:
                    yield from _texts(value, depth + 1)


def _json(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
