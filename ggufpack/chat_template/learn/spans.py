"""Finds the sentinels of a conversation in its render, in every spelling that a template may choose.

The longest spelling wins: a whole tool list printed as JSON is one value, and so is a single
description. What is found inside no object is found by itself.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ggufpack.chat_template.budget import charge
from ggufpack.chat_template.conversation import Conversation, Json
from ggufpack.chat_template.learn.conversations import LEFT, RIGHT
from ggufpack.chat_template.learn.pieces import Atom, Path, Piece, Value
from ggufpack.chat_template.learn.values import Spelling
from ggufpack.chat_template.traits import DATE_MARK

# Styles of a JSON object, most likely first. Two styles may spell a small object alike: ``settle``.
STYLES: dict[str, dict[str, Any]] = {
    "python": {},
    "compact": {"separators": (",", ":")},
    "indent4": {"indent": 4},
    "indent2": {"indent": 2},
    "ascii": {"ensure_ascii": True},
    "sorted": {"sort_keys": True},
    "compact-sorted": {"separators": (",", ":"), "sort_keys": True},
}
_WORDS = {
    True: re.compile(r"\b[Tt]rue\b"),
    False: re.compile(r"\b[Ff]alse\b"),
    None: re.compile(r"\b([Nn]one|null)\b"),
}
# Loops over properties, over the properties of one that is an object, and over those of one of these.
PROPERTY_LOOPS = ("property", "inner", "inner2")
_DOUBLE_INDENT = re.compile(r"\n +")
_EMPTY = re.compile(r"(\")?\{\}(?(1)\")")
_NEAR = 120
_TOKEN = re.compile(r"Qz[^\sW]*?W|(?<!\d)7\d{3}(?!\d)")
_EDGES = {"": (LEFT, RIGHT), "newlines": (LEFT.lstrip("\n"), RIGHT.rstrip("\n")), "all": ("", "")}


class LearningError(Exception):
    """This conversation cannot be learned from; says why."""


@dataclass(frozen=True)
class Span:
    """An atom and where it stands in the render."""

    start: int
    end: int
    atom: Atom


class Spellings:
    """Every spelling of every value of a conversation."""

    def __init__(
        self,
        conversation: Conversation,
        gathered: bool,
        last_only: bool = False,
        spelling: Spelling | None = None,
    ) -> None:
        # token -> (text, where the token stands in it, value, owner, path)
        self._by_token: dict[str, list[_Placed]] = defaultdict(list)
        self._conversation = conversation
        self._gathered = gathered
        self._last_only = last_only
        self._spelling = spelling
        self._add_tools()
        self._add_messages()
        for spelled in self._by_token.values():
            spelled.sort(key=lambda found: -len(found[0]))

    def find(self, text: str) -> list[Span]:
        """The values in ``text``, in order; none overlap."""
        found: list[Span] = []
        end = 0
        for token in _TOKEN.finditer(text):
            charge()
            if token.start() < end:
                continue
            if date := DATE_MARK.match(text, token.start()):
                atom = Atom(None, (), Value("date", date[1]))
                found.append(Span(date.start(), date.end(), atom))
                end = date.end()
                continue
            for spelled, offset, value, owner, path in self._by_token.get(token[0], ()):
                start = token.start() - offset
                if start >= end and text.startswith(spelled, start):
                    end = start + len(spelled)
                    found.append(Span(start, end, Atom(owner, path, value)))
                    break
        return found

    def _place(self, candidates: tuple[_Candidate, ...], owner: int | None, path: Path) -> None:
        for token, text, offset, value in candidates:
            self._by_token[token].append((text, offset, value, owner, path))

    def _object(self, value: Any, owner: int | None, path: Path, kind: str) -> None:
        self._place(_object_candidates(json.dumps(value), kind), owner, path)

    def _text(self, text: str, owner: int | None, path: Path, kind: str) -> None:
        self._place(_text_candidates(text, kind), owner, path)

    def _add_tools(self) -> None:
        tools = self._conversation.tools
        if not tools:
            return
        self._object(list(tools), None, (), "tools")
        self._object([tool["function"] for tool in tools], None, (), "functions")
        for j, tool in enumerate(tools):
            path: Path = (("definition", j),)
            function = tool["function"]
            parameters = function["parameters"]
            for kind, value in (
                ("tool", tool),
                ("function", function),
                ("parameters", parameters),
                ("properties", parameters["properties"]),
                ("required", parameters.get("required", [])),
            ):
                self._object(value, None, path, kind)
            self._text(function["name"], None, path, "tool_name")
            self._text(function["description"], None, path, "tool_description")
            self._add_properties(parameters["properties"], path, PROPERTY_LOOPS)

    def _add_properties(self, properties: Json, around: Path, loops: tuple[str, ...]) -> None:
        for k, (name, schema) in enumerate(properties.items()):
            path: Path = (*around, (loops[0], k))
            self._object(schema, None, path, "property")
            self._text(name, None, path, "property_name")
            self._text(schema.get("description", ""), None, path, "property_description")
            self._text(schema["type"], None, path, "property_type")
            self._text(schema.get("items", {}).get("type", ""), None, path, "items_type")
            self._object(schema.get("items", {}), None, path, "items")
            self._object(schema.get("enum", []), None, path, "options")
            self._object(schema.get("properties", {}), None, path, "inner_properties")
            self._object(schema.get("required", []), None, path, "inner_required")
            for e, option in enumerate(schema.get("enum", ())):
                self._text(option, None, (*path, ("option", e)), "option")
            if loops[1:]:
                self._add_properties(schema.get("properties", {}), path, loops[1:])

    def _add_messages(self) -> None:
        systems = 0
        last = max((i for i, m in enumerate(self._conversation.messages) if m.role == "system"), default=-1)
        for i, message in enumerate(self._conversation.messages):
            if message.role == "system" and self._last_only:
                if i == last:
                    self._text(message.content, None, (), "last_system")
                continue
            if message.role == "system" and (i == 0 or self._gathered):
                path: Path = (("instruction", systems),) if self._gathered else ()
                self._text(message.content, None, path, "system")
                systems += 1
                continue
            self._text(message.content, i, (), "content")
            self._text(message.thinking, i, (), "thinking")
            for j, call in enumerate(message.calls):
                path = (("call", j),)
                self._text(call.id, i, path, "call_id")
                self._text(call.name, i, path, "call_name")
                arguments = dict(call.arguments)
                self._object(arguments, i, path, "arguments")
                self._place(_string_candidates(json.dumps(arguments, ensure_ascii=False)), i, path)
                for k, (key, value) in enumerate(arguments.items()):
                    inner = (*path, ("argument", k))
                    self._text(key, i, inner, "key")
                    if isinstance(value, str):
                        self._text(value, i, inner, "value")
                    else:
                        self._object(value, i, inner, "value")
                        if self._spelling is not None:
                            own = self._spelling.spell(value)
                            self._place(_candidate(own, Value("value", "own")), i, inner)
            if message.role == "tool":
                # a result without a call of its own; others are told apart from their calls later
                self._text(message.tool_call_id, i, (), "result_id")
                self._text(message.tool_name, i, (), "result_name")


_Placed = tuple[str, int, Value, "int | None", Path]
_Candidate = tuple[str, str, int, Value]  # token, text, where the token stands in it, value


def _candidate(text: str, value: Value) -> tuple[_Candidate, ...]:
    token = _TOKEN.search(text)
    return () if token is None else ((token[0], text, token.start(), value),)


@lru_cache(maxsize=8192)
def _object_candidates(dumped: str, kind: str) -> tuple[_Candidate, ...]:
    found: list[_Candidate] = []
    for text, styles in _spelled(dumped):
        found += _candidate(text, Value(kind, styles))
    return tuple(found)


@lru_cache(maxsize=1024)
def _string_candidates(arguments: str) -> tuple[_Candidate, ...]:
    """A JSON object inside a JSON string."""
    found: list[_Candidate] = []
    for ascii_only in (False, True):
        found += _candidate(json.dumps(arguments, ensure_ascii=ascii_only), Value("arguments", "string"))
    return tuple(found)


@lru_cache(maxsize=8192)
def _text_candidates(text: str, kind: str) -> tuple[_Candidate, ...]:
    """A text in every spelling, trimmed in every way."""
    found: dict[str, _Candidate] = {}
    core = text.removeprefix(LEFT).removesuffix(RIGHT)
    edges = list(_EDGES) if core != text else [""]
    for left in edges:
        for right in edges:
            trimmed = _EDGES[left][0] + core + _EDGES[right][1] if core != text else text
            for spelling, spelled in (("raw", trimmed), *_text_spellings(trimmed)):
                for candidate in _candidate(spelled, Value(kind, spelling, left, right)):
                    found.setdefault(spelled, candidate)
    return tuple(found.values())


def _text_spellings(text: str) -> Iterator[tuple[str, str]]:
    if not text:
        return
    quoted = json.dumps(text, ensure_ascii=False)
    yield "quoted", quoted
    if not text.isascii():
        yield "quoted", json.dumps(text)
        yield "raw", json.dumps(text)[1:-1]
    yield "repr", repr(text)
    yield "html", _escaped(text)


@lru_cache(maxsize=4096)
def _spelled(dumped: str) -> tuple[tuple[str, str], ...]:
    """``(text, styles)`` of the value that ``dumped`` holds; small values look alike in several."""
    value = json.loads(dumped)
    found: dict[str, list[str]] = defaultdict(list)
    indented = ""
    for style, options in STYLES.items():
        if style == "indent2":  # half of the one before; Python's own writer of indents is slow
            text = _DOUBLE_INDENT.sub(lambda blanks: blanks[0][: 1 + len(blanks[0]) // 2], indented)
        else:
            text = json.dumps(value, **{"ensure_ascii": False, **options})
        indented = text if style == "indent4" else indented
        found[text].append(style)
        found[_escaped(text)].append("html-" + style)
        if "indent" in options and "\n" in text:
            for depth in range(1, 5):
                inner = text.replace("\n", "\n" + " " * options["indent"] * depth)
                found[inner].append(f"{style}@{depth}")
    found[str(value)].append("repr")
    return tuple((text, "|".join(styles)) for text, styles in found.items())


def _escaped(text: str) -> str:
    """HTML's escapes, as Jinja writes them and Go does."""
    return html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def empty(value: Value) -> str:
    """What an object of this kind is printed as when it holds nothing; no sentinel shows that."""
    whole: Any = {"arguments": {}, "properties": {}, "required": []}.get(value.kind)
    if value.kind == "parameters":
        whole = {"type": "object", "properties": {}}
    if whole is None:
        return ""
    if value.spelling == "string":
        return json.dumps(json.dumps(whole))
    spelled = _spelled(json.dumps(whole))
    return next((text for text, styles in spelled if value.spelling in styles.split("|")), "")


def settle(sequences: Iterable[list[Piece]]) -> None:
    """Give each object one style: of those that its text allows, what most of its kind have."""
    sequences = list(sequences)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pieces in sequences:
        for piece in pieces:
            if isinstance(piece, Atom) and isinstance(piece.mark, Value):
                # an object that allows one style says more than many that allow all
                styles = piece.mark.spelling.split("|")
                counts[piece.mark.kind].update({style: 1 + 100 * (len(styles) == 1) for style in styles})
    for pieces in sequences:
        for at, piece in enumerate(pieces):
            if isinstance(piece, Atom) and isinstance(piece.mark, Value) and "|" in piece.mark.spelling:
                known = counts[piece.mark.kind]
                style = max(piece.mark.spelling.split("|"), key=known.__getitem__)
                pieces[at] = replace(piece, mark=replace(piece.mark, spelling=style))


@dataclass(frozen=True)
class CallStyle:
    """What a template prints of a call.

    Attributes:
        ids: its id.
        names: how often its name: of the only call in a message, of the first of several, of others.
        whole: its arguments as one object.
    """

    ids: bool
    names: tuple[int, int, int]
    whole: bool

    def own(self, kind: str, place: int, calls: int) -> int:
        """How often an id or a name stands for the call itself, and not for its result."""
        if kind == "call_id":
            return int(self.ids)
        return self.names[0 if calls == 1 else 1 if place == 0 else 2]


def find_spans(spellings: Spellings, text: str, conversation: Conversation, style: CallStyle) -> list[Span]:
    """The spans of a render, with what a result repeats of its call given to the result.

    Raises:
        LearningError: messages are not printed in order.
    """
    spans = _with_words(spellings.find(text), text, conversation)
    if style.whole:
        spans = _with_empty_arguments(spans, text, conversation)
    current = -1
    seen: Counter[tuple[object, ...]] = Counter()
    found: list[Span] = []
    for index, span in enumerate(spans):
        atom = span.atom
        if _kind(atom) in ("call_id", "call_name") and atom.owner is not None:
            calls = len(conversation.messages[atom.owner].calls)
            own = style.own(_kind(atom), atom.path[0][1], calls)
            place = (atom.owner, atom.path, _kind(atom))
            again = seen[place] >= own or current > atom.owner
            repeated = _repeated_by_result(atom, spans[index + 1 :], found, conversation, current)
            if again and repeated is not None:
                atom = repeated
            else:
                seen[place] += 1
        if atom.owner is not None:
            if atom.owner < current:
                raise LearningError("messages are not printed in order")
            current = atom.owner
        found.append(Span(span.start, span.end, atom))
    return found


def _with_words(spans: list[Span], text: str, conversation: Conversation) -> list[Span]:
    """With the spans of arguments that are true, false or null, which stand behind their keys."""
    found: list[Span] = []
    for place, span in enumerate(spans):
        found.append(span)
        atom = span.atom
        if _kind(atom) != "key" or atom.owner is None:
            continue
        (_, j), (_, k) = atom.path
        value = list(conversation.messages[atom.owner].calls[j].arguments.values())[k]
        if not isinstance(value, bool) and value is not None:
            continue
        limit = spans[place + 1].start if place + 1 < len(spans) else len(text)
        words = list(_WORDS[value].finditer(text, span.end, min(limit, span.end + _NEAR)))
        if words:
            word = words[-1]  # the first may name the type
            mark = Value("value", "|".join(STYLES))
            if word[0][0].isupper():
                mark = Value("none" if value is None else "flag", "python")
            found.append(Span(word.start(), word.end(), replace(atom, mark=mark)))
    return found


def _with_empty_arguments(spans: list[Span], text: str, conversation: Conversation) -> list[Span]:
    """With the empty objects of calls without arguments: behind the call's name or id, or before."""
    found = list(spans)
    calls = {
        (i, (("call", j),)): call
        for i, message in enumerate(conversation.messages)
        for j, call in enumerate(message.calls)
    }
    for place, call in calls.items():
        own = [at for at, span in enumerate(spans) if (span.atom.owner, span.atom.path) == place]
        if call.arguments or not own:
            continue
        starts = [*(span.start for span in spans), len(text)]
        gaps = [(spans[at].end, min(starts[at + 1], spans[at].end + _NEAR)) for at in own]
        before = spans[own[0] - 1].end if own[0] else 0
        gaps.append((max(before, starts[own[0]] - _NEAR), starts[own[0]]))
        if word := next(filter(None, (_EMPTY.search(text, *gap) for gap in gaps)), None):
            mark = Value("arguments", "string" if word[1] else "|".join(STYLES))
            found.append(Span(word.start(), word.end(), Atom(*place, mark)))
    return sorted(found, key=lambda span: span.start)


def _kind(atom: Atom) -> str:
    return atom.mark.kind if isinstance(atom.mark, Value) else ""


def _repeated_by_result(
    atom: Atom, following: list[Span], found: list[Span], conversation: Conversation, current: int
) -> Atom | None:
    """A call's id or name as a result's own, or as that of the call before it."""
    messages = conversation.messages
    assert atom.owner is not None and isinstance(atom.mark, Value)  # noqa: S101  the caller has asked
    number = atom.path[0][1]
    call = messages[atom.owner].calls[number]
    results = [
        i
        for i, message in enumerate(messages)
        if message.role == "tool" and (message.tool_call_id == call.id or message.tool_name == call.name)
    ]
    if not results:
        return None
    kind = {"call_id": "result_id", "call_name": "result_name"}[_kind(atom)]
    ahead = [span.atom.owner for span in following if _kind(span.atom) == "content"]
    coming = next((owner for owner in ahead if owner is not None), None)
    others = coming is not None and messages[coming].role == "tool" and coming not in results
    if others and coming is not None and number == 0 and current >= results[0] and kind == "result_name":
        return Atom(coming, (), replace(atom.mark, kind="first_call_name"))
    printed = any(span.atom.owner == current and _kind(span.atom) == kind for span in found)
    if coming in results and (current not in results or printed):
        owner = coming
    else:
        owner = current if current in results else results[0]
    return Atom(owner, (), replace(atom.mark, kind=kind))
