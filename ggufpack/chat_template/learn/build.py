"""From decision trees to the nodes of a Go template.

What both answers of a question print alike is hoisted out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
)
from ggufpack.chat_template.learn.helpers import Helpers, field, python_boolean
from ggufpack.chat_template.learn.pieces import Loop, Value, common_prefix, common_suffix
from ggufpack.chat_template.learn.preludes import (
    IS_SYSTEM,
    MESSAGES,
    before_messages,
    behind_message,
    mentions,
    more,
    variables,
    within_argument,
    within_message,
)
from ggufpack.chat_template.learn.slots import HEAD, TAIL
from ggufpack.chat_template.learn.spelled import DOT, Nodes
from ggufpack.chat_template.learn.tables import Branch, Tree, call, condition, negated, text, variable
from ggufpack.chat_template.learn.values import Spelling

_ROLES = ("system", "user", "assistant", "tool")
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
        by_value: whether a message that repeats the last user's is taken for it.
        empty_system: whether a leading system message without text is printed as one.
        spelling: of lists and objects in arguments, where it is the template's own.
        thinking_tags: around reasoning, for Ollama to find; ``None`` for none.
        declares_tools: whether to mention tools and calls for Ollama's sake though none are printed.
    """

    trees: Mapping[str, Tree]
    first_call_only: bool = False
    required_loops: frozenset[str] = frozenset()
    by_value: bool = False
    empty_system: bool = False
    thinking_tags: tuple[str, str] | None = None
    spelling: Spelling | None = None


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
        body = (*within_message(branches), *branches, *behind_message((branches, tail)))
        loop = Range(MESSAGES, body, "$i", "$m")
        main: Nodes = (*head, loop, *tail, *self._hints((head, branches, tail)))
        return (*self.helpers.defines, *before_messages((main,)), *main)

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
                if item.feature == "last_user" and self.learnt.by_value:
                    asked = call("eq", Path("$m", ("Content",)), variable("usertext"))
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
        if kind == "items_type":
            expression: Expression = call("index", Path("$v", ("Items",)), text("type"))
        else:
            expression = _expression(kind, slot)
        if kind == "none":
            return (Text("None"),)
        if kind == "flag":
            return python_boolean(expression)
        if spelling == "own" and self.learnt.spelling is not None:
            return (Include(self.helpers.spelled(self.learnt.spelling), expression),)
        if spelling == "raw":
            return (self.helpers.trimmed(value.left, value.right, expression),)
        if (
            kind in _TEXTS
            or kind == "items_type"
            or (kind == "value" and spelling in ("quoted", "html", "repr-text"))
        ):
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
        body = self._nodes(name) if kind != "inner" else ()
        if kind == "instruction":
            return _system_loop(self._printed[name], body)
        if kind == "definition":
            return (Range(_TOOLS, body, "$j", "$t"),)
        if kind == "call":
            calls: Expression = field("ToolCalls")
            if "$callnumber" in variables(body):
                body = (*body, more("$callnumber"))
            if "$callplace" in variables(body):
                body = (*body, more("$callplace"))
            if self.learnt.first_call_only:
                calls = call("slice", calls, text(0), text(1))
            place: Nodes = (Assign("$callplace", Literal("")),) if "$callplace" in variables(body) else ()
            # Ollama reads the calls' tag from the first text of the first `if .ToolCalls`
            return (*place, If(field("ToolCalls"), (Range(calls, body, "$j", "$c"),)))
        if kind == "argument":
            return _map_loop(field("Function", "Arguments"), (*within_argument(body), *body))
        if kind == "option":
            return (Range(Path("$v", ("Enum",)), body, "$i", "$o"),)
        if name in self.learnt.required_loops:
            return _counted(Range(Path("$t", ("Function", "Parameters", "Required")), body, "$i", "$k"))
        if kind == "inner":
            return (
                Include(
                    self.helpers.block(name, lambda: self._properties(variable("s"), name)), variable("v")
                ),
            )
        return self._properties(Path("$t", ("Function", "Parameters")), name)

    def _properties(self, schema: Path, name: str) -> Nodes:
        """The loop over the properties of ``schema``."""
        body = self._nodes(name)
        if "$required" in variables(body):
            names = replace(schema, fields=(*schema.fields, "Required"))
            found = Assign("$required", Literal(True), declare=False)
            is_required = Range(names, (If(call("eq", DOT, variable("k")), (found,)),))
            body = (Assign("$required", Literal(False)), is_required, *body)
        if schema == variable("s"):
            return (Assign("$s", DOT), *_map_loop(field("Properties", "ToMap"), body))
        return _map_loop(field("Function", "Parameters", "Properties"), body)

    def _hints(self, parts: tuple[Nodes, ...]) -> Nodes:
        """Dead blocks from which Ollama reads what the template can do (facts: thinking.InferTags)."""
        hints: list[Node] = []
        if self.learnt.thinking_tags:
            opening, closing = self.learnt.thinking_tags
            shown: Nodes = (Text(opening), Print(field("Thinking")), Text(closing))
            hints.append(If(Literal(False), (Range(_MESSAGES_OF_ROOT, shown),)))
        if any(slot.startswith("call") for slot in self.learnt.trees) and not mentions(parts, "Tools"):
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
    "property_type": Path("$v", ("Type", "String")),
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
    "items": Path("$v", ("Items",)),
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
    if "$n" not in variables(loop.body):
        return (loop,)
    counted = (*loop.body, Assign("$n", Literal(1), declare=False))
    return (Assign("$n", Literal(0)), replace(loop, body=counted))


# what Ollama's own .System is: all system messages, joined (template.go, collate)
_JOINED: Printed = (Choice("first", (), ("\n\n",)), Value("system"))


_COUNTS = {
    "call_number": "callnumber",
    "call_place": "callplace",
    "result_number": "resultnumber",
    "result_place": "resultplace",
}


def _system_loop(printed: Printed, body: Nodes) -> Nodes:
    """All system messages of a conversation, one after the other."""
    if printed == _JOINED:
        return (Print(Path("$", ("System",))),)
    counted: Nodes = _renamed(body)
    if "$n" not in variables(body):
        return (Range(MESSAGES, (If(IS_SYSTEM, counted),)),)
    counted = (*counted, Assign("$n", Literal(1), declare=False))
    return (Assign("$n", Literal(0)), Range(MESSAGES, (If(IS_SYSTEM, counted),)))


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
