"""A prompt that differs, as pieces to mark: what is missing, what is too much, what cannot be seen."""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Change = Literal["same", "missing", "added", "left-out"]

# words, or single characters between them: a changed word is marked as a whole
_WORDS = re.compile(r"\w+|\W", re.DOTALL)
_MOST_WORDS = 4000  # SequenceMatcher's time is quadratic
_CONTEXT = 160
_SYMBOLS = {"\n": "↵", "\t": "⇥", "\r": "␍", " ": "·"}


@dataclass(frozen=True)
class Run:
    """Characters to show. ``name`` is set when they stand for one that cannot be seen."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Piece:
    """A stretch of one kind; ``"left-out"`` says how much of the same text is not shown."""

    change: Change
    runs: tuple[Run, ...]


def diff(expected: str, actual: str) -> tuple[Piece, ...]:
    """``expected`` turned into ``actual``: by words, with 160 characters of context about each change."""
    if expected == actual:
        return (Piece("same", _runs(expected, spaces=False)),)
    changes = [(change, text) for change, text in _changes(expected, actual) if text]
    pieces: list[tuple[Change, str]] = []
    for index, (change, text) in enumerate(changes):
        if change == "same":
            pieces += _shortened(text, first=index == 0, last=index == len(changes) - 1)
        else:
            pieces.append((change, text))
    return tuple(Piece(change, _runs(text, spaces=change in ("missing", "added"))) for change, text in pieces)


def _changes(expected: str, actual: str) -> Iterator[tuple[Change, str]]:
    front = _common(expected, actual)
    rest = min(len(expected), len(actual)) - front
    back = min(rest, _common(reversed(expected), reversed(actual)))
    yield "same", expected[:front]
    before = _WORDS.findall(expected[front : len(expected) - back])
    after = _WORDS.findall(actual[front : len(actual) - back])
    yield from _by_words(before, after)
    yield "same", expected[len(expected) - back :]


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """How many characters both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _pair in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _by_words(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[Change, str]]:
    if len(before) > _MOST_WORDS or len(after) > _MOST_WORDS:
        yield "missing", "".join(before)
        yield "added", "".join(after)
        return
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, start, end, start_after, end_after in matcher.get_opcodes():
        if tag == "equal":
            yield "same", "".join(before[start:end])
        else:
            yield "missing", "".join(before[start:end])
            yield "added", "".join(after[start_after:end_after])


def _shortened(text: str, *, first: bool, last: bool) -> list[tuple[Change, str]]:
    head, tail = ("" if first else text[:_CONTEXT]), ("" if last else text[-_CONTEXT:])
    hidden = len(text) - len(head) - len(tail)
    if hidden <= _CONTEXT:
        return [("same", text)] if text else []
    kept: list[tuple[Change, str]] = [
        ("same", head),
        ("left-out", f"{hidden:,} equal characters"),
        ("same", tail),
    ]
    return [(change, part) for change, part in kept if part]


def visible(text: str, *, spaces: bool = True) -> tuple[Run, ...]:
    """``text`` with a sign for each character that cannot be seen; blanks too when ``spaces``."""
    return _runs(text, spaces=spaces)


def _runs(text: str, *, spaces: bool) -> tuple[Run, ...]:
    runs: list[Run] = []
    plain: list[str] = []
    for character in text:
        name = _name(character, spaces=spaces)
        if name is None:
            plain.append(character)
            continue
        if plain:
            runs.append(Run("".join(plain)))
            plain = []
        runs.append(Run(_SYMBOLS.get(character, f"U+{ord(character):04X}"), name))
    if plain:
        runs.append(Run("".join(plain)))
    return tuple(runs)


def _name(character: str, *, spaces: bool) -> str | None:
    if character == " ":
        return "space" if spaces else None
    if character in _SYMBOLS:
        return {"\n": "newline", "\t": "tab", "\r": "carriage return"}[character]
    # separators, controls, formats (zero width, direction), surrogates, private use
    if unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"):
        return unicodedata.name(character, "no character").lower()
    return None
