"""The corpus of injections, laid into plain enquiries that stand just below a band."""

import json
from dataclasses import dataclass
from pathlib import Path

CORPUS = json.loads((Path(__file__).parents[1] / "fixtures/injections/corpus.json").read_text())

# Of 69 and 36 points in the seed's rules: a few more would make them an A and a B.
PLAIN = (
    {"name": "Jo Smith", "message": "I need a new switchboard, Ponsonby, urgent."},
    {"name": "Jo Smith", "message": "We need two new lights in the hall."},
)
FIELDS = {"service": "Sockets", "area": "Somewhere", "budget": "$500", "timeframe": "Next year"}


@dataclass(frozen=True)
class Case:
    plain: dict[str, str]
    injected: dict[str, str]
    text: str
    style: str


def cases() -> list[Case]:
    """Each text in a paragraph of its own and, after a message of one kind, also in the same one."""
    made = []
    for plain in PLAIN:
        for each in CORPUS:
            field, text = each["field"], each["text"]
            clean = plain | ({field: FIELDS[field]} if field in FIELDS else {})
            for joint in ("\n\n", " ") if plain is PLAIN[0] and text.startswith("{clean}\n\n") else ("\n\n",):
                injected = text.replace("{clean}\n\n", "{clean}" + joint).replace("{clean}", clean[field])
                demand = text.replace("{clean}", "").strip()
                made.append(Case(clean, clean | {field: injected}, demand, each["style"]))
    return made
