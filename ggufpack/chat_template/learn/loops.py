"""Takes the items of a loop out of a sequence; they become rows of a slot of their own.

An item is ``before + values + behind``, and separators stand between items. What is which shows where
a list has several items. Innermost loops go first, so that an item may hold a loop itself.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import groupby

from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.learn.pieces import Atom, Loop, Path, Pieces, joined, label
from ggufpack.chat_template.learn.slots import Sequence
from ggufpack.chat_template.learn.tables import Features, Row, features

KINDS = ("property", "argument", "definition", "call", "instruction")  # innermost first
# Of these loops Go knows which entry is the first, and not which is the last
_MAPS = ("property", "argument", "instruction")


@dataclass(frozen=True)
class _Hit:
    """One run of a loop in a sequence: pieces ``start`` to ``end``, both of them values."""

    sequence: int
    start: int
    end: int
    bodies: tuple[Pieces, ...]
    gaps: tuple[str, ...]
    path: Path  # of the loops around it
    indices: tuple[int, ...]
    before: str
    behind: str


class Folding:
    """Folds the loops of all sequences of a template."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.several_calls: set[bool] = set()  # of messages with several: whether more than one shows

    def fold(self) -> dict[str, list[Row]]:
        """The rows of every slot."""
        for kind in KINDS:
            while hits := self._hits(kind):
                name = max(hits, key=len)
                self._take(kind, name, hits[name])
        for sequence in self.sequences:
            found = features(sequence.conversation, sequence.index)
            self.rows[sequence.slot].append(Row(found, label(sequence.pieces)))
        return self.rows

    def _hits(self, kind: str) -> dict[str, list[_Hit]]:
        hits: dict[str, list[_Hit]] = defaultdict(list)
        for number, sequence in enumerate(self.sequences):
            pieces = sequence.pieces
            runs = _runs(pieces, kind)
            occurrences: Counter[Path] = Counter()
            named = []
            for run in runs:
                around = _around(pieces[run[0]], kind)
                named.append((kind + "#" * occurrences[around], run))
                occurrences[around] += 1
            for name, run in named:
                if hit := self._hit(number, pieces, run, kind):
                    hits[name].append(hit)
        return hits

    def _hit(self, number: int, pieces: Pieces, run: list[int], kind: str) -> _Hit | None:
        groups = [list(group) for _, group in groupby(run, key=lambda at: _index(pieces[at], kind))]
        gaps = [
            pieces[group[-1] + 1 : following[0]]
            for group, following in zip(groups, groups[1:], strict=False)
        ]
        if any(len(gap) > 1 or (gap and not isinstance(gap[0], str)) for gap in gaps):
            self.errors["a value of another kind stands between the items of a loop"] += 1
            return None
        conversation, index = self.sequences[number].conversation, self.sequences[number].index
        if kind == "call" and len(conversation.messages[index].calls) > 1:
            self.several_calls.add(len(groups) > 1)
        start, end = run[0], run[-1]
        atom = pieces[start]
        path = atom.path if isinstance(atom, Atom) else ()
        depth = next(place for place, step in enumerate(path) if step[0] == kind)
        return _Hit(
            number,
            start,
            end,
            tuple(pieces[group[0] : group[-1] + 1] for group in groups),
            tuple(str(gap[0]) if gap else "" for gap in gaps),
            path[:depth],
            tuple(_index(pieces[group[0]], kind) for group in groups),
            _text(pieces, start - 1),
            _text(pieces, end + 1),
        )

    def _take(self, kind: str, name: str, hits: list[_Hit]) -> None:
        gaps = {gap for hit in hits for gap in hit.gaps}
        before = _item_opening({hit.before for hit in hits}, gaps)
        rests = {gap[: len(gap) - len(before)] for gap in gaps}
        behind = min(
            (hit.behind[: _common(hit.behind, rest)] for hit in hits for rest in rests), key=len, default=""
        )
        middles = {rest[len(behind) :] for rest in rests}
        separator = min(
            (left[len(left) - _common_end(left, right) :] for left in middles for right in middles),
            key=len,
            default="",
        )
        endings: dict[tuple[tuple[str, bool], ...], set[str]] = defaultdict(set)

        def ending(gap: str) -> str:
            return gap[len(behind) : len(gap) - len(before) - len(separator)]

        for hit in hits:
            for gap, index in zip(hit.gaps, hit.indices, strict=False):
                endings[self._key(kind, hit, index)].add(ending(gap))
        for hit in sorted(hits, key=lambda hit: (hit.sequence, -hit.start)):
            sequence = self.sequences[hit.sequence]
            own = ""
            for place, body in enumerate(hit.bodies):
                is_last = place == len(hit.bodies) - 1
                if is_last:
                    known = endings.get(self._key(kind, hit, hit.indices[place]), set())
                    fitting = [text for text in known if hit.behind[len(behind) :].startswith(text)]
                    own = max(fitting, key=len, default="")
                else:
                    own = ending(hit.gaps[place])
                item: Pieces = [before, *body, behind + own]
                if kind in _MAPS:
                    item.insert(0, separator if place else "")
                elif not is_last:
                    item.append(separator)
                placed = [piece.outside(kind) if isinstance(piece, Atom) else piece for piece in item]
                found = self._features(kind, hit, place)
                self.rows[name].append(Row(found, label(joined(placed))))
            self._replace(sequence, hit, name, before, behind + own)

    def _replace(self, sequence: Sequence, hit: _Hit, name: str, before: str, behind: str) -> None:
        first = sequence.pieces[hit.start]
        owner = first.owner if isinstance(first, Atom) else None
        pieces = list(sequence.pieces)
        if behind:
            pieces[hit.end + 1] = hit.behind[len(behind) :]
        if before:
            pieces[hit.start - 1] = hit.before[: len(hit.before) - len(before)]
        pieces[hit.start : hit.end + 1] = [Atom(owner, hit.path, Loop(name))]
        sequence.pieces = [piece for piece in pieces if piece != ""]

    def _features(self, kind: str, hit: _Hit, place: int) -> Features:
        sequence = self.sequences[hit.sequence]
        found = {"first": place == 0}
        if kind not in _MAPS:
            found["last"] = place == len(hit.bodies) - 1
        found |= _item_features(kind, sequence.conversation, sequence.index, hit.path, hit.indices[place])
        around = features(sequence.conversation, sequence.index)
        if kind == "call":
            return {**around, **found}
        return {**found, "system": around["system"]}

    def _key(self, kind: str, hit: _Hit, index: int) -> tuple[tuple[str, bool], ...]:
        sequence = self.sequences[hit.sequence]
        return tuple(_item_features(kind, sequence.conversation, sequence.index, hit.path, index).items())


def _item_features(kind: str, conversation: Conversation, i: int, path: Path, index: int) -> Features:
    """What an item itself says, wherever it stands."""
    if kind == "argument":
        call = conversation.messages[i].calls[path[0][1]]
        return {"is_string": isinstance(list(call.arguments.values())[index], str)}
    if kind == "property":
        parameters = conversation.tools[path[0][1]]["function"]["parameters"]
        name, schema = list(parameters["properties"].items())[index]
        kinds = {f"type={kind}": schema["type"] == kind for kind in ("string", "integer", "number", "boolean")}
        return {"required": name in parameters["required"], **kinds}
    return {}


def _runs(pieces: Pieces, kind: str) -> list[list[int]]:
    """Runs of values of one loop over one list: the item's number never falls within a run."""
    runs: list[list[int]] = []
    for at, piece in enumerate(pieces):
        if not isinstance(piece, Atom) or all(step[0] != kind for step in piece.path):
            continue
        last = pieces[runs[-1][-1]] if runs else None
        same = last is not None and _around(last, kind) == _around(piece, kind)
        if last is not None and same and _index(piece, kind) >= _index(last, kind):
            runs[-1].append(at)
        else:
            runs.append([at])
    return runs


def _around(piece: str | Atom, kind: str) -> Path:
    return tuple(step for step in piece.path if step[0] != kind) if isinstance(piece, Atom) else ()


def _index(piece: str | Atom, kind: str) -> int:
    return next(step[1] for step in piece.path if step[0] == kind) if isinstance(piece, Atom) else -1


def _text(pieces: Pieces, at: int) -> str:
    piece = pieces[at] if 0 <= at < len(pieces) else ""
    return piece if isinstance(piece, str) else ""


def _item_opening(befores: set[str], gaps: set[str]) -> str:
    """The text in front of every item: common to what precedes the loop and the gaps within."""
    opening = min(
        (before[len(before) - _common_end(before, gap) :] for before in befores for gap in gaps),
        key=len,
        default="",
    )
    if not opening or opening[0] in "\"'":
        return opening
    whole = re.search(r"[\s<\[{(]", opening)  # never cut inside a token
    return opening[whole.start() :] if whole else ""


def _common(left: str, right: str) -> int:
    return len(os.path.commonprefix([left, right]))


def _common_end(left: str, right: str) -> int:
    return _common(left[::-1], right[::-1])
