"""Tokens of a Go template (text/template/parse/lex.go)."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ggufpack.chat_template.go.errors import GoTemplateError

SPACE = " \t\r\n"
TokenKind = Literal[
    "text", "left", "right", "space", "string", "char", "number", "variable", "field", "dot", "word",
    "declare", "assign", "pipe", "comma", "open", "close", "end",
]  # fmt: skip

_LEFT = re.compile(r"\{\{(?P<trim>-(?=[ \t\r\n]))?")
_COMMENT = re.compile(r"[ \t\r\n]?/\*(?:(?!\*/).)*\*/(?P<trim>[ \t\r\n]-)?\}\}", re.DOTALL)
_RIGHT = re.compile(r"(?P<trim>[ \t\r\n]-)?\}\}")
_TOKENS: tuple[tuple[TokenKind, re.Pattern[str]], ...] = (
    ("space", re.compile(r"[ \t\r\n]+")),
    ("declare", re.compile(":=")),
    ("assign", re.compile("=")),
    ("pipe", re.compile(r"\|")),
    ("comma", re.compile(",")),
    ("open", re.compile(r"\(")),
    ("close", re.compile(r"\)")),
    ("string", re.compile(r'"(?:\\[^\n]|[^"\\\n])*"|`[^`]*`')),
    ("char", re.compile(r"'(?:\\[^\n]|[^'\\\n])*'")),
    ("variable", re.compile(r"\$\w*")),
    ("field", re.compile(r"\.(?!\d)\w+")),
    ("number", re.compile(r"[+-]?\.?\d(?:[eEpP][+-]|[\w.])*")),
    ("dot", re.compile(r"\.")),
    ("word", re.compile(r"\w+")),
)
_MUST_END = ("variable", "field", "word", "dot")
_TERMINATOR = re.compile(r"[ \t\r\n.,|:()]|\}\}|$")


@dataclass(frozen=True)
class Token:
    """A piece of the text, and the line it begins on."""

    kind: TokenKind
    text: str
    line: int


def tokens(source: str) -> Iterator[Token]:
    """The tokens, ``end`` last. White space that a ``{{-`` or ``-}}`` takes away is gone.

    Raises:
        GoTemplateError: an action or a literal that never ends, or a character that Go does not know.
    """
    lines = _Lines(source)
    at = 0
    trimmed = False
    while at < len(source):
        start = _behind_space(source, at) if trimmed else at
        found = _LEFT.search(source, start)
        text = source[start : found.start() if found else len(source)]
        if found and found["trim"]:
            text = text.rstrip(SPACE)
        if text:
            yield Token("text", text, lines.number(start))
        if found is None:
            break
        at = found.end()
        comment = _COMMENT.match(source, at) if found["trim"] else None
        if source.startswith("/*", at) or comment:
            comment = comment or _COMMENT.match(source, at)
            if comment is None:
                raise GoTemplateError("unclosed comment", line=lines.number(at))
            at, trimmed = comment.end(), bool(comment["trim"])
            continue
        yield Token("left", "{{", lines.number(found.start()))
        for token, end in _inside(source, at, lines):
            yield token
            at, trimmed = end, token.text.endswith("-}}")
    yield Token("end", "", lines.number(len(source)))


def _behind_space(source: str, at: int) -> int:
    while at < len(source) and source[at] in SPACE:
        at += 1
    return at


class _Lines:
    """Numbers of lines, without counting from the beginning each time."""

    def __init__(self, source: str) -> None:
        self._ends = [found.start() for found in re.finditer("\n", source)]

    def number(self, at: int) -> int:
        """The line of a place, counted from one."""
        return bisect_left(self._ends, at) + 1


def _inside(source: str, at: int, lines: _Lines) -> Iterator[tuple[Token, int]]:
    """The tokens of one action, each with where it ends; the last is ``right``."""
    first = at
    while True:
        line = lines.number(at)
        right = _RIGHT.match(source, at)
        if right:
            yield Token("right", right[0], line), right.end()
            return
        if at == len(source):
            raise GoTemplateError("unclosed action", line=lines.number(first))
        matches = ((kind, pattern.match(source, at)) for kind, pattern in _TOKENS)
        kind, found = next(((kind, match) for kind, match in matches if match), (None, None))
        if kind is None or found is None:
            raise GoTemplateError(f"unexpected {source[at]!r} in an action", line=line)
        end = found.end()
        if kind == "space" and source.startswith("-}}", end):
            end -= 1  # the last one belongs to the delimiter
        if kind in _MUST_END and not _TERMINATOR.match(source, end):
            raise GoTemplateError(f"bad character {source[end]!r} after {found[0]!r}", line=line)
        if end > at:
            yield Token(kind, source[at:end], line), end
        at = end
