"""Conversations that mix everything at random: a second opinion, written apart from the held-out ones."""

from __future__ import annotations

import random

from ggufpack.chat_template.conversation import Conversation, Json, Message, ToolCall
from ggufpack.chat_template.traits import Traits


def _tool(name: str, description: str, required: list[str], **properties: Json) -> Json:
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


_TEXTS = (
    "Hello there",
    'It is <b>4</b> & "more"',
    "naïve 中文 🙂 it's",
    "line one\nline two",
    "a",
    "back\\slash {x} {{y}}",
    "100% `code`",
)
_TOOLS: tuple[Json, ...] = (
    _tool(
        "get_weather",
        "Get the weather",
        ["city"],
        city={"type": "string", "description": "The <city> & state, e.g. 北京"},
        days={"type": "integer", "description": 'Number of "days"'},
    ),
    _tool("search", "Search it's & more", ["query"], query={"type": "string", "description": "text"}),
    _tool(
        "run_code",
        "Run",
        ["code"],
        code={"type": "string"},
        fast={"type": "boolean", "description": "Quick?"},
        unit={"type": "string", "description": "Unit", "enum": ["c", "f"]},
    ),
)
_VALUES = ("Paris", 'a <b> & "c"', "中文 🙂", "l1\nl2", 5, True, [1, "x"], {"k": "v"})


def random_conversations(traits: Traits, capabilities: frozenset[str], count: int) -> list[Conversation]:
    """Seeded conversations that use ``capabilities``."""
    source = random.Random(77)
    return [_conversation(source, traits, capabilities) for _ in range(count)]


def _conversation(source: random.Random, traits: Traits, capabilities: frozenset[str]) -> Conversation:
    messages: list[Message] = []
    if "system" in capabilities and source.random() < 0.5:
        messages.append(Message("system", source.choice(_TEXTS)))
    length = source.randint(1, 10)
    while True:
        # neighbours' texts differ: some templates compare messages by value
        messages.append(Message("user", f"{source.choice(_TEXTS)} #{len(messages)}"))
        while "calls" in capabilities and source.random() < 0.45:
            messages += _round(source, traits, capabilities)
        if len(messages) >= length and ("prefill" not in capabilities or source.random() < 0.7):
            break
        messages.append(Message("assistant", source.choice(_TEXTS), _thought(source, capabilities)))
        if len(messages) >= length and "prefill" in capabilities:
            break
    tools = source.choice([(), _TOOLS[:1], _TOOLS[:2], _TOOLS]) if "tools" in capabilities else ()
    if traits.chat == "with-tools":
        tools = tools or _TOOLS[:1]
    think = source.choice([None, True, False]) if "thinking" in capabilities and traits.switches else None
    roles = " ".join(message.role for message in messages)
    return Conversation(roles, tuple(messages), tools, think)


def _round(source: random.Random, traits: Traits, capabilities: frozenset[str]) -> list[Message]:
    count = 1 if traits.parallel == "raises" else source.randint(1, 3)
    calls = tuple(_call(source) for _ in range(count))
    content = source.choice(("", source.choice(_TEXTS)))
    caller = Message("assistant", content, _thought(source, capabilities), calls)
    texts = (*_TEXTS, '{"temp": 21, "unit": "C"}')
    results = [
        Message("tool", source.choice(texts), tool_name=call.name, tool_call_id=call.id) for call in calls
    ]
    return [caller, *results]


def _call(source: random.Random) -> ToolCall:
    names = source.choice([("city", "days"), ("query",), ("a", "b", "c")])
    arguments = {name: source.choice(_VALUES) for name in names}
    return ToolCall(f"{source.randrange(10**9):09d}", source.choice(("get_weather", "search")), arguments)


def _thought(source: random.Random, capabilities: frozenset[str]) -> str:
    return source.choice(_TEXTS) if "thinking" in capabilities and source.random() < 0.5 else ""
