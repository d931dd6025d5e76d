"""Decision tables: rows of features and what was printed, made into trees.

``FEATURES`` is the one list of what a tree may ask, in order of preference, with its Go condition.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Union

from ggufpack.chat_template.budget import charge
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go.nodes import Call, Expression, Literal, Path
from ggufpack.chat_template.learn.conversations import MARKS
from ggufpack.chat_template.learn.pieces import Label

Features = dict[str, bool]


@dataclass(frozen=True)
class Row:
    """What one render printed in a slot, and under which features."""

    features: Features
    label: Label


@dataclass(frozen=True)
class Branch:
    """A question and the trees behind its two answers."""

    feature: str
    yes: Tree
    no: Tree


Tree = Union[Label, Branch]  # noqa: UP007  a forward reference stands in Branch


def call(function: str, *arguments: Expression) -> Call:
    """A Go call."""
    return Call(function, arguments)


def variable(name: str) -> Path:
    """``$name``."""
    return Path("$" + name)


def text(value: str | int | bool) -> Literal:
    """A constant."""
    return Literal(value)


def negated(condition: Expression) -> Expression:
    """``not condition``."""
    if isinstance(condition, Call) and condition.function == "eq" and len(condition.arguments) == 2:
        return Call("ne", condition.arguments)
    if isinstance(condition, Call) and condition.function == "not":
        return condition.arguments[0]
    return call("not", condition)


def _role(name: str, role: str) -> Expression:
    return call("eq", variable(name), text(role))


def _switch(on: bool) -> Expression:
    think = Path("$", ("Think",))
    return call("and", Path("$", ("IsThinkSet",)), think if on else call("not", think))


def _type_is(kind: str) -> Expression:
    return call("eq", Path("$v", ("Type", "String")), text(kind))


def _items_are(kind: str) -> Expression:
    items = Path("$v", ("Items",))
    is_map = call("eq", call("printf", text("%T"), items), text("map[string]interface {}"))
    return call(
        "and", is_map, call("eq", call("printf", text("%v"), call("index", items, text("type"))), text(kind))
    )


def _go_type_is(kind: str) -> Expression:
    return call("eq", call("printf", text("%T"), variable("v")), text(kind))


# Texts within an argument, and the variable that says whether they are; see preludes.within_argument.
MARKED = dict(zip(MARKS, ("opening", "ampersand", "newline"), strict=True))

# feature -> Go condition; the names of variables stand for the preludes in build.PRELUDES
FEATURES: dict[str, Expression] = {
    "thinking": variable("think"),
    "content": Path("", ("Content",)),
    "text": variable("text"),
    "calls": variable("calls"),
    "is_string": _go_type_is("string"),
    "is_map": _go_type_is("map[string]interface {}"),
    "is_list": _go_type_is("[]interface {}"),
    "is_bool": _go_type_is("bool"),
    "is_true": call("and", _go_type_is("bool"), variable("v")),
    "is_none": _go_type_is("<nil>"),
    "is_number": _go_type_is("float64"),
    **{f"has {mark!r}": variable(name) for mark, name in MARKED.items()},
    "last": variable("last"),
    "first": call("eq", variable("i"), variable("start")),
    "next=tool": _role("next", "tool"),
    "prev=tool": _role("prev", "tool"),
    "tools": Path("$", ("Tools",)),
    "system": variable("system"),
    "system_content": variable("system"),
    "system_text": variable("systemtext"),
    "any_system": Path("$", ("System",)),
    "opens=assistant": _role("opens", "assistant"),
    "opens=nothing": call("not", variable("opens")),
    "off": _switch(False),
    "on": _switch(True),
    "after_user": call("gt", variable("i"), variable("user")),
    "last_user": call("eq", variable("i"), variable("user")),
    "first_user": call("eq", variable("i"), variable("user1")),
    "prev=user": _role("prev", "user"),
    "prev=assistant": _role("prev", "assistant"),
    "prev=system": _role("prev", "system"),
    "prev_calls": variable("prevcalls"),
    "prev2=tool": _role("prev2", "tool"),
    "prev2=assistant": _role("prev2", "assistant"),
    "next_calls": variable("nextcalls"),
    "next=user": _role("next", "user"),
    "next=assistant": _role("next", "assistant"),
    "next=system": _role("next", "system"),
    "seen_calls": variable("seencalls"),
    "seen_tool": variable("seentool"),
    "any_tool": variable("anytool"),
    "seen_assistant": variable("seenassistant"),
    "after_answer": call("gt", variable("i"), variable("answer")),
    "prev_thinking": variable("prevthink"),
    "one_call": call("eq", call("len", variable("calls")), text(1)),
    "required": variable("required"),
    "described": Path("$v", ("Description",)),
    "type=string": _type_is("string"),
    "type=integer": _type_is("integer"),
    "type=number": _type_is("number"),
    "type=boolean": _type_is("boolean"),
    "type=array": _type_is("array"),
    "type=object": _type_is("object"),
    **{
        f"items={kind}": _items_are(kind)
        for kind in ("string", "integer", "number", "boolean", "array", "object")
    },
    "inner": Path("$v", ("Properties",)),
    "inner_required": Path("$v", ("Required",)),
    "arguments": Path("", ("Function", "Arguments")),
    "properties": Path("", ("Function", "Parameters", "Properties")),
    "required_names": Path("", ("Function", "Parameters", "Required")),
    "options": Path("$v", ("Enum",)),
}
_ORDER = {name: place for place, name in enumerate(FEATURES)}

# the same questions where a loop's or the tail's variables answer them
SLOT_FEATURES: dict[tuple[str, str], Expression] = {
    ("call", "first"): call("eq", variable("j"), text(0)),
    ("call", "last"): call("eq", call("len", call("slice", variable("calls"), variable("j"))), text(1)),
    ("definition", "first"): call("eq", variable("j"), text(0)),
    ("definition", "last"): call(
        "eq", call("len", call("slice", Path("$", ("Tools",)), variable("j"))), text(1)
    ),
    ("argument", "first"): call("not", variable("n")),
    ("property", "first"): call("not", variable("n")),
    ("inner", "first"): call("not", variable("n")),
    ("option", "first"): call("eq", variable("i"), text(0)),
    ("option", "last"): call("eq", call("len", call("slice", Path("$v", ("Enum",)), variable("i"))), text(1)),
    ("instruction", "first"): call("not", variable("n")),
    ("tail", "after_user"): call("ge", variable("user"), text(0)),  # there is one
}


def condition(feature: str, slot: str) -> Expression:
    """The Go condition of a feature in a slot (``call#``: the loop's second use)."""
    loop = slot.rstrip("#")
    if feature == "content" and loop in ("call", "argument"):  # the dot is the call there
        return Path("$m", ("Content",))
    return SLOT_FEATURES.get((loop, feature)) or FEATURES[feature]


def features(conversation: Conversation, i: int) -> Features:
    """The features of message ``i``; of the head for -1, of the tail for the number of messages."""
    messages = conversation.messages
    users = [k for k, message in enumerate(messages) if message.role == "user"]
    leading = messages[0].role == "system"
    found = {
        "system": leading,
        "system_content": leading and bool(messages[0].content),
        "system_text": leading and bool(messages[0].content.strip()),
        "any_system": any(message.role == "system" and message.content for message in messages),
        "any_tool": any(message.role == "tool" for message in messages),
        "tools": bool(conversation.tools),
        "on": conversation.think is True,
        "off": conversation.think is False,
    }
    if i < 0:
        opening = next((message.role for message in messages if message.role != "system"), "")
        return {**found, "opens=assistant": opening == "assistant", "opens=nothing": not opening}
    before = messages[i - 1] if i > 0 else None
    earlier = messages[:i]
    answers = [k for k, m in enumerate(messages) if m.role == "assistant" and not m.calls]
    for role in ("user", "assistant", "tool", "system"):
        found[f"prev={role}"] = before is not None and before.role == role
    found |= {
        **{f"prev2={role}": i > 1 and messages[i - 2].role == role for role in ("tool", "assistant")},
        "prev_calls": before is not None and bool(before.calls),
        "prev_thinking": before is not None and bool(before.thinking),
        "after_user": bool(users) and i > users[-1],
        "seen_calls": any(message.calls for message in earlier),
        "seen_tool": any(message.role == "tool" for message in earlier),
        "seen_assistant": any(message.role == "assistant" for message in earlier),
        "after_answer": i > max(answers, default=-1),
    }
    if i == len(messages):
        return found
    message, behind = messages[i], messages[i + 1] if i + 1 < len(messages) else None
    for role in ("user", "assistant", "tool", "system"):
        found[f"next={role}"] = behind is not None and behind.role == role
    found |= {
        "next_calls": behind is not None and bool(behind.calls),
        "last": behind is None,
        "first": i == int(leading),
        "last_user": bool(users) and i == users[-1],
    }
    if message.role in ("user", "assistant"):
        found |= {"content": bool(message.content), "text": bool(message.content.strip())}
    if message.role == "assistant":
        found |= {
            "thinking": bool(message.thinking),
            "calls": bool(message.calls),
            "one_call": len(message.calls) == 1,
        }
    if message.role == "user":
        found["first_user"] = i == users[0]
    return found


def grow(rows: Sequence[Row], budget: int) -> tuple[Tree, bool]:
    """A tree that tells the labels apart, and whether a leaf still has several (the commonest wins)."""
    return _grow(rows, _needed(rows), budget)


def _needed(rows: Sequence[Row]) -> list[str]:
    """Few features that tell the labels apart as well as all do; the least usual ones go first."""
    names = sorted(rows[0].features, key=_ORDER.__getitem__)
    numbers: dict[Label, int] = {}
    table = {
        (numbers.setdefault(row.label, len(numbers)), *(row.features[name] for name in names)) for row in rows
    }
    if len(numbers) == 1:
        return []
    if "type=string" in names:  # a type is not to be told by what it is not
        return names
    kept = list(range(1, len(names) + 1))
    confused = _confused(table, kept)
    for place in reversed(kept):
        charge()
        others = [at for at in kept if at != place]
        if _confused(table, others) == confused:
            kept = others
    return [names[at - 1] for at in kept]


def _confused(table: Collection[tuple[int, ...]], places: Sequence[int]) -> int:
    """How many entries share these places with one of another label, which stands at 0."""
    labels: dict[tuple[int, ...], set[int]] = defaultdict(set)
    keys = [tuple([entry[at] for at in places]) for entry in table]
    for entry, key in zip(table, keys, strict=True):
        labels[key].add(entry[0])
    return sum(len(labels[key]) > 1 for key in keys)


def _grow(rows: Sequence[Row], names: Sequence[str], budget: int) -> tuple[Tree, bool]:
    counts = Counter(row.label for row in rows)
    if len(counts) == 1 or not budget:
        return counts.most_common(1)[0][0], len(counts) > 1
    best: tuple[float, str, list[Row], list[Row]] | None = None
    for feature in names:
        charge()
        yes = [row for row in rows if row.features[feature]]
        no = [row for row in rows if not row.features[feature]]
        if yes and no:
            cost = _entropy(yes) + _entropy(no) + _ORDER[feature] * 1e-6
            if best is None or cost < best[0] - 1e-9:
                best = (cost, feature, yes, no)
    if best is None:
        return counts.most_common(1)[0][0], True
    _, feature, yes, no = best
    (left, left_open), (right, right_open) = _grow(yes, names, budget - 1), _grow(no, names, budget - 1)
    return Branch(feature, left, right), left_open or right_open


def _entropy(rows: Sequence[Row]) -> float:
    counts = Counter(row.label for row in rows)
    return -sum(count * math.log2(count / len(rows)) for count in counts.values())


FeatureOf = Callable[[Conversation, int], Features]
