"""Passages in customers' texts that read like instructions to a machine are recognised and left out.

This is one of several walls: a passage that it misses still meets a model that may not lift a lead into a better band,
and rules that only count words. A passage that it takes wrongly is still in the event, and a person is asked to look.
The rest of a paragraph goes with its first such sentence, because the thing that an order asks for follows the order.
"""

import html
import re
import unicodedata

from shared.intake.readings import READ_UP_TO, Reading
from shared.models.injections.patterns import matched
from shared.models.injections.spellings import has_encoded_text, spellings

# No customer writes a paragraph of more sentences, and each takes time.
MOST_SENTENCES = 60
# An order that is spread over so many sentences is found within its paragraph.
WINDOW = 4
FIELDS = ("name", "message", "service", "budget", "area", "address", "timeframe", "recurrence")


def without(reading: Reading) -> tuple[Reading, tuple[str, ...]]:
    """The reading without such passages, and the kinds of them that there were."""
    found: set[str] = set()
    changed = {}
    for field in FIELDS:
        text = getattr(reading, field)
        if text:
            kept, kinds_found = cut(text[:READ_UP_TO])
            if kept != text:
                changed[field] = kept or None
            found |= kinds_found
    return (reading.model_copy(update=changed) if changed else reading), tuple(sorted(found))


def cut(text: str) -> tuple[str, set[str]]:
    """The text without such passages, and the kinds of them that there were."""
    found = {"hidden"} if _HIDDEN.search(text) else set()
    visible = html.unescape("".join(filter(_is_visible, text))).strip()
    suspected = kinds(visible)
    if not suspected:
        return visible, found
    kept = [part for paragraph in _PARAGRAPH.split(visible) if (part := _kept(paragraph))]
    remains = "\n\n".join(kept)
    # An order that is spread over many sentences or paragraphs leaves no part of itself.
    return ("" if kinds(remains) else remains), found | suspected


def kinds(text: str) -> set[str]:
    found = {kind for spelling in spellings(text) for kind in matched(spelling)}
    return found | ({"encoded"} if has_encoded_text(text) else set())


# Letters of a block that nobody sees, and machines read.
_HIDDEN = re.compile("[\U000e0020-\U000e007e]{4}")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?;])(?=\s)|(?<=[。！？；\n])")


def _kept(paragraph: str) -> str:
    """The paragraph up to the first sentences that together read like an instruction."""
    if not kinds(paragraph):
        return paragraph.strip()
    sentences = [sentence for sentence in _SENTENCE_END.split(paragraph) if sentence.strip()]
    if len(sentences) > MOST_SENTENCES:
        return ""
    for end in range(1, len(sentences) + 1):
        if kinds("".join(sentences[max(0, end - WINDOW) : end])):
            start = max(start for start in range(end) if kinds("".join(sentences[start:end])))
            return "".join(sentences[:start]).strip()
    return ""


def _is_visible(mark: str) -> bool:
    return mark in "\n\t" or unicodedata.category(mark) not in ("Cf", "Cc", "Co", "Cn", "Cs")
