"""Response headers that a database function wrote: checked before they go onto the wire."""

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Printable Latin-1 and tabs: no line break can start a header of its own.
CONTENT = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


class InvalidHeaders(ValueError):
    pass


def checked(headers: Mapping[Any, Any]) -> dict[str, str]:
    for key, content in headers.items():
        if not isinstance(content, str) or not NAME.fullmatch(key) or not CONTENT.fullmatch(content):
            raise InvalidHeaders(key)
    return dict(headers)


def merged(headers: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Headers in which `own` replaces those of the same name in any case."""
    taken = {key.lower() for key in own}
    return {key: content for key, content in headers.items() if key.lower() not in taken} | dict(own)


def token(text: str) -> str:
    """A text as a bare word, for a header's parameter."""
    return "".join(NAME.findall(text))
