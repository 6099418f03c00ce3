"""A form as the qualifier gets it: read as ingestion does, stored, and taken from the event's data."""

from typing import Any

from shared.intake.forms import Submission
from shared.intake.readings import Reading
from shared.intake.recording import contact_of


def read(form: dict[str, Any]) -> Reading:
    submission = Submission.model_validate(form)
    return Reading.model_validate(submission.reading(contact_of(submission, "NZ")))
