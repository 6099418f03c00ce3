"""A form as sites send it: the meaning of its fields, and the kind that it names.

The form is kept as it came; a `Submission` is its reading. Sites name their fields as they like
(`Email`, `e-mail`, `your_email`): case and punctuation do not matter, and `_NAMES` lists the usual words. A site with
words of its own has a `Submission` of its own that lists them. Fields may stand in an object `data`, as in webhooks.

`kind`, `event` or `event_type` names the kind; without one a form was submitted. SQL knows the names. `type` may name
it too, or be a field of the form: an unknown kind in `type` counts for none if the form has somebody to answer.

People never see, and so never fill, the fields `_gotcha`, `website_url` and `company_website`. A form in
which one is filled is accepted and recorded as `submission.quarantined`, without a contact.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    SkipValidation,
    StringConstraints,
    ValidationError,
    model_validator,
)

_NAMES = {
    "name": "name fullname yourname contactname customername",
    "first_name": "firstname fname givenname",
    "last_name": "lastname lname surname familyname",
    "email": "email emailaddress youremail mail contactemail",
    "phone": "phone phonenumber yourphone contactphone contactnumber tel telephone mobile mobilenumber cell",
    "message": "message yourmessage comments comment enquiry inquiry details description notes",
    "service": "service services servicetype servicerequired jobtype",
    "budget": "budget estimatedbudget pricerange",
    "area": "area suburb city town region location address postcode",
    "language": "language lang locale preferredlanguage",
    "timeframe": "timeframe urgency when timing preferreddate",
    "recurrence": "recurrence frequency howoften",
    "page_url": "pageurl page pageuri landingpage referrerurl",
    "submission_id": "submissionid entryid responseid",
    "kind": "kind event eventtype",
    "type": "type",
}
_HONEYPOT = "honeypot"
KIND = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")
FORM = "form.submitted"


def _joined(value: object) -> object:
    """Several ticked boxes read as one line."""
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ", ".join(value)
    return value


Line = Annotated[str, StringConstraints(max_length=200)]
Choice = Annotated[str, StringConstraints(max_length=1_000), BeforeValidator(_joined)]


def _words(names: Mapping[str, str]) -> dict[str, str]:
    return {_squeezed(word): name for name, words in names.items() for word in words.split()}


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name[:80].lower())


_USUAL = _words(_NAMES) | dict.fromkeys(("gotcha", "websiteurl", "companywebsite"), _HONEYPOT)


class Submission(BaseModel):
    # The words that a site has for fields, beside the usual ones or in their place.
    names: ClassVar[Mapping[str, str]] = {}
    _canonical: ClassVar[dict[str, str]] = _USUAL

    model_config = ConfigDict(
        coerce_numbers_to_str=True, str_strip_whitespace=True, hide_input_in_errors=True
    )

    name: Line | None = None
    first_name: Line | None = None
    last_name: Line | None = None
    email: Annotated[str, StringConstraints(max_length=320)] | None = None
    phone: Annotated[str, StringConstraints(max_length=50)] | None = None
    message: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    service: Choice | None = None
    budget: Choice | None = None
    area: Choice | None = None
    timeframe: Choice | None = None
    recurrence: Choice | None = None
    language: Annotated[str, StringConstraints(max_length=35)] | None = None
    page_url: Annotated[str, StringConstraints(max_length=2_000)] | None = None
    submission_id: Line | None = None
    kind: Line | None = None
    type: Line | None = None

    # The whole form as it came, and whether it fills a field that people never see.
    form: Annotated[dict[str, Any], SkipValidation]
    is_bot: bool

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._canonical = _USUAL | _words(cls.names)

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, form: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(form, dict):
            return handler(form)
        known: dict[str, Any] = {"form": form, "is_bot": False}
        enclosed = form.get("data")
        for fields in (form, enclosed) if isinstance(enclosed, dict) else (form,):
            for sent_as, value in fields.items():
                if value is None or (isinstance(value, str) and not value.strip()):
                    continue
                name = cls._canonical.get(_plain(sent_as))
                if name is not None:
                    known.setdefault(name, value)
        honeypot = known.pop(_HONEYPOT, None)
        known["is_bot"] = isinstance(honeypot, str)
        try:
            return handler(known)
        except ValidationError as error:
            # A field whose shape or length cannot be read is absent: the form is kept as it came, and its sender
            # will not send it again for being told.
            unreadable = {
                problem["loc"][0] for problem in error.errors(include_url=False, include_input=False)
            }
        return handler({name: value for name, value in known.items() if name not in unreadable})

    @property
    def full_name(self) -> str | None:
        return self.name or " ".join(part for part in (self.first_name, self.last_name) if part) or None

    @property
    def event(self) -> tuple[str, bool]:
        """The kind that the form names, and whether it is sure to mean that."""
        kind, type_ = _kind(self.kind), _kind(self.type)
        is_reachable = bool(self.email or self.phone)
        # `kind` may be a field of the form, as in "residential": then a form was submitted all the same.
        if kind:
            return kind, not (is_reachable and kind.isalnum())
        if type_:
            return type_, "." in type_ or not is_reachable
        return FORM, True

    @property
    def quarantine(self) -> str | None:
        """The reason why the form is quarantined, if it is."""
        return "honeypot" if self.is_bot else None

    def reading(self, contact: Mapping[str, Any]) -> dict[str, Any]:
        """The reading of the form in our words: an address and a number in their one spelling, if they have one."""
        read = self.model_dump(exclude=_NOT_READ, exclude_none=True) | {"name": self.full_name}
        read |= {name: contact[name] for name in ("email", "phone") if contact[name]}
        return {name: value for name, value in read.items() if value is not None}


def _kind(written: str | None) -> str | None:
    kind = (written or "").lower()
    return kind if KIND.fullmatch(kind) else None


_NOT_READ = {"form", "is_bot", "kind", "type", "submission_id", "first_name", "last_name"}


_plain = lru_cache(maxsize=1024)(_squeezed)
