"""A cursor over one query parameter, with the parts that all its little languages share."""

import re
from typing import Literal, NoReturn

from emulator.rest.errors import bad_query
from emulator.rest.query import Field, Step

WORD = re.compile(r"[\w $]+(?:-(?!>)[\w $]+)*")
JSON_KEY = re.compile(r"[^(\-:.,>)]+(?:-(?!>)[^(\-:.,>)]+)*")
JSON_INDEX = re.compile(r"-?[0-9]+(?=->|::|\.|,|\)|$)")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
BLANK = re.compile(r"[ \t]*")


class Scanner:
    def __init__(self, text: str, what: str) -> None:
        self.text = text
        self.what = what
        self.at = 0
        self.embeds = 0

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.take(token):
            self.fail(f'"{token}"')

    def blank(self) -> None:
        self.match(BLANK)

    def ended(self) -> bool:
        return self.at == len(self.text)

    def expect_end(self) -> None:
        if not self.ended():
            self.fail("end of input")

    def fail(self, expected: str) -> NoReturn:
        found = "end of input" if self.ended() else f'"{self.text[self.at]}"'
        where = f'"failed to parse {self.what} ({self.text})" (line 1, column {self.at + 1})'
        raise bad_query(where, f"unexpected {found} expecting {expected}")

    def name(self) -> str:
        quoted = self.match(QUOTED)
        if quoted is not None:
            return unquoted(quoted)
        found = self.match(WORD)
        plain = found.group().strip() if found else ""
        if not plain:
            self.fail("field name (* or [a..z0..9_$])")
        return plain

    def field(self) -> Field:
        self.blank()
        name = self.name()
        return Field(name, self.json_path())

    def json_path(self) -> tuple[Step, ...]:
        steps = []
        while self.text.startswith("->", self.at):
            arrow: Literal["->", "->>"] = "->>" if self.take("->>") else "->"
            self.take("->")
            index = self.match(JSON_INDEX)
            if index is not None:
                steps.append(Step(arrow, index.group(), is_index=True))
                continue
            quoted = self.match(QUOTED)
            key = quoted or self.match(JSON_KEY)
            if key is None:
                self.fail("digit or json key")
            steps.append(Step(arrow, unquoted(key) if quoted else key.group().strip(), is_index=False))
        return tuple(steps)


def unquoted(found: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", found.group(1), flags=re.DOTALL)
