"""An enquiry as an agent judges it: the typed text, without instructions to machines, and the memory of its contact."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from shared.agents.lead_qualifier.qualification import Qualification, Rules
from shared.intake.readings import Reading
from shared.models.injections import passages
from shared.work.envelopes import Contact, Delivery


class Memory(BaseModel):
    """The agent's memory of a contact: numbers, times and words of the version's own lists."""

    last_score: int | None = Field(default=None, ge=0, le=100)
    last_band: Literal["A", "B", "C"] | None = None
    last_service: str | None = None
    last_at: datetime | None = None

    @classmethod
    def of(cls, remembered: dict[str, Any], rules: Rules) -> Self:
        try:
            memory = cls.model_validate(remembered)
        except ValidationError:
            return cls()
        known = {mention.name for mentions in rules.services.values() for mention in mentions}
        return memory if memory.last_service in known else memory.model_copy(update={"last_service": None})

    @classmethod
    def made_by(cls, lead: Qualification, at: datetime) -> dict[str, Any]:
        """The facts to remember of this enquiry."""
        memory = cls(last_score=lead.score, last_band=lead.band, last_service=lead.service, last_at=at)
        return memory.model_dump(mode="json")

    @property
    def reason(self) -> str | None:
        if self.last_score is None:
            return None
        asked = f"asked for {self.last_service}" if self.last_service else "wrote to us"
        return f"{asked} the last time, which we scored {self.last_score}"


@dataclass(frozen=True, slots=True)
class Enquiry:
    """An enquiry as it is judged: without passages that read like instructions to a machine."""

    reading: Reading
    site: str | None
    contact: Contact | None
    memory: Memory
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, delivery: Delivery, rules: Rules) -> Self:
        reading, left_out = passages.without(Reading.model_validate(delivery.event.data))
        memory = Memory.of(delivery.memory, rules)
        return cls(reading, delivery.event.site, delivery.contact, memory, left_out)

    @property
    def history(self) -> dict[str, Any]:
        earlier = self.contact.earlier_events if self.contact else 0
        return {
            "earlier_enquiries": earlier,
            "memory": self.memory.model_dump(mode="json", exclude_none=True),
        }

    def seen(self) -> dict[str, Any]:
        """The input of the action: the memory beside the event, and the kinds of passages left out."""
        return self.history | {"site": self.site, "left_out": list(self.left_out)}

    def reasons(self) -> list[str]:
        reasons = [self.memory.reason] if self.memory.reason else []
        if self.left_out:
            reasons.append("left out what reads like instructions to a machine")
        return reasons
