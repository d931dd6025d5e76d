"""Conversations whose every text is a sentinel, so that a render shows where each one went.

A *shape* is a list of turns: ``s`` system, ``u`` user, ``T`` a tool's result; anything else is the
assistant's: ``a`` text, ``t`` thinking, ``c`` a call (``acc``: text and two calls), ``-`` nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

from ggufpack.chat_template.conversation import Conversation, Json, Message, ToolCall
from ggufpack.chat_template.traits import Traits

Shape = tuple[str, ...]

# White space at the edges of every content: a template that trims shows it. No template's own text
# begins or ends like this, not even with a line break or two of its own in between.
LEFT, RIGHT = "\n\n\n \t", "\t \n\n\n"

# Shows how a text is quoted and escaped: each of JSON, repr, HTML and none writes it differently.
_SUFFIX = "'\"é"

# What makes some templates wrap or escape a text.
MARKS = ("<", "&", "\n")
NUMBER_BASE = 7000
_ARGUMENT_COUNTS = (2, 1, 1, 3, 0, 2, 1)
_SEED = 0
_CONVERSATIONS = 150
_LONGEST = 8
_NO_TOOLS = 6
_TOOL_SETS: tuple[tuple[int, ...], ...] = (
    (0,),
    (0, 1),
    (0, 1, 2),
    (2, 3),
    (3, 0),
    (1,),
    (4, 5),
    (5, 2, 4),
    (6,),
    (6, 0),
    (1, 6, 2),
)


@dataclass(frozen=True)
class _Property:
    """What may change how a property is printed."""

    type: str
    required: bool
    described: bool = True
    options: bool = False
    inner: tuple[_Property, ...] = ()  # of an object
    items: str = "string"  # of an array


_UNKNOWN = "unknown"
_TYPES = ("string", "integer", "number", "boolean", "array")
_INNER = (
    (_Property("string", True),),
    (_Property("boolean", False), _Property("string", True)),
    (_Property("integer", True), _Property("number", False, False), _Property("string", False, True, True)),
    (_Property("number", False),),
    (
        _Property("object", True, inner=(_Property("string", False), _Property("boolean", True))),
        _Property("string", True),
    ),
    (
        _Property("array", False),
        _Property(
            "object", False, inner=(_Property("string", True, True, True), _Property("integer", False))
        ),
        _Property("object", True, inner=(_Property("array", True, False),)),
    ),
)
# each alone, and so both the first and the last of its tool
_SINGLE = [
    _Property(kind, required, described, options)
    for kind in _TYPES
    for required in (True, False)
    for described in (True, False)
    for options in ((False, True) if kind == "string" else (False,))
]
_SINGLE += [
    _Property("object", required, described, inner=inner)
    for described in (True, False)
    for required, inner in zip((True, False, True, False, True, False), _INNER, strict=True)
]
_SINGLE += [
    _Property("array", required, items=kind)
    for kind in (*_TYPES[1:4], "object", _UNKNOWN)
    for required in (True, False)
]
# of a type that no template knows: its name shows where it is printed, what is printed else is the default
_SINGLE += [
    _Property(_UNKNOWN, required, described) for required in (True, False) for described in (True, False)
]


def _property_sets() -> list[tuple[_Property, ...]]:
    source = random.Random(_SEED)  # noqa: S311  reproducible, not secret
    string, integer, optional, number = (
        _Property("string", True),
        _Property("integer", False),
        _Property("string", False),
        _Property("integer", True),
    )
    mixed = [
        (string, integer),
        (integer, number),
        (number, optional, string, integer),
        (optional, string, number),
        (optional, _Property("boolean", True), _Property("number", False)),
        (_Property("number", True), number, _Property("boolean", False)),
        (),
    ]
    sets: list[tuple[_Property, ...]] = [(single,) for single in _SINGLE]
    for single in _SINGLE:
        alike = [p for p in _SINGLE if _group(p) == _group(single)]
        sets += [(single, source.choice(alike)), (source.choice(alike), single)]
    # within objects the same, no deeper than they are found
    sets += [
        (_Property("object", place % 2 == 0, place % 3 > 0, inner=found), string, integer)
        for place, found in enumerate(list(sets))
        if not any(deeper.inner for single in found for deeper in single.inner)
    ]
    sets += [tuple(source.sample(_SINGLE, 3)) for _ in range(len(_SINGLE) // 2)]
    # some templates refuse unknown types, objects, or properties without a description: those stand together
    sets.sort(
        key=lambda found: (
            _has_unknown(found),
            any(p.inner for p in found),
            not all(p.described for p in found),
        )
    )
    return [*mixed, *sets]


def _group(single: _Property) -> tuple[bool, bool, bool]:
    return single.described, bool(single.inner), _UNKNOWN in (single.type, single.items)


def _has_unknown(found: Sequence[_Property]) -> bool:
    return any(_UNKNOWN in (p.type, p.items) or _has_unknown(p.inner) for p in found)


_PROPERTIES = _property_sets()
_SCHEMAS_A_CONVERSATION = 6
_PLAIN_SETS = next(place for place, found in enumerate(_PROPERTIES) if any(p.inner for p in found))


def sentinel(*parts: object) -> str:
    """A text that no template prints by itself."""
    return "Qz" + "_".join(map(str, parts)) + "W"


@dataclass(frozen=True)
class Sample:
    """A conversation of sentinels and the shape it has."""

    shape: Shape
    conversation: Conversation


def samples(traits: Traits, capabilities: frozenset[str]) -> Iterator[Sample]:
    """The conversations that are learned from: chosen ones first, then seeded random ones."""
    source = random.Random(_SEED)  # noqa: S311  reproducible, not secret
    none = [()] * (_NO_TOOLS * (traits.chat == "plain"))
    needs_tools = traits.chat == "with-tools"
    if "tools" in capabilities or needs_tools:
        numbers = range(len(_PROPERTIES))
        for start in range(0, len(numbers), _SCHEMAS_A_CONVERSATION):
            tools = tuple(tool(number) for number in numbers[start : start + _SCHEMAS_A_CONVERSATION])
            for short in (("u", "a", "u"), ("u",))[: 1 if start >= _PLAIN_SETS else 2]:
                yield Sample(short, Conversation("schemas", tuple(_messages(short)), tools))
    seen: set[tuple[Shape, tuple[int, ...], bool | None]] = set()
    offers = (*none, *_TOOL_SETS) if "tools" in capabilities or needs_tools else ((),)
    thinks = (None, True, False) if "thinking" in capabilities and traits.switches else (None,)
    # what people ask most is seen with and without tools, in every state of the switch
    common = (
        (shape, (offered,), (think,))
        for shape in _common_shapes(traits, capabilities)
        for offered in ([*none[:1], _TOOL_SETS[1]] if len(offers) > 1 else offers)
        for think in thinks
    )
    shapes = ((shape, offers, thinks) for shape in _shapes(source, traits, capabilities))
    rare = ((shape, none[:1], thinks) for shape in _rare_shapes(traits, capabilities) if none)
    thoughts = _thinking_shapes(((),)) if "thinking" in capabilities and none else ()
    switched = ((shape, none[:1], (think,)) for shape in thoughts for think in thinks)
    for shape, offered, states in chain(common, shapes, rare, switched):
        chosen, think = source.choice(offered), source.choice(states)
        if (shape, chosen, think) in seen:
            continue
        seen.add((shape, chosen, think))
        tools = tuple(tool(number) for number in chosen)
        yield Sample(shape, Conversation("/".join(shape), tuple(_messages(shape, len(seen))), tools, think))


def samples_to_empty(traits: Traits, capabilities: frozenset[str]) -> Iterator[tuple[Sample, int]]:
    """Samples, and the message of each that is to be seen without text, too."""
    system = "system" in capabilities and traits.system != "raises"
    chosen = [("u", 0), ("u a u", 0), ("u a u", 2), ("u a u", 1), ("u a u a u", 3)]
    chosen += [("s u", 0), ("s u a u", 0), ("s u", 1), ("s u a u", 2)] * system
    chosen += [("u at u", 1)] * ("thinking" in capabilities)
    offers = [()] * (traits.chat == "plain") + [(0, 1)] * ("tools" in capabilities)
    thinks = (None, True, False) if "thinking" in capabilities and traits.switches else (None,)
    for turns, i in chosen:
        shape = tuple(turns.split())
        for chosen_tools in offers if shape[i] != "u" or traits.chat != "plain" else offers[:1]:
            for think in thinks if len(shape) < 4 else thinks[:1]:
                tools = tuple(tool(number) for number in chosen_tools)
                yield Sample(shape, Conversation(turns, tuple(_messages(shape)), tools, think)), i


def tool(number: int) -> Json:
    """A tool definition of sentinels."""
    parameters = _object_schema(_PROPERTIES[number], (number,))
    function = {
        "name": sentinel("tn", number),
        "description": sentinel("td", number) + _SUFFIX,
        "parameters": parameters,
    }
    return {"type": "function", "function": function}


def _object_schema(properties: Sequence[_Property], place: tuple[int, ...]) -> dict[str, Any]:
    """A schema of sentinels; ``place`` tells it from all others."""
    schemas: dict[str, Any] = {}
    required = []
    for k, kind in enumerate(properties):
        name = sentinel("pk", *place, k)
        schema: dict[str, Any] = {"type": _type_name(kind.type, *place, k)}
        if kind.type == "array":
            schema["items"] = {"type": _type_name(kind.items, *place, k, "i")}
        if kind.described:
            schema["description"] = sentinel("pd", *place, k) + _SUFFIX
        if kind.options:
            schema["enum"] = [sentinel("en", *place, k, option) for option in range(2)]
        if kind.inner:
            schema |= _object_schema(kind.inner, (*place, k))
        schemas[name] = schema
        if kind.required:
            required.append(name)
    found: dict[str, Any] = {"type": "object", "properties": schemas}
    return {**found, "required": required} if required else found


def _type_name(kind: str, *place: object) -> str:
    return sentinel("ty", *place) if kind == _UNKNOWN else kind


def _call(i: int, j: int, variant: int) -> ToolCall:
    arguments: dict[str, Any] = {}
    for k in range(_ARGUMENT_COUNTS[(i + 2 * j + variant) % len(_ARGUMENT_COUNTS)]):
        text = sentinel("av", i, j, k)
        number = NUMBER_BASE + i * 20 + j * 5 + k
        values = (
            text + _SUFFIX,
            number,
            {sentinel("ax", i, j, k): [text, 1, True, None]},
            text + _SUFFIX,
            True,
            [text, 1, False],
            None,
            False,
            *(text + mark + _SUFFIX for mark in MARKS),
        )
        arguments[sentinel("ak", i, j, k)] = values[
            (i + 3 * j + k + variant // len(_ARGUMENT_COUNTS)) % len(values)
        ]
    return ToolCall(f"Qz{i:03d}{j:03d}W", sentinel("cn", i, j), arguments)


def _messages(shape: Shape, variant: int = 0) -> list[Message]:
    """``variant`` changes how many arguments calls have, and of which types."""
    messages: list[Message] = []
    for i, turn in enumerate(shape):
        content = LEFT + sentinel("c", i) + RIGHT
        if turn in ("s", "u"):
            messages.append(Message("system" if turn == "s" else "user", content))
        elif turn == "T":
            messages.append(_result(messages, i, content))
        else:
            calls = tuple(_call(i, j, variant) for j in range(turn.count("c")))
            thinking = LEFT + sentinel("r", i) + RIGHT if "t" in turn else ""
            messages.append(Message("assistant", content if "a" in turn else "", thinking, calls))
    return messages


def _result(messages: Sequence[Message], i: int, content: str) -> Message:
    """The result of the first call that has none yet."""
    caller = next((message for message in reversed(messages) if message.calls), None)
    answered = len(list(takewhile(lambda message: message.role == "tool", reversed(messages))))
    if caller is None or answered >= len(caller.calls):
        return Message("tool", content, tool_name=sentinel("xn", i), tool_call_id=f"Qz{i:06d}W")
    call = caller.calls[answered]
    return Message("tool", content, tool_name=call.name, tool_call_id=call.id)


def _rare_shapes(traits: Traits, capabilities: frozenset[str]) -> Iterator[Shape]:
    """Shapes so rare that they are chosen to be seen without tools, too."""
    if traits.assistant_first:
        yield from (("a", "u"), ("a", "u", "a", "u"))
    if "system" in capabilities and traits.system_middle != "raises":
        yield from _system_shapes(traits.system_several != "raises")


def _only_results(traits: Traits, capabilities: frozenset[str]) -> bool:
    """Whether results are printed and their calls are not."""
    return traits.results and not traits.calls and "tools" in capabilities


def _common_shapes(traits: Traits, capabilities: frozenset[str]) -> Iterator[Shape]:
    heads: tuple[Shape, ...] = (
        ((), ("s",)) if "system" in capabilities and traits.system != "raises" else ((),)
    )
    turns = ["u", "u a u"] + ["u a"] * ("prefill" in capabilities) + ["u at u"] * ("thinking" in capabilities)
    turns += ["u c T", "u c T a u"] * ("calls" in capabilities)
    yield from (head + tuple(shape.split()) for shape in turns for head in heads)


def _shapes(source: random.Random, traits: Traits, capabilities: frozenset[str]) -> Iterator[Shape]:
    system = "system" in capabilities and traits.system != "raises"
    later = system and traits.system_middle != "raises"
    several = system and traits.system_several != "raises"
    calls, thinking, prefill = (name in capabilities for name in ("calls", "thinking", "prefill"))
    heads: tuple[Shape, ...] = ((), ("s",)) if system else ((),)
    for length in (1, 3, 5, 7):
        turns = tuple("ua"[i % 2] for i in range(length))
        for head in heads:
            yield head + turns
            if prefill and length < 7:
                yield (*head, *turns, "a")
    for turns in (("u", "-", "u"), ("u", "-", "u", "a", "u"), ("u", "a", "u", "-", "u")):
        yield from (head + turns for head in heads)
    if thinking:
        yield from _thinking_shapes(heads)
    if calls or _only_results(traits, capabilities):
        yield from _call_shapes(heads, thinking, traits.parallel != "raises")
    if later:
        yield from _system_shapes(several)
    if traits.assistant_first:
        for _ in range(3):  # with tools and without
            yield from ((*head, *turns.split()) for head in heads for turns in ("a u", "a u a u"))
    if system:
        yield ("s",)
    for _ in range(_CONVERSATIONS):
        shape = _random_shape(source, traits, capabilities, heads)
        if shape:
            yield shape


def _thinking_shapes(heads: Sequence[Shape]) -> Iterator[Shape]:
    for head in heads:
        for turns in ("u at u", "u at u at u", "u at u a u", "u a u at u", "u at u at u a u"):
            yield head + tuple(turns.split())


def _call_shapes(heads: Sequence[Shape], thinking: bool, parallel: bool) -> Iterator[Shape]:
    callers = ["c", "ac"] + ["cc", "acc"] * parallel
    if thinking:
        callers += ["tc", "atc"] + ["tcc"] * parallel
    final = "at" if thinking else "a"
    for head in (*heads, ("u", "a")):
        for caller in callers:
            results = ("T",) * caller.count("c")
            yield (*head, "u", caller, *results)
            yield (*head, "u", caller, *results, "a", "u")
            yield (*head, "u", caller, *results, caller, *results)
            yield (*head, "u", caller, *results, final, "u", caller, *results)


def _system_shapes(several: bool) -> Iterator[Shape]:
    for turns in ("u a s u", "u a s u a u", "u a u a s u a", "u s", "u a u s"):
        yield tuple(turns.split())
        if several:
            yield ("s", *turns.split())
    if several:
        yield ("s", "u", "a", "s", "u", "a", "s", "u")


def _random_shape(
    source: random.Random, traits: Traits, capabilities: frozenset[str], heads: Sequence[Shape]
) -> Shape:
    thinking = "thinking" in capabilities
    calls = "calls" in capabilities or _only_results(traits, capabilities)
    callers = ["c", "ac"] + ["cc", "acc", "ccc"] * (traits.parallel != "raises")
    turns = list(heads[-1]) if source.random() < 0.4 else []
    length = source.randint(1, _LONGEST)
    while len(turns) < length:
        turns.append("u")
        while calls and source.random() < 0.4:
            caller = source.choice(callers)
            turns.append(caller + ("t" if thinking and source.random() < 0.5 else ""))
            turns += ["T"] * caller.count("c")
        turns.append("a" + ("t" if thinking and source.random() < 0.5 else ""))
    if "prefill" not in capabilities or source.random() < 0.8:
        turns.pop()
    return tuple(turns)
