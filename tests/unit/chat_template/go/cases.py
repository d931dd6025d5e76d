"""Conversations with everything in them, random templates, and the comparison with Ollama's own engine."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.go.nodes import Assign, Call, If, Include, Literal, Path, Print, Range, Text, With
from ggufpack.chat_template.go.parse import parse
from tests.support.go_template_oracle.oracle import GoOracle

TEXTS = (
    "",
    "Hello there",
    " edges \n",
    'It is <b>4</b> & "more" it\'s',
    "中文 🙂 naïve\u00a0\u2028",
    "line one\nline two\r\n\ttabbed",
    "back\\slash {x} {{y}} %d `code`",
    "\x00\x7f\x1b",
)
_DEEP = {"nested": {"b": [1, "x", None], "a": {"<k>": True}}, "Ü": "ü"}
_VALUES: tuple[Any, ...] = (
    *TEXTS,
    5,
    -3,
    0,
    2.5,
    0.00001,
    0.0001,
    999999,
    1000000,
    -1234567,
    999999.5,
    1e6 + 0.5,
    1e-7,
    1e20,
    1e21,
    123456789012345678,
    True,
    False,
    None,
    [],
    [1, "x", [None]],
    {},
    _DEEP,
)
_PROPERTIES: dict[str, Any] = {
    "city": {"type": "string", "description": 'The <city> & "state"', "enum": ["北京", 1, None, True]},
    "days": {"type": ["integer", "null"], "description": "", "default": 3},
    "any": {"anyOf": [{"type": "string"}, {"type": ["number", "boolean"]}]},
    "list": {"type": "array", "items": {"type": "object", "properties": {"z": 1, "a": 2}}},
    "object": {
        "type": "object",
        "properties": {"z": {"type": "string"}, "a<": {"type": "x"}},
        "required": ["z"],
    },
    "bare": {},
}


def tool(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **more}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name} & <more>", "parameters": parameters},
    }


TOOLS = (
    tool("search", {"query": {"type": "string", "description": "text"}}, required=["query"]),
    tool("everything", _PROPERTIES, required=["city", "days"]),
    tool("defs", {}, **{"$defs": {"b": 1, "a": [2]}, "additionalProperties": False}),
    {"type": "function", "function": {"name": "none"}},
)


def conversations(seed: int, count: int) -> list[Conversation]:
    """Random ones: neighbours of one role, system anywhere, calls, results, thinking, tools."""
    rnd = random.Random(seed)
    return [conversation(rnd, f"{seed}-{index}") for index in range(count)]


def conversation(rnd: random.Random, name: str) -> Conversation:
    messages = [_message(rnd) for _ in range(rnd.randrange(1, 7))]
    tools = tuple(rnd.sample(TOOLS, rnd.choice([0, 0, 1, 2])))
    return Conversation(name, tuple(messages), tools, rnd.choice([None, True, False]))


def _message(rnd: random.Random) -> Message:
    role = rnd.choice(["system", "user", "user", "assistant", "assistant", "tool"])
    text = rnd.choice(TEXTS)
    if role == "tool":
        return Message("tool", text, tool_name="search", tool_call_id=rnd.choice(["", "call_<1>"]))
    if role == "assistant":
        calls = tuple(_call(rnd, index) for index in range(rnd.choice([0, 0, 1, 2])))
        return Message("assistant", text, rnd.choice(["", *TEXTS]), calls)
    return Message("user" if role == "user" else "system", text)


def _call(rnd: random.Random, index: int) -> ToolCall:
    keys = rnd.sample(["z", "a", "<m>", "ü", "city"], rnd.randrange(0, 4))
    return ToolCall(rnd.choice(["", f"c{index}"]), "search", {key: rnd.choice(_VALUES) for key in keys})


# --- random templates ---------------------------------------------------------

_FIELDS = {
    "root": ("System", "Think", "IsThinkSet", "ThinkLevel", "Response", "Tools", "Missing"),
    "message": ("Role", "Content", "Thinking", "ToolName", "ToolCallID", "ToolCalls", "Images"),
    "tool": ("Type", "Function", "Items"),
    "call": ("ID", "Function"),
    "string": (),
    "any": (),
}
_SCALARS = {
    "root": ("System", "ThinkLevel", "Response"),
    "message": ("Role", "Content", "Thinking"),
    "tool": ("Type",),
    "call": ("ID",),
}
_PRINTED = ("a", " ", "\n", "{", "{{", "}}", "<|x|>\n", "  {", "\t", "x\n\n", "-", "- b", "{{- x }}", "/* */")
_RANGES = {
    "root": (("Messages", "message"), ("Tools", "tool")),
    "message": (("ToolCalls", "call"),),
    "tool": (("Function.Parameters.Required", "string"), ("Function.Parameters.Properties", "any")),
    "call": (("Function.Arguments", "any"),),
}


@dataclass
class Scope:
    """Where a node is generated: what the dot is, the variables there, and whether ``break`` may stand."""

    dot: str
    variables: tuple[str, ...] = ()
    in_loop: bool = False


class TemplateMaker:
    """Random templates, most of which run without an error."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.names = 0
        self.may_include = False  # a definition that includes itself would not end

    def template(self) -> nodes.Template:
        definition = nodes.Define("d", self.body(Scope("any"), 2))
        self.may_include = True
        loop = Range(Path("", ("Messages",)), self.body(Scope("message", ("$i",), True), 3), "$i", "$m")
        return (definition, *self.body(Scope("root"), 2), loop, *self.body(Scope("root"), 3))

    def body(self, scope: Scope, depth: int) -> tuple[nodes.Node, ...]:
        found: list[nodes.Node] = []
        scope = Scope(scope.dot, scope.variables, scope.in_loop)
        for _ in range(self.rnd.randrange(0, 5)):
            node = self.node(scope, depth)
            if isinstance(node, Assign) and node.declare:
                scope.variables += (node.name,)
            found.append(node)
        return tuple(found)

    def node(self, scope: Scope, depth: int) -> nodes.Node:
        pick = self.rnd.randrange(0, 16 if depth else 8)
        if pick < 4:
            return Text(self.rnd.choice(_PRINTED))
        if pick < 6:
            return Print(self.printed(scope))
        if pick == 6:
            if scope.variables and self.rnd.random() < 0.5:
                return Assign(self.rnd.choice(scope.variables), self.printed(scope), False)
            self.names += 1
            return Assign(f"$v{self.names}", self.printed(scope))
        if pick == 7 and scope.in_loop:
            leaves: list[nodes.Node] = [nodes.Break(), nodes.Continue(), Text("c")]
            return self.rnd.choice(leaves)
        if pick == 7:
            arguments: list[nodes.Expression] = [Path(""), Path("$"), Literal("x")]
            return Include("d", self.rnd.choice(arguments)) if self.may_include else Text("d")
        if pick < 12:
            chained = self.rnd.random() < 0.3
            otherwise = (
                (self.node(scope, 0),) if not chained else (If(self.condition(scope), self.body(scope, 0)),)
            )
            return If(self.condition(scope), self.body(scope, depth - 1), self.rnd.choice([(), otherwise]))
        if pick < 14:
            return With(
                self.printed(scope), self.body(Scope("any", scope.variables, scope.in_loop), depth - 1)
            )
        return self.loop(scope, depth)

    def loop(self, scope: Scope, depth: int) -> Range:
        over, dot = self.rnd.choice(_RANGES.get(scope.dot, (("", "any"),)))
        expression: nodes.Expression = Path("", tuple(over.split("."))) if over else Literal(3)
        key, value = self.rnd.choice([("", ""), ("", "$v"), ("$k", "$v")])
        key = key if over else ""
        names = tuple(name for name in (key, value) if name)
        inner = Scope(dot, scope.variables + names, True)
        otherwise = self.body(scope, 0) if self.rnd.random() < 0.2 else ()
        return Range(expression, self.body(inner, depth - 1), key, value, otherwise)

    def scalar(self, scope: Scope) -> nodes.Expression:
        names = _SCALARS.get(scope.dot)
        if names and self.rnd.random() < 0.6:
            return Path("", (self.rnd.choice(names),))
        return Literal(self.rnd.choice(["user", "tool", 'q"', "", "b`\\", "\n", "ü\u00a0"]))

    def condition(self, scope: Scope) -> nodes.Expression:
        pick = self.rnd.randrange(0, 6)
        if pick == 0:
            return Call(
                self.rnd.choice(["eq", "ne", "lt", "le", "gt", "ge"]),
                (self.scalar(scope), self.scalar(scope)),
            )
        if pick == 1:
            return Call(self.rnd.choice(["and", "or"]), (self.condition(scope), self.condition(scope)))
        if pick == 2:
            return Call("not", (self.condition(scope),))
        return self.printed(scope)

    def printed(self, scope: Scope) -> nodes.Expression:
        pick = self.rnd.randrange(0, 16)
        names = _FIELDS.get(scope.dot, ())
        if pick < 5 and names:
            return Path("", (self.rnd.choice(names),))
        if pick < 7 and scope.variables:
            return Path(self.rnd.choice(scope.variables))
        if pick == 7:
            return Call("json", (Path("", (self.rnd.choice(names),)) if names else Path(""),))
        if pick == 8:
            return Call(
                "printf",
                (Literal(self.rnd.choice(["%s|", "%v", "%q", "%T", "%d%%", "%t"])), self.scalar(scope)),
            )
        if pick == 9:
            return Call("len", (self.scalar(scope),))
        if pick == 10:
            return Call("slice", (Path("$", ("Messages",)), Literal(1), Literal(1)))
        if pick == 11:
            return Call(
                self.rnd.choice(["print", "println", "html"]),
                (self.scalar(scope), self.number(), self.number()),
            )
        if pick == 12:
            last = Call("slice", (Path("$", ("Messages",)), Literal(0)))
            return nodes.Chain(Call("index", (last, Literal(0))), (self.rnd.choice(_FIELDS["message"]),))
        if pick == 13:
            return nodes.Pipe((self.scalar(scope), Call("printf", (Literal("%s"),)), Call("len", ())))
        return self.scalar(scope)

    def number(self) -> nodes.Expression:
        return Literal(self.rnd.choice([0, 1, -5, 2.5, True]))


# --- the comparison -----------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    template: str
    conversation: Conversation
    ollama: str | None
    ours: str | None
    why: str


def compare(oracle: GoOracle, cases: Iterable[tuple[str, Conversation]]) -> tuple[list[Difference], int]:
    """What differs from Ollama, and in how many cases both refuse. An error must be one on both sides."""
    pairs = list(cases)
    answers = oracle.ask("render", [request(text, each) for text, each in pairs])
    assert len(answers) == len(pairs)
    differences, refused = [], 0
    for (text, each), answer in zip(pairs, answers, strict=True):
        theirs = None if "error" in answer else answer["text"]
        ours, why = ours_or_none(text, each)
        refused += ours is None and (theirs is None or _prints_an_address(theirs, why))
        if ours != theirs and not _prints_an_address(theirs, why):
            differences.append(Difference(text, each, theirs, ours, why or answer.get("error", "")))
    return differences, refused


def _prints_an_address(theirs: str | None, why: str) -> bool:
    """Go prints where a struct lies in memory: no two runs agree, and we refuse."""
    return theirs is not None and re.search("0x[0-9a-f]{6,}", theirs) is not None and "address" in why


def request(text: str, each: Conversation) -> dict[str, Any]:
    return {
        "template": text,
        "messages": each.for_ollama(),
        "tools": list(each.tools) or None,
        "think": each.think,
    }


def ours_or_none(text: str, each: Conversation) -> tuple[str | None, str]:
    try:
        return render(parse(text), each, today=date.today()), ""
    except GoTemplateError as error:
        return None, str(error)


def shown(differences: Sequence[Difference]) -> str:
    """The first few, for the message of an assertion."""
    return "\n\n".join(f"{each!r}" for each in sorted(differences, key=lambda each: len(each.template))[:3])
