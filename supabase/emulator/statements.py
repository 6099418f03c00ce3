"""Cutting a migration into its statements, as the Supabase CLI does for its history table."""

import re
from collections.abc import Iterator

TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]* | /\*)
    | (?P<quoted>
          [eE]'(?:[^'\\]|\\.|'')*'
        | '(?:[^']|'')*'
        | "(?:[^"]|"")*"
        | \$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$
      )
    | (?P<word>[^\W\d]\w*(?:\$\w*)*)
    | (?P<sign>[();])
    | \d[\w.]* | . | \s
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")


def statements(script: str) -> list[str]:
    return [statement for piece in _pieces(script) if (statement := piece.strip())]


def _pieces(script: str) -> Iterator[str]:
    """Text up to each semicolon that is not inside parentheses, quotes, a comment or an SQL function's body."""
    start = position = depth = 0
    words: list[str] = []
    body = 0  # how many BEGIN ATOMIC and CASE are open
    while position < len(script):
        token = TOKEN.match(script, position)
        assert token is not None
        position = token.end()
        if token["comment"] == "/*":
            position = _comment_end(script, position)
        elif word := token["word"]:
            words.append(word.lower())
            if words[-2:] == ["begin", "atomic"] or (body and words[-1] == "case"):
                body += 1
            elif body and words[-1] == "end":
                body -= 1
        elif sign := token["sign"]:
            depth += {"(": 1, ")": -1, ";": 0}[sign]
            if sign == ";" and depth <= 0 and not body:
                yield script[start : position - 1]
                start, depth, words = position, 0, []
    yield script[start:]


def _comment_end(script: str, position: int) -> int:
    """The end of a block comment; they nest."""
    depth = 1
    while depth:
        edge = COMMENT_EDGE.search(script, position)
        if edge is None:
            return len(script)
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position
