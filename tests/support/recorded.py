"""A submission as functions hand it to SQL, for tests that record one without a function."""

import json
from typing import Any


def submission(form: dict[str, Any], contact: dict[str, Any] | None = None, **rest: Any) -> str:
    """In our own words already: the form is its own reading, and says who it is from, unless told otherwise."""
    who = form if contact is None else contact
    return json.dumps({"kind": "form.submitted", "form": form, "reading": form, "contact": who, **rest})
