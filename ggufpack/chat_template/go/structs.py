"""Ollama's types that a TEMPLATE sees: their fields in Go's order, with their JSON tags.

Source: Ollama 0.33.0, ``template/template.go`` (templateMessage, templateTool, …) and ``api/types.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ggufpack.chat_template.go.values import NIL, Field, Map, OrderedProperties, Slice, Struct, Value


@dataclass(frozen=True)
class StructType:
    """A struct type; ``zero`` holds each field's zero value."""

    name: str
    fields: tuple[Field, ...]
    zero: tuple[Value, ...]

    def __call__(self, **values: Value) -> Struct:
        """A struct with these fields set and the others zero."""
        known = {field.name: value for field, value in zip(self.fields, self.zero, strict=True)}
        return Struct(self.name, self.fields, tuple((known | values).values()))


def _type(name: str, fields: Mapping[Field, Value]) -> StructType:
    return StructType(name, tuple(fields), tuple(fields.values()))


def _untagged(name: str) -> Field:
    return Field(name, name)


_NO_STRINGS = Slice("[]string", None)

Property = _type(
    "api.ToolProperty",
    {
        Field("AnyOf", "anyOf", True): Slice("[]api.ToolProperty", None),
        Field("Type", "type", True): Slice("api.PropertyType", None),
        Field("Items", "items", True): NIL,
        Field("Description", "description", True): b"",
        Field("Enum", "enum", True): Slice("[]interface {}", None),
        Field("Properties", "properties", True): OrderedProperties(None),
        Field("Required", "required", True): _NO_STRINGS,
    },
)
ZERO_PROPERTY = Property()

Parameters = _type(
    "template.templateToolFunctionParameters",
    {
        Field("Type", "type"): b"",
        Field("Defs", "$defs", True): NIL,
        Field("Items", "items", True): NIL,
        Field("Required", "required", True): _NO_STRINGS,
        Field("Properties", "properties"): Map("template.templateProperties", None, ZERO_PROPERTY),
    },
)
ToolFunction = _type(
    "template.templateToolFunction",
    {
        Field("Name", "name"): b"",
        Field("Description", "description"): b"",
        Field("Parameters", "parameters"): Parameters(),
    },
)
Tool = _type(
    "template.templateTool",
    {Field("Type", "type"): b"", Field("Items", "items", True): NIL, Field("Function", "function"): b""},
)
CallFunction = _type(
    "template.templateToolCallFunction",
    {
        _untagged("Index"): 0,
        _untagged("Name"): b"",
        _untagged("Arguments"): Map("template.templateArgs", None),
    },
)
ToolCall = _type("template.templateToolCall", {_untagged("ID"): b"", _untagged("Function"): b""})
Message = _type(
    "template.templateMessage",
    {
        _untagged("Role"): b"",
        _untagged("Content"): b"",
        _untagged("Thinking"): b"",
        _untagged("Images"): Slice("[]api.ImageData", None),
        _untagged("ToolCalls"): Slice("[]template.templateToolCall", None),
        _untagged("ToolName"): b"",
        _untagged("ToolCallID"): b"",
    },
)
