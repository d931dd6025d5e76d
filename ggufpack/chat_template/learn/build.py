"""From decision trees to the nodes of a Go template.

What both answers of a question print alike is hoisted out of it. Values that conditions and texts
name (``$last``, ``$next``, ``$system``, …) are computed only where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Union

from ggufpack.chat_template.go.nodes import (
    Assign,
    Expression,
    If,
    Include,
    Literal,
    Node,
    Path,
    Print,
    Range,
    Template,
    Text,
    With,
)
from ggufpack.chat_template.learn.helpers import DOT, Helpers, Nodes, field, python_boolean
from ggufpack.chat_template.learn.pieces import Loop, Value, common_prefix, common_suffix
from ggufpack.chat_template.learn.slots import HEAD, TAIL
from ggufpack.chat_template.learn.tables import Branch, Tree, call, condition, negated, text, variable

_ROLES = ("system", "user", "assistant", "tool")
_MESSAGES = Path("$", ("Messages",))
_TOOLS = Path("$", ("Tools",))


@dataclass(frozen=True)
class Choice:
    """A question and what each answer prints."""

    feature: str
    yes: Printed
    no: Printed


Printed = tuple[Union[str, Value, Loop, Choice], ...]  # noqa: UP007  forward reference


@dataclass(frozen=True)
class Learnt:
    """What building needs to know.

    Attributes:
        trees: by slot.
        required_loops: loops over properties that meet the required ones only.
        first_call_only: whether only the first of several calls is printed.
        empty_system: whether a leading system message without text is printed as one.
        thinking_tags: around reasoning, for Ollama to find; ``None`` for none.
        declares_tools: whether to mention tools and calls for Ollama's sake though none are printed.
    """

    trees: Mapping[str, Tree]
    first_call_only: bool = False
    required_loops: frozenset[str] = frozenset()
    empty_system: bool = False
    thinking_tags: tuple[str, str] | None = None


# --- trees to what is printed --------------------------------------------------------


def hoisted(tree: Tree) -> Printed:
    """The tree as a sequence; common beginnings and endings stand outside of questions."""
    if not isinstance(tree, Branch):
        return tuple(tree)
    yes, no = list(hoisted(tree.yes)), list(hoisted(tree.no))
    before, yes, no = _common_prefix(yes, no)
    behind, yes, no = _common_suffix(yes, no)
    choice = [Choice(tree.feature, tuple(yes), tuple(no))] if yes or no else []
    return _joined([*before, *choice, *behind])


def _common_prefix(left: list[Any], right: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    shared: list[Any] = []
    while left and right and left[0] == right[0]:
        shared.append(left[0])
        left, right = left[1:], right[1:]
    if left and right and isinstance(left[0], str) and isinstance(right[0], str):
        size = len(common_prefix([left[0], right[0]]))
        shared.append(left[0][:size])
        left, right = [left[0][size:], *left[1:]], [right[0][size:], *right[1:]]
    return _cleaned(shared), _cleaned(left), _cleaned(right)


def _common_suffix(left: list[Any], right: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    shared: list[Any] = []
    while left and right and left[-1] == right[-1]:
        shared.insert(0, left[-1])
        left, right = left[:-1], right[:-1]
    if left and right and isinstance(left[-1], str) and isinstance(right[-1], str):
        size = len(common_suffix([left[-1], right[-1]]))
        shared.insert(0, left[-1][len(left[-1]) - size :])
        left = [*left[:-1], left[-1][: len(left[-1]) - size]]
        right = [*right[:-1], right[-1][: len(right[-1]) - size]]
    return _cleaned(shared), _cleaned(left), _cleaned(right)


def _cleaned(items: list[Any]) -> list[Any]:
    return [item for item in items if item != ""]


def _joined(items: list[Any]) -> Printed:
    found: list[Any] = []
    for item in items:
        if found and isinstance(item, str) and isinstance(found[-1], str):
            found[-1] += item
        elif item != "":
            found.append(item)
    return tuple(found)


# --- what is printed to nodes ----------------------------------------------------------


class Builder:
    """Builds the template of one set of trees."""

    def __init__(self, learnt: Learnt) -> None:
        self.learnt = learnt
        self.helpers = Helpers()
        self.lossy: set[str] = set()
        self._printed = {slot: hoisted(tree) for slot, tree in learnt.trees.items()}

    def template(self) -> Template:
        """The whole template."""
        head = self._nodes(HEAD)
        branches = self._branches()
        tail = self._nodes(TAIL)
        if tail:
            tail = (If(call("ne", variable("prev"), text("assistant")), tail),)
        body = (*_within_message(branches), *branches, *_behind_message((branches, tail)))
        loop = Range(_MESSAGES, body, "$i", "$m")
        main: Nodes = (*head, loop, *tail, *self._hints((head, branches, tail)))
        return (*self.helpers.defines, *_before_messages((main,)), *main)

    def _branches(self) -> Nodes:
        """One branch a role."""
        branches: Nodes = ()
        for role in reversed(_ROLES):
            body = self._nodes(role)
            if not body and not any(self._printed.get(role, ())):
                continue
            is_role: Expression = call("eq", field("Role"), text(role))
            if role == "system":  # the head has printed the first
                is_role = call("and", variable("i"), is_role)
            branches = (If(is_role, body, branches),)
        return branches

    def _nodes(self, slot: str) -> Nodes:
        return self._sequence(self._printed.get(slot, ()), slot)

    def _sequence(self, printed: Printed, slot: str) -> Nodes:
        nodes: list[Node] = []
        for item in printed:
            if isinstance(item, str):
                nodes.append(Text(item))
            elif isinstance(item, Value):
                nodes += self._value(item, slot)
            elif isinstance(item, Loop):
                nodes += self._loop(item.name)
            else:
                asked = condition(item.feature, slot)
                if item.feature == "system" and self.learnt.empty_system:
                    asked = variable("start")
                yes, no = self._sequence(item.yes, slot), self._sequence(item.no, slot)
                nodes.append(If(asked, yes, no) if yes else If(negated(asked), no))
        return tuple(nodes)

    def _value(self, value: Value, slot: str) -> Nodes:
        kind, spelling = value.kind, value.spelling
        if kind == "date":
            return self.helpers.date(spelling)
        if kind in _COUNTS:
            counted: Expression = variable(_COUNTS[kind])
            return (Print(call("len", counted if spelling == "0" else call("print", counted, text("x")))),)
        expression = _expression(kind, slot)
        if kind == "none":
            return (Text("None"),)
        if kind == "flag":
            return python_boolean(expression)
        if spelling == "raw":
            return (self.helpers.trimmed(value.left, value.right, expression),)
        if kind in _TEXTS or (kind == "value" and spelling in ("quoted", "html", "repr-text")):
            if value.left or value.right:
                self.lossy.add(f"{kind}: trimmed and quoted")
            if spelling == "html":
                return (Print(call("html", expression)),)
            if spelling == "repr":
                return (Include(self.helpers.string_repr(), expression),)
            return (Print(call("printf", text("%q"), expression)),)
        if spelling == "string":  # JSON inside a JSON string
            self.lossy.add(f"{kind}: JSON in a string")
            spelled = call("printf", text("%q"), call("json", expression))
            return (Print(spelled),)
        return self.helpers.json(kind, spelling, expression)

    def _loop(self, name: str) -> Nodes:
        kind = name.rstrip("#")
        body = self._nodes(name)
        if kind == "instruction":
            return _system_loop(self._printed[name], body)
        if kind == "definition":
            return (Range(_TOOLS, body, "$j", "$t"),)
        if kind == "call":
            calls: Expression = field("ToolCalls")
            if "$callnumber" in _variables(body):
                body = (*body, _more("$callnumber"))
            if "$callplace" in _variables(body):
                body = (*body, _more("$callplace"))
            if self.learnt.first_call_only:
                calls = call("slice", calls, text(0), text(1))
            place: Nodes = (Assign("$callplace", Literal("")),) if "$callplace" in _variables(body) else ()
            # Ollama reads the calls' tag from the first text of the first `if .ToolCalls`
            return (*place, If(field("ToolCalls"), (Range(calls, body, "$j", "$c"),)))
        if kind == "argument":
            return _map_loop(field("Function", "Arguments"), body)
        if kind == "option":
            return (Range(Path("$v", ("Enum",)), body, "$i", "$o"),)
        if name in self.learnt.required_loops:
            return _counted(Range(Path("$t", ("Function", "Parameters", "Required")), body, "$i", "$k"))
        if "$required" in _variables(body):
            is_required = Range(
                Path("$t", ("Function", "Parameters", "Required")),
                (If(call("eq", DOT, variable("k")), (Assign("$required", Literal(True), declare=False),)),),
            )
            body = (Assign("$required", Literal(False)), is_required, *body)
        return _map_loop(field("Function", "Parameters", "Properties"), body)

    def _hints(self, parts: tuple[Nodes, ...]) -> Nodes:
        """Dead blocks from which Ollama reads what the template can do (facts: thinking.InferTags)."""
        hints: list[Node] = []
        if self.learnt.thinking_tags:
            opening, closing = self.learnt.thinking_tags
            shown: Nodes = (Text(opening), Print(field("Thinking")), Text(closing))
            hints.append(If(Literal(False), (Range(_MESSAGES_OF_ROOT, shown),)))
        if any(slot.startswith("call") for slot in self.learnt.trees) and not _mentions(parts, "Tools"):
            hints.append(If(Literal(False), (Print(field("Tools")),)))
        return tuple(hints)


_MESSAGES_OF_ROOT = field("Messages")
_TEXTS: dict[str, Path] = {
    "system": variable("system"),
    "last_system": variable("lastsystem"),
    "content": field("Content"),
    "thinking": field("Thinking"),
    "call_name": field("Function", "Name"),
    "call_id": field("ID"),
    "result_id": field("ToolCallID"),
    "result_name": field("ToolName"),
    "first_call_name": variable("called"),
    "key": variable("k"),
    "tool_name": field("Function", "Name"),
    "tool_description": field("Function", "Description"),
    "property_name": variable("k"),
    "option": variable("o"),
    "property_description": Path("$v", ("Description",)),
}
_OBJECTS: dict[str, Path] = {
    "value": variable("v"),
    "flag": variable("v"),
    "none": variable("v"),
    "arguments": field("Function", "Arguments"),
    "tools": _TOOLS,
    "functions": _TOOLS,
    "tool": DOT,
    "function": field("Function"),
    "parameters": field("Function", "Parameters"),
    "properties": field("Function", "Parameters", "Properties"),
    "required": field("Function", "Parameters", "Required"),
    "property": variable("v"),
    "options": Path("$v", ("Enum",)),
    "inner_properties": Path("$v", ("Properties", "ToMap")),
    "inner_required": Path("$v", ("Required",)),
}
_OF_MESSAGE = ("content", "thinking", "result_id", "result_name")
_OF_CALL = ("call_name", "call_id", "arguments")
_OF_TOOL = ("tool_name", "tool_description", "tool", "function", "parameters", "properties", "required")


def _expression(kind: str, slot: str) -> Path:
    """Where a value is found; inside an inner loop the dot is not the message or the tool any more."""
    path = _TEXTS.get(kind) or _OBJECTS[kind]
    loop = slot.rstrip("#")
    if kind in _OF_MESSAGE and loop in ("call", "argument"):
        return Path("$m", path.fields)
    if kind in _OF_CALL and loop == "argument":
        return Path("$c", path.fields)
    if kind in _OF_TOOL and loop in ("property", "option"):
        return Path("$t", path.fields)
    return path


def _map_loop(entries: Expression, body: Nodes) -> Nodes:
    return _counted(Range(entries, body, "$k", "$v"))


def _counted(loop: Range) -> Nodes:
    """The loop; where it asks for ``$n``, that is 0 in the first round and 1 after."""
    if "$n" not in _variables(loop.body):
        return (loop,)
    counted = (*loop.body, Assign("$n", Literal(1), declare=False))
    return (Assign("$n", Literal(0)), replace(loop, body=counted))


# what Ollama's own .System is: all system messages, joined (template.go, collate)
_JOINED: Printed = (Choice("first", (), ("\n\n",)), Value("system"))


# Go does not add: a count is the length of a text that grows
_COUNTS = {
    "call_number": "callnumber",
    "call_place": "callplace",
    "result_number": "resultnumber",
    "result_place": "resultplace",
}


def _more(name: str) -> Node:
    return Assign(name, call("print", Path(name), text("x")), declare=False)


def _system_loop(printed: Printed, body: Nodes) -> Nodes:
    """All system messages of a conversation, one after the other."""
    if printed == _JOINED:
        return (Print(Path("$", ("System",))),)
    counted: Nodes = _renamed(body)
    if "$n" not in _variables(body):
        return (Range(_MESSAGES, (If(_IS_SYSTEM, counted),)),)
    counted = (*counted, Assign("$n", Literal(1), declare=False))
    return (Assign("$n", Literal(0)), Range(_MESSAGES, (If(_IS_SYSTEM, counted),)))


def _renamed(body: Nodes) -> Nodes:
    """``$system`` as ``.Content``."""
    return tuple(_rename(node) for node in body)


def _rename(node: Any) -> Any:
    if node == variable("system"):
        return field("Content")
    if isinstance(node, tuple):
        return tuple(_rename(part) for part in node)
    if is_dataclass(node) and not isinstance(node, type):
        return type(node)(**{part.name: _rename(getattr(node, part.name)) for part in fields(node)})
    return node


# --- variables -------------------------------------------------------------------------


def _walk(node: object) -> Iterator[object]:
    yield node
    if isinstance(node, tuple):
        for part in node:
            yield from _walk(part)
    elif is_dataclass(node) and not isinstance(node, type):
        for part in fields(node):
            yield from _walk(getattr(node, part.name))


def _variables(nodes: object) -> set[str]:
    return {part.base for part in _walk(nodes) if isinstance(part, Path) and part.base.startswith("$")}


def _tracked(nodes: object) -> set[str]:
    """The variables that ``nodes`` use, and those that these are made of."""
    used = _variables(nodes)
    return used | ({"$prev"} if "$prev2" in used else set())


def _mentions(nodes: object, name: str) -> bool:
    return any(isinstance(part, Path) and name in part.fields for part in _walk(nodes))


def _find(name: str, start: int | str, found: Expression, when: Expression) -> Nodes:
    """``$name``: of the last message of which ``when`` holds."""
    seen = If(when, (Assign(name, found, declare=False),))
    return (Assign(name, Literal(start)), Range(_MESSAGES, (seen,), "$i", "$m"))


_IS_SYSTEM = call("eq", field("Role"), text("system"))
_IS_USER = call("eq", field("Role"), text("user"))
_IS_ANSWER = call("and", call("eq", field("Role"), text("assistant")), call("not", field("ToolCalls")))


def _before_messages(nodes: object) -> Nodes:
    """What is computed once, in front of everything."""
    used = _tracked(nodes)
    found: list[Node] = []
    first = call("index", _MESSAGES, Literal(0))
    keep: Nodes = ()
    if "$system" in used:
        found.append(Assign("$system", Literal("")))
        keep += (Assign("$system", field("Content"), declare=False),)
    if "$start" in used:
        found.append(Assign("$start", Literal(0)))
        keep += (Assign("$start", Literal(1), declare=False),)
    if keep:
        found.append(With(first, (If(_IS_SYSTEM, keep),)))
    if "$lastsystem" in used:
        last = If(_IS_SYSTEM, (Assign("$lastsystem", field("Content"), declare=False),))
        found += [Assign("$lastsystem", Literal("")), Range(_MESSAGES, (last,))]
    if "$user" in used:
        found += _find("$user", -1, variable("i"), _IS_USER)
    if "$user1" in used:
        when = call("and", _IS_USER, call("lt", variable("user1"), Literal(0)))
        found += _find("$user1", -1, variable("i"), when)
    if "$answer" in used:
        found += _find("$answer", -1, variable("i"), _IS_ANSWER)
    for name, (start, _) in _TRACKED.items():
        if name in used:
            found.append(Assign(name, Literal(start)))
    return tuple(found)


def _within_message(nodes: object) -> Nodes:
    """What is computed at the start of each message."""
    used = _variables(nodes)
    found: list[Node] = []
    if used & {"$last", "$next", "$nextcalls"}:
        rest = call("len", call("slice", _MESSAGES, variable("i")))
        found.append(Assign("$last", call("eq", rest, Literal(1))))
    take: list[Node] = []
    if "$next" in used:
        found.append(Assign("$next", Literal("")))
        take.append(Assign("$next", field("Role"), declare=False))
    if "$nextcalls" in used:
        found.append(Assign("$nextcalls", Literal(0)))
        take.append(Assign("$nextcalls", call("len", field("ToolCalls")), declare=False))
    if take:
        following = call("index", call("slice", _MESSAGES, variable("i")), Literal(1))
        found.append(If(call("not", variable("last")), (With(following, tuple(take)),)))
    if "$think" in used:
        found.append(Assign("$think", field("Thinking")))
    if "$calls" in used:
        found.append(Assign("$calls", field("ToolCalls")))
    return tuple(found)


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
    "$resultnumber": ("", If(call("eq", field("Role"), text("tool")), (_more("$resultnumber"),))),
    "$resultplace": (
        "",
        If(
            call("eq", field("Role"), text("tool")),
            (_more("$resultplace"),),
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
        If(call("eq", field("Role"), text("tool")), (Assign("$seentool", Literal(True), declare=False),)),
    ),
    "$seenassistant": (
        False,
        If(
            call("eq", field("Role"), text("assistant")),
            (Assign("$seenassistant", Literal(True), declare=False),),
        ),
    ),
}


def _behind_message(nodes: object) -> Nodes:
    """What is remembered of each message."""
    used = _tracked(nodes)
    return tuple(change for name, (_, change) in _TRACKED.items() if name in used and change is not None)
