"""The data that Ollama gives to a TEMPLATE for a conversation.

Source: Ollama 0.33.0, ``api/types.go`` (what is read of a request), ``template/template.go`` (collate,
convertToolsForTemplate, convertMessagesForTemplate) and ``server/prompt.go`` (renderPrompt).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.conversation import ToolCall as Call
from ggufpack.chat_template.go import structs
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.values import (
    NIL,
    Map,
    OrderedProperties,
    Pointer,
    Slice,
    Struct,
    Value,
)


@dataclass(frozen=True)
class Collated:
    """Messages with neighbours merged, and all system texts in one."""

    system: str
    messages: tuple[Message, ...]


def collate(messages: Sequence[Message]) -> Collated:
    """Neighbours of one role become one message, except tool results.

    Of merged messages only the contents are kept: the later one's calls and thinking are lost.
    """
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role != "tool":
            merged[-1] = replace(merged[-1], content=f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(message)
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    return Collated(system, tuple(merged))


def root(entries: Mapping[str, Value], think: bool | None) -> Map:
    """``$``: ``entries`` and what every TEMPLATE is told about thinking."""
    found: dict[bytes, Value] = {key.encode(): value for key, value in entries.items()}
    found[b"Think"] = bool(think)
    found[b"ThinkLevel"] = b"medium" if think else b""  # api.ThinkValue.String
    found[b"IsThinkSet"] = think is not None
    return Map("map[string]interface {}", found)


def chat_data(conversation: Conversation) -> Map:
    """``$`` for a TEMPLATE that uses ``.Messages``.

    Raises:
        GoTemplateError: Ollama would not take the tools.
    """
    collated = collate(conversation.messages)
    tools = [_tool(tool) for tool in conversation.tools]
    entries: dict[str, Value] = {
        "System": collated.system.encode(),
        "Messages": Slice(
            "[]*template.templateMessage", [Pointer(_message(each)) for each in collated.messages]
        ),
        "Tools": Slice("template.templateTools", tools or None),
        "Response": b"",
    }
    return root(entries, conversation.think)


def _message(message: Message) -> Struct:
    calls = [_call(call) for call in message.calls]
    return structs.Message(
        Role=message.role.encode(),
        Content=message.content.encode(),
        Thinking=message.thinking.encode(),
        ToolCalls=Slice("[]template.templateToolCall", calls or None),
        # Conversation.for_ollama sends them for results only
        ToolName=message.tool_name.encode() if message.role == "tool" else b"",
        ToolCallID=message.tool_call_id.encode() if message.role == "tool" else b"",
    )


def _call(call: Call) -> Struct:
    arguments = Map(
        "template.templateArgs", {key.encode(): any_value(item) for key, item in call.arguments.items()}
    )
    return structs.ToolCall(
        ID=call.id.encode(), Function=structs.CallFunction(Name=call.name.encode(), Arguments=arguments)
    )


def any_value(value: object) -> Value:
    """A JSON value as Go reads it into an ``any``: every number is a float64."""
    if value is None:
        return NIL
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, Mapping):
        return Map(
            "map[string]interface {}", {str(key).encode(): any_value(item) for key, item in value.items()}
        )
    if isinstance(value, Sequence):
        return Slice("[]interface {}", [any_value(item) for item in value])
    raise GoTemplateError(f"not a JSON value: {type(value).__name__}")


def _get(source: object, key: str) -> Any:
    """A key of a JSON object as Go finds it: in any case, the last one counts."""
    if source is None:
        return None
    if not isinstance(source, Mapping):
        raise GoTemplateError(f"Ollama wants an object around {key!r} in a tool")
    found = [item for name, item in source.items() if str(name).lower() == key.lower()]
    return found[-1] if found else None


def _text(source: object, key: str) -> bytes:
    value = _get(source, key)
    if value is None:
        return b""
    if not isinstance(value, str):
        raise GoTemplateError(f"Ollama wants a string for {key!r} in a tool")
    return value.encode()


def _list(source: object, key: str) -> list[Any] | None:
    value = _get(source, key)
    if value is not None and not isinstance(value, (list, tuple)):
        raise GoTemplateError(f"Ollama wants a list for {key!r} in a tool")
    return None if value is None else list(value)


def _strings(source: object, key: str) -> Slice:
    return Slice("[]string", None if (items := _list(source, key)) is None else _all_strings(items, key))


def _all_strings(items: Sequence[object], key: str) -> list[bytes]:
    if not all(item is None or isinstance(item, str) for item in items):
        raise GoTemplateError(f"Ollama wants strings in {key!r} of a tool")
    return [item.encode() if isinstance(item, str) else b"" for item in items]


def _tool(tool: Mapping[str, Any]) -> Struct:
    function = _get(tool, "function")
    parameters = _get(function, "parameters")
    properties = _get(parameters, "properties")
    return structs.Tool(
        Type=_text(tool, "type"),
        Items=any_value(_get(tool, "items")),
        Function=structs.ToolFunction(
            Name=_text(function, "name"),
            Description=_text(function, "description"),
            Parameters=structs.Parameters(
                Type=_text(parameters, "type"),
                Defs=any_value(_get(parameters, "$defs")),
                Items=any_value(_get(parameters, "items")),
                Required=_strings(parameters, "required"),
                Properties=Map("template.templateProperties", _properties(properties), structs.ZERO_PROPERTY),
            ),
        ),
    )


def _properties(source: object) -> dict[bytes, Value] | None:
    if source is None:
        return None
    if not isinstance(source, Mapping):
        raise GoTemplateError("Ollama wants an object for 'properties' of a tool")
    return {str(key).encode(): _property(item) for key, item in source.items()}


def _property(source: object) -> Struct:
    any_of = _list(source, "anyOf")
    enum = _list(source, "enum")
    return structs.Property(
        AnyOf=Slice("[]api.ToolProperty", None if any_of is None else [_property(item) for item in any_of]),
        Type=_property_type(source),
        Items=any_value(_get(source, "items")),
        Description=_text(source, "description"),
        Enum=Slice("[]interface {}", None if enum is None else [any_value(item) for item in enum]),
        Properties=OrderedProperties(_properties(_get(source, "properties"))),
        Required=_strings(source, "required"),
    )


def _property_type(source: object) -> Slice:
    """A string or a list of strings; an explicit null is the empty string."""
    value = _get(source, "type")
    if isinstance(value, str):
        return Slice("api.PropertyType", [value.encode()])
    if value is None:
        named = isinstance(source, Mapping) and any(str(name).lower() == "type" for name in source)
        return Slice("api.PropertyType", [b""] if named else None)
    return Slice("api.PropertyType", _all_strings(_list(source, "type") or [], "type"))
