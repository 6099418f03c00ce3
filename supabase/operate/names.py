"""Names of what a command makes: as a person writes one, and as code, URLs and files do."""

import re
import unicodedata
from collections.abc import Mapping

from operate.hub import Refused

LONGEST_SLUG = 40
# What may stand unquoted in a comment, a docstring and a sentence.
NAME_FORM = re.compile(r"[^\W_][\w&'\u2019.,()/+ -]{1,59}")
SLUG_FORM = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def refuse_bad_name(name: str) -> None:
    if not NAME_FORM.fullmatch(name):
        raise Refused("NAME has 2 to 60 characters: letters, digits, spaces and & ' . , ( ) / + - only.")


def slug_of(name: str, environment: Mapping[str, str]) -> str:
    """SLUG, or the name as one."""
    slug = environment.get("SLUG", "").strip() or _slug(name)
    if not SLUG_FORM.fullmatch(slug) or not 2 <= len(slug) <= LONGEST_SLUG:
        raise Refused(
            f"{slug!r} cannot name a function: add SLUG=…, lower-case letters, digits and hyphens,"
            f" up to {LONGEST_SLUG}, a letter first."
        )
    return slug


def plain(name: str) -> str:
    """In ASCII, as far as it can be said in it."""
    return (
        unicodedata.normalize("NFKD", name.replace("\u2019", "'")).encode("ascii", "ignore").decode().strip()
    )


def quoted(text: str) -> str:
    """As a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _slug(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", plain(name).lower().replace("'", "").replace("&", " and "))
    return "-".join(words)
