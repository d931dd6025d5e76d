"""Values that conditions and texts name (``$last``, ``$next``, ``$system``, …), computed only where used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from ggufpack.chat_template.go.nodes import Assign, Break, Expression, If, Literal, Node, Path, Range, With
from ggufpack.chat_template.learn.helpers import field
from ggufpack.chat_template.learn.spelled import Nodes
from ggufpack.chat_template.learn.tables import MARKED, call, text, variable

MESSAGES = Path("$", ("Messages",))
IS_SYSTEM = call("eq", field("Role"), text("system"))


def more(name: str) -> Node:
    """Counts one more: Go does not add, a count is the length of a text that grows."""
    return Assign(name, call("print", Path(name), text("x")), declare=False)


def _walk(node: object) -> Iterator[object]:
    yield node
    if isinstance(node, tuple):
        for part in node:
            yield from _walk(part)
    elif is_dataclass(node) and not isinstance(node, type):
        for part in fields(node):
            yield from _walk(getattr(node, part.name))


def variables(nodes: object) -> set[str]:
    """The variables that ``nodes`` name."""
    return {part.base for part in _walk(nodes) if isinstance(part, Path) and part.base.startswith("$")}


def _tracked(nodes: object) -> set[str]:
    """The variables that ``nodes`` use, and those that these are made of."""
    used = variables(nodes)
    return used | ({"$prev"} if "$prev2" in used else set())


def mentions(nodes: object, name: str) -> bool:
    """Whether ``nodes`` name a field."""
    return any(isinstance(part, Path) and name in part.fields for part in _walk(nodes))


def _find(name: str, start: int | str, found: Expression, when: Expression) -> Nodes:
    """``$name``: of the last message of which ``when`` holds."""
    seen = If(when, (Assign(name, found, declare=False),))
    return (Assign(name, Literal(start)), Range(MESSAGES, (seen,), "$i", "$m"))


_IS_TOOL = call("eq", field("Role"), text("tool"))
_IS_USER = call("eq", field("Role"), text("user"))
_IS_ANSWER = call("and", call("eq", field("Role"), text("assistant")), call("not", field("ToolCalls")))


def _any_text(name: str) -> Nodes:
    """``$name`` is set where the message's text is more than white space."""
    here = call("slice", call("slice", variable("whole"), variable("k")), text(0), text(1))
    found: Nodes = (If(call("gt", here, text(" ")), (Assign(name, Literal(True), declare=False), Break())),)
    return (Assign("$whole", field("Content")), Range(call("len", variable("whole")), found, "", "$k"))


def before_messages(nodes: object) -> Nodes:
    """What is computed once, in front of everything."""
    used = _tracked(nodes)
    found: list[Node] = []
    first = call("index", MESSAGES, Literal(0))
    keep: Nodes = ()
    if "$system" in used:
        found.append(Assign("$system", Literal("")))
        keep += (Assign("$system", field("Content"), declare=False),)
    if "$systemtext" in used:
        found.append(Assign("$systemtext", Literal(False)))
        keep += _any_text("$systemtext")
    if "$start" in used:
        found.append(Assign("$start", Literal(0)))
        keep += (Assign("$start", Literal(1), declare=False),)
    if keep:
        found.append(With(first, (If(IS_SYSTEM, keep),)))
    if "$lastsystem" in used:
        last = If(IS_SYSTEM, (Assign("$lastsystem", field("Content"), declare=False),))
        found += [Assign("$lastsystem", Literal("")), Range(MESSAGES, (last,))]
    if "$opens" in used:
        other = call("and", call("not", variable("opens")), call("ne", field("Role"), text("system")))
        take = If(other, (Assign("$opens", field("Role"), declare=False),))
        found += [Assign("$opens", Literal("")), Range(MESSAGES, (take,))]
    if "$anytool" in used:
        seen = If(_IS_TOOL, (Assign("$anytool", Literal(True), declare=False),))
        found += [Assign("$anytool", Literal(False)), Range(MESSAGES, (seen,))]
    if "$user" in used:
        found += _find("$user", -1, variable("i"), _IS_USER)
    if "$usertext" in used:
        found += _find("$usertext", "", field("Content"), _IS_USER)
    if "$user1" in used:
        when = call("and", _IS_USER, call("lt", variable("user1"), Literal(0)))
        found += _find("$user1", -1, variable("i"), when)
    if "$answer" in used:
        found += _find("$answer", -1, variable("i"), _IS_ANSWER)
    for name, (start, _) in _TRACKED.items():
        if name in used:
            found.append(Assign(name, Literal(start)))
    return tuple(found)


def within_message(nodes: object) -> Nodes:
    """What is computed at the start of each message."""
    used = variables(nodes)
    found: list[Node] = []
    if used & {"$last", "$next", "$nextcalls"}:
        rest = call("len", call("slice", MESSAGES, variable("i")))
        found.append(Assign("$last", call("eq", rest, Literal(1))))
    take: list[Node] = []
    if "$next" in used:
        found.append(Assign("$next", Literal("")))
        take.append(Assign("$next", field("Role"), declare=False))
    if "$nextcalls" in used:
        found.append(Assign("$nextcalls", Literal(0)))
        take.append(Assign("$nextcalls", call("len", field("ToolCalls")), declare=False))
    if take:
        following = call("index", call("slice", MESSAGES, variable("i")), Literal(1))
        found.append(If(call("not", variable("last")), (With(following, tuple(take)),)))
    if "$think" in used:
        found.append(Assign("$think", field("Thinking")))
    if "$text" in used:
        found += [Assign("$text", Literal(False)), *_any_text("$text")]
    if "$calls" in used:
        found.append(Assign("$calls", field("ToolCalls")))
    return tuple(found)


def within_argument(nodes: object) -> Nodes:
    """Whether the argument is a text that holds one of ``MARKED``."""
    used = {mark: name for mark, name in MARKED.items() if "$" + name in variables(nodes)}
    if not used:
        return ()
    value = variable("v")
    character = call("slice", call("slice", value, variable("at")), text(0), text(1))
    seen = tuple(
        If(call("eq", character, text(mark)), (Assign("$" + name, Literal(True), declare=False),))
        for mark, name in used.items()
    )
    is_text = call("eq", call("printf", text("%T"), value), text("string"))
    declared = tuple(Assign("$" + name, Literal(False)) for name in used.values())
    return (*declared, If(is_text, (Range(call("len", value), seen, "", "$at"),)))


# variable -> its value before the first message, and how each message changes it
_TRACKED: dict[str, tuple[str | int | bool, Node | None]] = {
    "$prev2": ("", Assign("$prev2", variable("prev"), declare=False)),
    "$prev": ("", Assign("$prev", field("Role"), declare=False)),
    "$prevcalls": (0, Assign("$prevcalls", call("len", field("ToolCalls")), declare=False)),
    "$called": (
        "",
        If(
            field("ToolCalls"),
            (
                With(
                    call("index", field("ToolCalls"), Literal(0)),
                    (Assign("$called", field("Function", "Name"), declare=False),),
                ),
            ),
        ),
    ),
    "$callnumber": ("", None),
    "$resultnumber": ("", If(_IS_TOOL, (more("$resultnumber"),))),
    "$resultplace": (
        "",
        If(
            _IS_TOOL,
            (more("$resultplace"),),
            (Assign("$resultplace", Literal(""), declare=False),),
        ),
    ),
    "$prevthink": ("", Assign("$prevthink", field("Thinking"), declare=False)),
    "$seencalls": (
        False,
        If(field("ToolCalls"), (Assign("$seencalls", Literal(True), declare=False),)),
    ),
    "$seentool": (
        False,
        If(_IS_TOOL, (Assign("$seentool", Literal(True), declare=False),)),
    ),
    "$seenassistant": (
        False,
        If(
            call("eq", field("Role"), text("assistant")),
            (Assign("$seenassistant", Literal(True), declare=False),),
        ),
    ),
}


def behind_message(nodes: object) -> Nodes:
    """What is remembered of each message."""
    used = _tracked(nodes)
    return tuple(change for name, (_, change) in _TRACKED.items() if name in used and change is not None)
