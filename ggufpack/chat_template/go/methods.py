"""Methods of Ollama's types that a TEMPLATE can name like a field (api/types.go, template/template.go)."""

from __future__ import annotations

from collections.abc import Callable

from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.formatting import stringer
from ggufpack.chat_template.go.structs import ZERO_PROPERTY
from ggufpack.chat_template.go.values import Map, OrderedProperties, Pairs, Pointer, Slice, Struct, Value

_TYPESCRIPT = {
    b"string": b"string",
    b"number": b"number",
    b"integer": b"number",
    b"boolean": b"boolean",
    b"array": b"any[]",
    b"object": b"Record<string, any>",
    b"null": b"null",
}


def typescript_type(value: Value) -> bytes:
    """api.ToolProperty.ToTypeScriptType; ``any`` for everything else."""
    item = value.to if isinstance(value, Pointer) else value
    if not isinstance(item, Struct) or item.type != "api.ToolProperty":
        return b"any"
    any_of, types = item.get("AnyOf"), item.get("Type")
    if isinstance(any_of, Slice) and any_of.elements:
        return b" | ".join(map(typescript_type, any_of.elements))
    names = types.elements if isinstance(types, Slice) else ()
    return b" | ".join(_TYPESCRIPT.get(name, b"any") for name in names if isinstance(name, bytes)) or b"any"


def method(value: Value, name: str) -> Callable[[], Value] | None:
    """A method of ``value`` to call without arguments, or ``None`` where its type has none of that name.

    Raises:
        GoTemplateError: Go has it and this package does not.
    """
    item: Value = value.to if isinstance(value, Pointer) else value
    if name == "String":
        text = stringer(item)
        return None if text is None else lambda: text
    if name == "ToTypeScriptType" and isinstance(item, Struct) and item.type == "api.ToolProperty":
        return lambda: typescript_type(item)
    if isinstance(item, OrderedProperties):
        return _of_properties(item, name)
    if isinstance(item, Slice) and item.type == "api.PropertyType" and name.endswith("MarshalJSON"):
        raise GoTemplateError(f"the method {name} is not supported here")
    return None


def _of_properties(item: OrderedProperties, name: str) -> Callable[[], Value] | None:
    entries = item.entries or {}
    if name == "Len":
        return lambda: len(entries)
    if name == "All":
        return lambda: Pairs(entries)
    if name == "ToMap":
        return lambda: Map("map[string]api.ToolProperty", item.entries, ZERO_PROPERTY)
    if name in ("Get", "Set", "MarshalJSON", "UnmarshalJSON"):
        raise GoTemplateError(f"the method {name} is not supported here")
    return None
