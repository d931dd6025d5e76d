"""Numbers that a template counts calls and results with, told from numbers that are its own text.

An integer is a count when, wherever it comes behind the same words, it is the number of the call (or
of the result) it stands at: of the whole conversation, or of its message.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ggufpack.chat_template.budget import charge
from ggufpack.chat_template.learn.pieces import Atom, Path, Pieces, Value, joined
from ggufpack.chat_template.learn.slots import Sequence

_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w.])")
_CONTEXT = 14
_LEAST_VALUES = 3


@dataclass(frozen=True)
class _Place:
    """An integer in a text piece, and the call or result that it stands at."""

    sequence: int
    piece: int
    start: int
    end: int
    value: int
    counts: tuple[tuple[str, int], ...]  # kind of count -> what it would be
    path: Path
    owner: int


def find_counters(sequences: list[Sequence]) -> None:
    """Put values of the kinds ``call_number`` … in place of the integers that are counts."""
    groups: dict[tuple[str, str, str], list[_Place]] = defaultdict(list)
    for number, sequence in enumerate(sequences):
        if sequence.slot not in ("assistant", "tool"):
            continue
        for behind in (False, True):
            for place, context in _places(number, sequence, behind):
                groups[sequence.slot, context, str(behind)].append(place)
    chosen: dict[int, list[tuple[_Place, Value]]] = defaultdict(list)
    taken: set[tuple[int, int, int]] = set()
    for places in groups.values():
        count = _count(places)
        if count is None:
            continue
        for place in places:
            at = (place.sequence, place.piece, place.start)
            if at not in taken:
                taken.add(at)
                chosen[place.sequence].append((place, count))
    for number, found in chosen.items():
        pieces = sequences[number].pieces
        for place, count in sorted(found, key=lambda f: (-f[0].piece, -f[0].start)):
            text = str(pieces[place.piece])
            atom = Atom(place.owner, place.path, count)
            pieces[place.piece : place.piece + 1] = [text[: place.start], atom, text[place.end :]]
        sequences[number].pieces = joined(pieces)


def _count(places: list[_Place]) -> Value | None:
    """The count that all of ``places`` are."""
    if len({place.value for place in places}) < _LEAST_VALUES:
        return None
    for kind, _ in places[0].counts:
        for base in (0, 1):
            if all(place.value == dict(place.counts).get(kind, -9) + base for place in places):
                return Value(kind, str(base))
    return None


def _places(number: int, sequence: Sequence, behind: bool) -> Iterator[tuple[_Place, str]]:
    """The integers of a sequence, as those of the call that follows, or that precedes."""
    pieces = sequence.pieces
    for at, piece in enumerate(pieces):
        if not isinstance(piece, str):
            continue
        path = _path(pieces, at, behind) if sequence.slot == "assistant" else ()
        counts = _counts(sequence, path)
        if counts is None:
            continue
        for found in _NUMBER.finditer(piece):
            charge()
            context = piece[max(0, found.start() - _CONTEXT) : found.start()]
            yield (
                _Place(number, at, found.start(), found.end(), int(found[0]), counts, path, sequence.index),
                context,
            )


def _path(pieces: Pieces, at: int, behind: bool) -> Path:
    """The path of the call whose value is nearest."""
    order = range(at - 1, -1, -1) if behind else range(at + 1, len(pieces))
    for other in order:
        piece = pieces[other]
        if isinstance(piece, Atom):
            return tuple(step for step in piece.path if step[0] == "call")
    return ()


def _counts(sequence: Sequence, path: Path) -> tuple[tuple[str, int], ...] | None:
    messages = sequence.conversation.messages
    earlier = messages[: sequence.index]
    if sequence.slot == "assistant":
        if not path:
            return None
        place = path[0][1]
        before = sum(len(message.calls) for message in earlier)
        return (("call_number", before + place), ("call_place", place))
    results = [message.role == "tool" for message in earlier]
    run = next((k for k, is_tool in enumerate(reversed(results)) if not is_tool), len(results))
    return (("result_number", sum(results)), ("result_place", run))
