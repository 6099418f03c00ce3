"""The Prefer header: the caller's preferences, and those that were granted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from emulator.rest.errors import Fault

CHOICES = {
    "resolution": {"merge-duplicates", "ignore-duplicates"},
    "return": {"representation", "minimal", "headers-only"},
    "count": {"exact", "planned", "estimated"},
    "tx": {"commit", "rollback"},
    "missing": {"default", "null"},
    "handling": {"strict", "lenient"},
}
# The order in which Preference-Applied names them.
APPLIED_ORDER = ("resolution", "missing", "return", "count", "tx", "handling", "timezone", "max-affected")


@dataclass(frozen=True)
class Preferences:
    chosen: dict[str, str]
    invalid: tuple[str, ...] = ()

    def get(self, key: str) -> str | None:
        return self.chosen.get(key)

    @property
    def is_strict(self) -> bool:
        return self.chosen.get("handling") == "strict"

    @property
    def wants_representation(self) -> bool:
        return self.chosen.get("return") == "representation"

    @property
    def max_affected(self) -> int | None:
        limit = self.chosen.get("max-affected")
        return int(limit) if limit is not None and self.is_strict else None

    def refuse_invalid(self) -> None:
        if self.is_strict and self.invalid:
            raise Fault(
                400,
                "PGRST122",
                "Invalid preferences given with handling=strict",
                "Invalid preferences: " + ", ".join(self.invalid),
            )

    def applied(self, *keys: str) -> str:
        granted = [key for key in APPLIED_ORDER if key in keys and key in self.chosen]
        if not self.is_strict:
            granted = [key for key in granted if key != "max-affected"]
        return ", ".join(f"{key}={self.chosen[key]}" for key in granted)


def parse(headers: Iterable[str], is_timezone: Callable[[str], bool], *, tx_override: bool) -> Preferences:
    """The first of several equal keys counts, over all Prefer headers."""
    chosen: dict[str, str] = {}
    invalid: list[str] = []
    for preference in (part.strip() for header in headers for part in header.split(",")):
        key, _, value = preference.partition("=")
        if key == "timezone":
            known = is_timezone(value)
        elif key == "max-affected":
            known = value.isdecimal() and value.isascii() and len(value) < 19
        else:
            known = value in CHOICES.get(key, ())
        if not known:
            invalid.append(preference)
        elif key != "tx" or tx_override:
            chosen.setdefault(key, value)
    return Preferences(chosen, tuple(filter(None, invalid)))
