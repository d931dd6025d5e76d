"""Takes the items of a loop out of a sequence; they become rows of a slot of their own.

An item is ``before + values + behind``, and separators stand between items. What is which shows where
a list has several items. Innermost loops go first, so that an item may hold a loop itself.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

from ggufpack.chat_template.budget import charge
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.learn.conversations import MARKS
from ggufpack.chat_template.learn.pieces import (
    Atom,
    Label,
    Loop,
    Mark,
    Path,
    Pieces,
    Value,
    common_prefix,
    common_suffix,
    joined,
    label,
    whole_tokens,
)
from ggufpack.chat_template.learn.slots import Sequence
from ggufpack.chat_template.learn.spans import PROPERTY_LOOPS, empty
from ggufpack.chat_template.learn.tables import Features, Row, features

KINDS = (
    "option",
    "inner2",
    "inner",
    "property",
    "argument",
    "definition",
    "call",
    "instruction",
)  # innermost first
# Of these loops Go knows which entry is the first, and not which is the last
_TYPES = ("string", "integer", "number", "boolean", "array", "object")
_MAPS = (*PROPERTY_LOOPS, "argument", "instruction")


_LEAK = re.compile(r"Qz\w|_\d+W", re.IGNORECASE)

# what an item begins and ends with, and its own features
_Key = tuple[str, str, tuple[tuple[str, bool], ...]]


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
        self.unknown: set[str] = set()  # slots with values in an unknown spelling
        self.required_loops: set[str] = set()
        self._deeper: dict[str, list[tuple[_Hit, list[_Key]]]] = {}
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
        self._merge_inner()
        clean = {slot: self._without_leaks(slot, rows) for slot, rows in self.rows.items()}
        return {slot: _with_types(_with_empty_values(rows)) for slot, rows in clean.items()}

    def _merge_inner(self) -> None:
        """Objects in objects are printed by one block that calls itself: two depths show its rows."""
        for name in [slot for slot in self.rows if slot.startswith("inner2")]:
            self.rows[name.replace("inner2", "inner")] += self.rows.pop(name)
        for name, rows in self.rows.items():
            if name.startswith("inner"):
                self.rows[name] = [replace(row, label=tuple(map(_as_inner, row.label))) for row in rows]

    def _without_leaks(self, slot: str, rows: list[Row]) -> list[Row]:
        """Rows without a sentinel in a text: a value in an unknown spelling, no text of its own."""
        clean = [row for row in rows if not any(isinstance(p, str) and _LEAK.search(p) for p in row.label)]
        if len(clean) < len(rows):
            self.unknown.add(slot)
        return clean or [replace(row, label=()) for row in rows[:1]]

    def _hits(self, kind: str) -> dict[str, list[_Hit]]:
        hits: dict[str, list[_Hit]] = defaultdict(list)
        all_runs = [_runs(sequence.pieces, kind) for sequence in self.sequences]
        known = _Known()
        for sequence, runs in zip(self.sequences, all_runs, strict=True):
            charge()
            for run in runs:
                known.add(sequence.pieces, run, kind)
        for number, sequence in enumerate(self.sequences):
            pieces = sequence.pieces
            runs = [part for run in all_runs[number] for part in _parts(pieces, run, kind, known)]
            occurrences: Counter[Path] = Counter()
            named = []
            for run in runs:
                around = _around(pieces[run[0]], kind)
                named.append((kind + "#" * occurrences[around], run))
                occurrences[around] += 1
            for name, run in named:
                charge()
                if hit := self._hit(number, pieces, run, kind):
                    hits[name].append(hit)
        return hits

    def _hit(self, number: int, pieces: Pieces, run: list[int], kind: str) -> _Hit | None:
        groups = [list(group) for _, group in groupby(run, key=lambda at: _index(pieces[at], kind))]
        gaps = [pieces[group[-1] + 1 : following[0]] for group, following in pairwise(groups)]
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
        if kind == "property" and self._over_required(hits):
            self.required_loops.add(name)
        keys = {id(hit): self._keys(kind, name, hit) for hit in hits}
        alike = [(hit, keys[id(hit)]) for hit in hits]
        deeper = self._deeper.get(name, [])
        if kind == "inner2":
            above = self._hits("inner").get(name.replace("inner2", "inner"), [])
            deeper = [(hit, self._keys("inner", name, hit)) for hit in above]
            self._deeper[name.replace("inner2", "inner")] = alike
        frame = _Frame([*alike, *deeper])
        for hit in sorted(hits, key=lambda hit: (hit.sequence, -hit.start)):
            charge()
            key = keys[id(hit)]
            gaps = ["", *hit.gaps, ""]
            for place, body in enumerate(hit.bodies):
                before, behind = frame.opening(key[place]), frame.ending(key[place])
                is_last = place == len(hit.bodies) - 1
                item: Pieces = [before, *body, behind]
                if kind in _MAPS:
                    item.insert(0, frame.separator(gaps[place], key[place - 1], key[place]) if place else "")
                elif not is_last:
                    item.append(frame.separator(gaps[place + 1], key[place], key[place + 1]))
                placed = [piece.outside(kind) if isinstance(piece, Atom) else piece for piece in item]
                found = self._features(kind, name, hit, place)
                self.rows[name].append(Row(found, label(joined(placed))))
            if kind == "argument":
                self._add_left_out(name, hit)
            self._replace(self.sequences[hit.sequence], hit, name, frame.opening(key[0]), behind)

    def _add_left_out(self, name: str, hit: _Hit) -> None:
        """Rows of the arguments that a template leaves out: those that are null."""
        sequence = self.sequences[hit.sequence]
        arguments = sequence.conversation.messages[sequence.index].calls[hit.path[0][1]].arguments
        for index, value in enumerate(arguments.values()):
            if value is None and index not in hit.indices:
                own = _item_features("argument", sequence.conversation, sequence.index, hit.path, index)
                around = features(sequence.conversation, sequence.index)
                self.rows[name].append(Row({"first": index == 0, **own, "system": around["system"]}, ()))

    def _over_required(self, hits: list[_Hit]) -> bool:
        """Whether a loop over properties meets the required ones only."""
        partial = False
        for hit in hits:
            tool = self.sequences[hit.sequence].conversation.tools[hit.path[0][1]]
            parameters = tool["function"]["parameters"]
            names = list(parameters["properties"])
            met = [names[index] for index in hit.indices]
            if met != parameters.get("required", []):
                return False
            partial = partial or met != names
        return partial

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

    def _features(self, kind: str, name: str, hit: _Hit, place: int) -> Features:
        sequence = self.sequences[hit.sequence]
        found = {"first": place == 0}
        if kind not in _MAPS:
            found["last"] = place == len(hit.bodies) - 1
        found |= self._own(kind, name, hit, place)
        around = features(sequence.conversation, sequence.index)
        if kind == "call":
            return {**around, **found}
        if kind in PROPERTY_LOOPS[1:]:
            return found  # a block of its own, which sees nothing else
        return {**found, "system": around["system"]}

    def _own(self, kind: str, name: str, hit: _Hit, place: int) -> Features:
        if name in self.required_loops:
            return {}
        sequence = self.sequences[hit.sequence]
        return _item_features(kind, sequence.conversation, sequence.index, hit.path, hit.indices[place])

    def _keys(self, kind: str, name: str, hit: _Hit) -> list[_Key]:
        return [
            (str(label(body[:1])), str(label(body[-1:])), tuple(self._own(kind, name, hit, place).items()))
            for place, body in enumerate(hit.bodies)
        ]


class _Frame:
    """What stands around the items of a loop: an opening, an ending, and separators between.

    What precedes an item in a gap depends on that item, what follows it on the one before; the rest
    is the separator. Items that stand both at an edge of their list and inside show where openings
    begin and endings end; those that do not are measured by what these leave over.
    """

    def __init__(self, hits: list[tuple[_Hit, list[_Key]]]) -> None:
        self._gaps = [
            (before, gap, behind)
            for hit, keys in hits
            for before, gap, behind in zip(keys, hit.gaps, keys[1:], strict=False)
        ]
        befores: dict[_Key, set[str]] = defaultdict(set)
        behinds: dict[_Key, set[str]] = defaultdict(set)
        for hit, keys in hits:
            befores[keys[0]].add(hit.before)
            behinds[keys[-1]].add(hit.behind)
        self._openings: dict[_Key, str] = {}
        self._endings: dict[_Key, str] = {}
        self._find_openings(befores)
        self._find_endings(behinds)
        self._find_inner(set(befores), set(behinds))

    def _find_openings(self, befores: dict[_Key, set[str]]) -> None:
        gaps: dict[_Key, set[str]] = defaultdict(set)
        for _, gap, key in self._gaps:
            gaps[key].add(gap)
        for key, texts in gaps.items():
            self._openings[key] = whole_tokens(common_suffix(texts | befores.get(key, set())))
        outer = {
            text[: len(text) - len(self._openings[key])] for key in gaps for text in befores.get(key, ())
        }
        for key, texts in befores.items():
            if key not in gaps:
                left = [
                    max((o for o in outer if text.startswith(o)), key=len, default=text) for text in texts
                ]
                own = {text[len(o) :] for text, o in zip(texts, left, strict=True)}
                fitting = [o for o in self._openings.values() if all(text.endswith(o) for text in texts)]
                found = own.pop() if len(own) == 1 else ""
                self._openings[key] = found or max(fitting, key=len, default="")

    def _find_endings(self, behinds: dict[_Key, set[str]]) -> None:
        rests: dict[_Key, set[str]] = defaultdict(set)
        for key, gap, behind in self._gaps:
            rests[key].add(gap[: len(gap) - len(self._openings[behind])])
        for key, texts in rests.items():
            self._endings[key] = common_prefix(texts | behinds.get(key, set()))
        outer = {text[len(self._endings[key]) :] for key in rests for text in behinds.get(key, ())}
        for key, texts in behinds.items():
            if key not in rests:
                right = [max((o for o in outer if text.endswith(o)), key=len, default=text) for text in texts]
                own = {text[: len(text) - len(o)] for text, o in zip(texts, right, strict=True)}
                fitting = [e for e in self._endings.values() if all(text.startswith(e) for text in texts)]
                found = own.pop() if len(own) == 1 else ""
                self._endings[key] = found or max(fitting, key=len, default="")

    def _find_inner(self, first: set[_Key], last: set[_Key]) -> None:
        """Items that are never first, or never last: their gaps hold the separator that others have."""
        known = Counter(
            self.separator(gap, before, behind)
            for before, gap, behind in self._gaps
            if before in last and behind in first
        )
        if len(known) != 1:
            return
        (separator,) = known
        for before, gap, behind in self._gaps:
            if before in last and behind not in first:
                rest = gap.removeprefix(self._endings[before])
                if rest.startswith(separator):
                    self._openings[behind] = rest.removeprefix(separator)
        for before, gap, behind in self._gaps:
            if before not in last:
                rest = gap.removesuffix(self._openings[behind])
                if rest.endswith(separator):
                    self._endings[before] = rest.removesuffix(separator)

    def opening(self, key: _Key) -> str:
        """In front of an item."""
        return self._openings.get(key, "")

    def ending(self, key: _Key) -> str:
        """Behind an item."""
        return self._endings.get(key, "")

    def separator(self, gap: str, before: _Key, behind: _Key) -> str:
        """What is left of a gap between two items."""
        return gap[len(self.ending(before)) : len(gap) - len(self.opening(behind))]


def _item_features(kind: str, conversation: Conversation, i: int, path: Path, index: int) -> Features:
    """What an item itself says, wherever it stands."""
    if kind == "argument":
        call = conversation.messages[i].calls[path[0][1]]
        value = list(call.arguments.values())[index]
        types = {"is_string": str, "is_map": dict, "is_list": list, "is_bool": bool, "is_none": type(None)}
        found = {name: isinstance(value, known) for name, known in types.items()}
        found["is_true"] = value is True
        marks = {f"has {mark!r}": isinstance(value, str) and mark in value for mark in MARKS}
        return {**found, "is_number": not any(found.values()), **marks}
    if kind in PROPERTY_LOOPS:
        parameters = conversation.tools[path[0][1]]["function"]["parameters"]
        for _, place in path[1:]:
            parameters = list(parameters["properties"].values())[place]
        name, schema = list(parameters["properties"].items())[index]
        kinds = {f"type={known}": schema["type"] == known for known in _TYPES}
        return {
            "required": name in parameters.get("required", ()),
            "described": "description" in schema,
            "options": "enum" in schema,
            "inner": bool(schema.get("properties")),
            "inner_required": bool(schema.get("required")),
            **kinds,
            **{f"items={known}": schema.get("items", {}).get("type") == known for known in _TYPES},
        }
    if kind == "call":
        return {"arguments": bool(conversation.messages[i].calls[index].arguments)}
    if kind == "definition":
        parameters = conversation.tools[index]["function"]["parameters"]
        return {
            "properties": bool(parameters["properties"]),
            "required_names": bool(parameters.get("required")),
        }
    return {}


def _as_inner(mark: Any) -> Any:
    return Loop(mark.name.replace("inner2", "inner")) if isinstance(mark, Loop) else mark


def _with_empty_values(rows: list[Row]) -> list[Row]:
    """Rows in which an empty value is that value, and no text, where others have it filled."""
    known: dict[Label, Label] = {}
    silent: dict[tuple[Label, str], Label] = {}
    for row in rows:
        for place, mark in enumerate(row.label):
            if isinstance(mark, Value) and (text := empty(mark)):
                known[_spelled_out(row.label, place, text)] = row.label
            if isinstance(mark, Value) and mark.spelling == "raw" and mark.kind in ("content", "thinking"):
                silent[_spelled_out(row.label, place, ""), mark.kind] = row.label
    found = []
    for row in rows:
        absent = [name for name in ("content", "thinking") if row.features.get(name) is False]
        labels = (silent[row.label, name] for name in absent if (row.label, name) in silent)
        found.append(replace(row, label=next(labels, known.get(row.label, row.label))))
    return found


_TYPE_KINDS = {"property_type": "type", "items_type": "items"}


def _with_types(rows: list[Row]) -> list[Row]:
    """Rows in which the name of a type is that value, and no text, where others print an unknown one."""
    known: dict[tuple[Label, str], Label] = {}
    for row in rows:
        for place, mark in enumerate(row.label):
            if isinstance(mark, Value) and mark.kind in _TYPE_KINDS and mark.spelling in ("raw", "quoted"):
                for kind in _TYPES:
                    text = f'"{kind}"' if mark.spelling == "quoted" else kind
                    feature = f"{_TYPE_KINDS[mark.kind]}={kind}"
                    known[_spelled_out(row.label, place, text), feature] = row.label
    found = []
    for row in rows:
        holding = [name for name, holds in row.features.items() if holds and "=" in name]
        labels = (known[row.label, name] for name in holding if (row.label, name) in known)
        found.append(replace(row, label=next(labels, row.label)))
    return found


def _spelled_out(found: Label, place: int, text: str) -> Label:
    pieces: Any = [*found[:place], text, *found[place + 1 :]]
    spelled: Any = joined(pieces)
    return tuple(spelled)


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


class _Known:
    """How the items of runs look where nothing is doubtful: all but a run's last item."""

    def __init__(self) -> None:
        self.first: set[Mark] = set()  # what items begin with
        self.pairs: set[tuple[Mark, Mark]] = set()  # neighbours within an item
        self.repeated: set[Mark] = set()  # what an item holds more than once

    def add(self, pieces: Pieces, run: list[int], kind: str) -> None:
        """Look at a run."""
        groups = [list(group) for _, group in groupby(run, key=lambda at: _index(pieces[at], kind))]
        for group in groups[:-1]:
            marks = [piece.mark for piece in (pieces[at] for at in group) if isinstance(piece, Atom)]
            self.first.add(marks[0])
            self.pairs.update(pairwise(marks))
            self.repeated.update(mark for mark, count in Counter(marks).items() if count > 1)

    def parts(self, before: Mark, mark: Mark, seen: set[Mark]) -> bool:
        """Whether a second loop begins with ``mark``."""
        if mark in seen:
            return mark not in self.repeated
        return mark in self.first and bool(seen & self.first) and (before, mark) not in self.pairs


def _parts(pieces: Pieces, run: list[int], kind: str, known: _Known) -> list[list[int]]:
    """A run, parted where it is two loops over one list.

    A second loop over the same list mostly begins at an earlier item, and is a run of its own; but
    not when the list has one item, or when it meets only the last.
    """
    last = _index(pieces[run[-1]], kind)
    parts: list[list[int]] = [[]]
    seen: set[Mark] = set()
    before: Mark = Loop("")
    for at in run:
        piece = pieces[at]
        if isinstance(piece, Atom) and _index(piece, kind) == last:
            if known.parts(before, piece.mark, seen):
                parts.append([])
                seen = set()
            seen.add(piece.mark)
            before = piece.mark
        parts[-1].append(at)
    return parts


def _around(piece: str | Atom, kind: str) -> Path:
    return tuple(step for step in piece.path if step[0] != kind) if isinstance(piece, Atom) else ()


def _index(piece: str | Atom, kind: str) -> int:
    return next(step[1] for step in piece.path if step[0] == kind) if isinstance(piece, Atom) else -1


def _text(pieces: Pieces, at: int) -> str:
    piece = pieces[at] if 0 <= at < len(pieces) else ""
    return piece if isinstance(piece, str) else ""
