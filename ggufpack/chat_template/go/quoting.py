"""Go's string literals: strconv.Quote and strconv.Unquote."""

from __future__ import annotations

import re

from ggufpack.chat_template.go.errors import GoTemplateError

_SHORT = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}
_CHAR = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "\\": 92, '"': 34, "'": 39}
_ESCAPE = re.compile(
    r"\\(?:(?P<short>[abtnvfr\\\"'])|x(?P<x>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})"
    r"|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8}))"
)


def decode(text: bytes) -> str:
    """A Go string as Python text: each byte that is not UTF-8 becomes U+FFFD, as in Go."""
    return re.sub("[\udc80-\udcff]", "\ufffd", text.decode("utf-8", "surrogateescape"))


def quote(text: bytes) -> str:
    r"""``text`` in double quotes (strconv.Quote, ``%q``): the invisible as ``\n``, ``\x00``, ``\u00a0``.

    Which characters can be seen is this Python's Unicode table; Go's may be a few years newer.
    """
    return '"' + "".join(map(_quoted, text.decode("utf-8", "surrogateescape"))) + '"'


def _quoted(character: str) -> str:
    code = ord(character)
    if code in _SHORT:
        return _SHORT[code]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def literal(text: str) -> str:
    """``text`` as a literal for people: in backquotes when that saves escapes."""
    plain = text.isprintable() and "`" not in text
    if plain and ('"' in text or "\\" in text):
        return f"`{text}`"
    return quote(text.encode("utf-8", "surrogateescape"))


def unquote(source: str) -> bytes:
    """The string that a literal means (strconv.Unquote).

    Raises:
        GoTemplateError: an escape that Go does not have.
    """
    mark, body = source[0], source[1:-1]
    if mark == "`":
        return body.replace("\r", "").encode()
    text = b""
    at = 0
    while at < len(body):
        if body[at] != "\\":
            end = body.find("\\", at)
            end = len(body) if end < 0 else end
            text += body[at:end].encode()
            at = end
            continue
        found = _ESCAPE.match(body, at)
        if found is None or body[at + 1] == ("'" if mark == '"' else '"'):
            raise GoTemplateError(f"invalid syntax in the literal {source}")
        text += _meant(found)
        at = found.end()
    return text


def _meant(found: re.Match[str]) -> bytes:
    if found["short"]:
        return bytes([_CHAR[found["short"]]])
    if found["x"] or found["octal"]:
        return bytes([int(found["x"], 16) if found["x"] else int(found["octal"], 8)])
    code = int(found["u"] or found["U"], 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise GoTemplateError(f"no such character: {found[0]}")
    return chr(code).encode()
