"""Envelopes: a delivery with its event, its contact, and the agent and version that decide."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Event(_Row):
    id: UUID
    type: str
    site: str | None = None
    contact_id: UUID | None = None
    subject_type: str | None = None
    subject_id: UUID | None = None
    source: str
    data: dict[str, Any]
    trace_id: str
    occurred_at: datetime


class Contact(_Row):
    id: UUID
    name: str | None = None
    is_repeat: bool = False
    earlier_events: int = 0


class Agent(_Row):
    id: UUID
    name: str
    version_id: UUID | None = None
    version: int | None = None
    config: dict[str, Any] | None = None


class Delivery(_Row):
    id: UUID
    lease_token: UUID
    attempt: int
    mode: Literal["live", "rehearsal"]
    subscription: str
    org_id: UUID
    event: Event
    contact: Contact | None = None
    agent: Agent | None = None
    memory: dict[str, Any] = Field(default_factory=dict)
