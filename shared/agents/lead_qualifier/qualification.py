"""How good a lead is, by the rules written in the agent's version: points, each with its reason in words.

A customer's text is searched for words and amounts, and never obeyed.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from shared.intake import identity
from shared.intake.readings import READ_UP_TO, Reading
from shared.work.envelopes import Contact

type Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Mention(_Rule):
    """Something that a customer may ask for or say, found by its words, and its points."""

    name: str
    words: Words
    points: int


class Step(_Rule):
    """Points from an amount or a length on."""

    at_least: int
    points: int


class Area(_Rule):
    served: Words
    points: int


class Completeness(_Rule):
    name: int
    email: int
    phone: int
    message: tuple[Step, ...]


class Band(_Rule):
    band: Literal["A", "B", "C"]
    at_least: int
    decision: str
    next_step: str


class Rules(_Rule):
    """The config of a version. `services` has a list for each site; the first match of a list counts."""

    base: int = Field(ge=0, le=100)
    services: dict[str, tuple[Mention, ...]]
    urgency: tuple[Mention, ...]
    unwanted: tuple[Mention, ...]
    budget: tuple[Step, ...]
    area: dict[str, Area]
    completeness: Completeness
    repeat_customer: int
    bands: tuple[Band, ...] = Field(min_length=1)
    escalate_below: float = Field(ge=0, le=1)

    def band_of(self, score: int) -> Band:
        reached = (band for band in self.bands if band.at_least <= score)
        return max(reached, key=lambda band: band.at_least, default=self.bands[-1])

    def services_of(self, site: str | None) -> tuple[Mention, ...]:
        return self.services.get(site or "", ())


class Qualification(BaseModel):
    score: int = Field(ge=0, le=100)
    band: Literal["A", "B", "C"]
    decision: str
    reasons: list[str]
    confidence: float = Field(ge=0, le=1)
    next_step: str
    service: str | None


class Point(NamedTuple):
    points: int
    reason: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.points:+d}"


def qualify(reading: Reading, contact: Contact | None, site: str | None, rules: Rules) -> Qualification:
    text = _text(reading.service, reading.message, reading.timeframe, reading.recurrence)
    service = _first(rules.services_of(site), text)
    signals = {
        "service": _mentioned("asks for {}", service),
        "urgency": _mentioned("says it is {}", _first(rules.urgency, text)),
        "unwanted": _mentioned("reads like {}", _first(rules.unwanted, text)),
        "budget": _budget(rules.budget, reading),
        "area": _area(rules.area.get(site or ""), reading),
        "repeat": _repeat(rules.repeat_customer, contact),
    }
    points = [point for point in signals.values() if point]
    points += _completeness(rules.completeness, reading)
    score = max(0, min(100, rules.base + sum(point.points for point in points)))
    band = rules.band_of(score)
    return Qualification(
        score=score,
        band=band.band,
        decision=band.decision,
        reasons=[str(Point(rules.base, "wrote to us")), *map(str, points)],
        confidence=_confidence(signals, reading),
        next_step=band.next_step,
        service=service.name if service else None,
    )


def _text(*parts: str | None) -> str:
    written = " \n ".join(part for part in parts if part)[:READ_UP_TO]
    return unicodedata.normalize("NFKC", written).casefold()


def _first(mentions: Iterable[Mention], text: str) -> Mention | None:
    return next((mention for mention in mentions if _pattern(mention.words).search(text)), None)


@lru_cache(maxsize=512)
def _pattern(words: Words) -> re.Pattern[str]:
    # Whole words out of a fixed list take time linear in the text.
    return re.compile(r"\b(?:" + "|".join(re.escape(word.casefold()) for word in words) + r")\b")


def _mentioned(words: str, mention: Mention | None) -> Point | None:
    return Point(mention.points, words.format(mention.name)) if mention else None


def _budget(steps: Iterable[Step], reading: Reading) -> Point | None:
    amounts = [*_amounts(reading.budget, _NUMBER), *_amounts(reading.message, _MONEY)]
    if not amounts:
        return None
    budget = max(amounts)
    return Point(_reached(steps, budget), f"has a budget of about ${budget:,}")


_DIGITS = r"([0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,9})(?:\.[0-9]{1,2})?(?: ?(k)\b)?"
_NUMBER = re.compile(_DIGITS)
_MONEY = re.compile(rf"(?:\$|\bnzd|\bnz\$) ?{_DIGITS}")


def _amounts(written: str | None, pattern: re.Pattern[str]) -> Iterator[int]:
    for amount in pattern.finditer(_text(written)):
        yield int(amount[1].replace(",", "")) * (1000 if amount[2] else 1)


def _reached(steps: Iterable[Step], amount: int) -> int:
    return max(((step.at_least, step.points) for step in steps if step.at_least <= amount), default=(0, 0))[1]


def _area(area: Area | None, reading: Reading) -> Point | None:
    if area is None:
        return None
    served = _pattern(area.served).search(_text(reading.area, reading.address, reading.message))
    return Point(area.points, f"is in {served[0].title()}, which we serve") if served else None


def _repeat(points: int, contact: Contact | None) -> Point | None:
    return Point(points, "has written to us before") if contact and contact.is_repeat else None


def _completeness(rules: Completeness, reading: Reading) -> list[Point]:
    length = len(reading.message or "")
    given = [
        (reading.name, Point(rules.name, "gives a name")),
        (identity.email(reading.email), Point(rules.email, "gives an e-mail address")),
        (reading.phone, Point(rules.phone, "gives a phone number")),
        (
            _reached(rules.message, length),
            Point(_reached(rules.message, length), f"describes the job in {length} characters"),
        ),
    ]
    return [point for is_given, point in given if is_given and point.points]


def _confidence(signals: dict[str, Point | None], reading: Reading) -> float:
    """The share of the rules' questions that the form answers."""
    known = [
        signals["service"] or signals["unwanted"],
        reading.message,
        signals["budget"],
        signals["area"],
    ]
    known += [signals["urgency"], reading.phone and reading.email]
    return round(0.4 + 0.6 * sum(map(bool, known)) / len(known), 2)
