"""Recognises, in what customers write, what reads like instructions to a machine, and leaves it out.

It is one of several walls: what it misses still meets a model that may not lift a lead into a better band, and
rules that only count words. What it takes wrongly is still there in the event, and a person is asked to look. From
the first such sentence on, the rest of its paragraph goes with it, for what an order asks for follows it.
"""

import re
import unicodedata

from shared.injections.patterns import matched
from shared.injections.spellings import has_encoded_text, spellings
from shared.qualification import READ_UP_TO
from shared.submissions import Submission

# No customer writes a paragraph of more, and each takes its time.
MOST_SENTENCES = 60
FIELDS = ("name", "first_name", "last_name", "message", "service", "budget", "area", "timeframe")


def without(submission: Submission) -> tuple[Submission, tuple[str, ...]]:
    """The submission without such passages, and which kinds of them there were."""
    found: set[str] = set()
    changed = {}
    for field in FIELDS:
        text = getattr(submission, field)
        if text:
            kept, kinds_found = cut(text[:READ_UP_TO])
            if kept != text:
                changed[field] = kept or None
            found |= kinds_found
    return (submission.model_copy(update=changed) if changed else submission), tuple(sorted(found))


def cut(text: str) -> tuple[str, set[str]]:
    """The text without them, and which kinds there were."""
    visible = "".join(filter(_is_visible, text))
    found = {"hidden"} if any("\U000e0000" <= mark <= "\U000e007f" for mark in text) else set()
    suspected = kinds(visible)
    if not suspected:
        return visible, found
    kept = [part for paragraph in _PARAGRAPH.split(visible) if (part := _kept(paragraph))]
    remains = "\n\n".join(kept)
    # An order that is spread over more than two sentences leaves no part of itself.
    return ("" if kinds(remains) else remains), found | suspected


def kinds(text: str) -> set[str]:
    found = {kind for spelling in spellings(text) for kind in matched(spelling)}
    return found | ({"encoded"} if has_encoded_text(text) else set())


_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"[^.!?。！？;\n]*(?:[.!?。！？;]+(?=\s|$|[^\x00-\x7f])|\n|$|[.!?;])")


def _kept(paragraph: str) -> str:
    """The paragraph up to the first sentence, or two in a row, that reads like an instruction."""
    if not kinds(paragraph):
        return paragraph.strip()
    sentences = [sentence for sentence in _SENTENCE.findall(paragraph) if sentence.strip()]
    if len(sentences) > MOST_SENTENCES:
        return ""
    for position, sentence in enumerate(sentences):
        pair = sentence + " ".join(sentences[position + 1 : position + 2])
        if kinds(sentence) or kinds(pair):
            return "".join(sentences[:position]).strip()
    return ""


def _is_visible(mark: str) -> bool:
    return mark in "\n\t" or unicodedata.category(mark) not in ("Cf", "Cc", "Co", "Cn", "Cs")
