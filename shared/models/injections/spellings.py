"""The spellings in which a text is looked at: without accents, with look-alike letters, digits for letters, spread
letters, reversed, rot13, unescaped. An order is hidden from people or from rules like ours, seldom well."""

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

_LOOK_ALIKES = str.maketrans("аеорсухіјѕԁһԛԝӏтмнквгɡαεικνορτυχβηıⅼ", "aeopcyxijsdhqwltmhkbrgaeiknoptuxbnil")
_DIGITS = str.maketrans("013457@$", "oieastas")
_SPREAD = re.compile(r"(?<![^\W_])(?:[^\W_][ .,_*|/-]{1,2}){3,}[^\W_](?![^\W_])")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\x([0-9a-f]{2})")


def spellings(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    spellings = [plain]
    unescaped = _unescaped(plain)
    bare = unescaped if unescaped.isascii() else _without_accents(unescaped)
    alike = bare if bare.isascii() else bare.translate(_LOOK_ALIKES)
    joined = _SPREAD.sub(lambda spread: re.sub(r"[ .,_*|/-]", "", spread[0]), alike)
    spellings += [unescaped, bare, alike, joined, re.sub(r"[*_~`^]+", "", alike)]
    spellings += [alike.translate(_DIGITS), codecs.decode(alike, "rot13"), alike[::-1]]
    return list(dict.fromkeys(spellings))


def _unescaped(text: str) -> str:
    if "%" in text:
        text = unquote(text)
    if "\\" in text:
        text = _ESCAPE.sub(lambda escape: chr(int(escape[1] or escape[2], 16)), text)
    return text.casefold()


def _without_accents(text: str) -> str:
    """Latin letters without what is above or below them; other scripts mean something by it."""
    return "".join(
        part
        for mark in text
        for part in (
            unicodedata.normalize("NFKD", mark) if mark < "\u0250" or "\u1e00" <= mark < "\u1f00" else mark
        )
        if not "\u0300" <= part <= "\u036f"
    )


_BLOB = re.compile(r"[A-Za-z0-9+/=_-]{24,}")


def has_encoded_text(text: str) -> bool:
    """Whether the text holds base64 or hex of something readable, which no name, link or number is."""
    return any(_reads(decoded) for blob in _BLOB.findall(text) for decoded in _decoded(blob))


def _reads(decoded: bytes) -> bool:
    readable = sum(byte in b" \n'-,." or 65 <= byte <= 90 or 97 <= byte <= 122 for byte in decoded)
    return len(decoded) >= 16 and b" " in decoded and readable > 0.85 * len(decoded)


def _decoded(blob: str) -> Iterator[bytes]:
    tries: list[Callable[[], bytes]] = [
        lambda: bytes.fromhex(blob),
        lambda: base64.b64decode(blob.rstrip("=")[: len(blob.rstrip("=")) // 4 * 4], altchars=b"-_"),
        lambda: base64.b32decode(blob.rstrip("=")[: len(blob.rstrip("=")) // 8 * 8]),
    ]
    for decode in tries:
        try:
            yield decode()
        except (ValueError, binascii.Error):
            continue
