"""Whether Ollama reads a model's calls back when it runs a Go TEMPLATE.

Source: Ollama 0.33.0, ``tools/tools.go``: behind the TEMPLATE's tag it looks for a tool's name, and for a
JSON object that holds the arguments. A call in any other form reaches the user as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ggufpack.chat_template.go.inspect import tool_call_tag
from ggufpack.chat_template.go.nodes import Template


def reads_call(template: Template, answer: str, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether one call is found in an answer, with these arguments.

    Args:
        template: says which tag stands in front of calls.
        answer: what the model generates for the call.
        name: of the tool.
        arguments: of the call.
    """
    tag = tool_call_tag(template)
    before, found, behind = answer.partition(tag)
    if not found or (tag in ("{", "[") and before.strip()):
        return False
    return name in behind and _arguments(tag + behind, name) == arguments


def _arguments(text: str, name: str) -> Any:
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:
            start = text.find("{", start + 1)
            continue
        is_found, arguments = _within(value, name)
        return arguments if is_found else value
    return None


def _within(value: Any, name: str) -> tuple[bool, Any]:
    """``findObject``: by the key ``arguments`` or ``parameters`` beside ``name``, or by the tool's name."""
    if isinstance(value, list):
        found = (_within(item, name) for item in value if isinstance(item, dict))
        return next((one for one in found if one[0]), (False, None))
    if not isinstance(value, dict):
        return False, None
    if "name" in value:
        held = (_as_map(value.get(key)) for key in ("arguments", "parameters"))
        return True, next((one for one in held if one is not None), None)
    if (own := _as_map(value.get(name))) is not None:
        return True, own
    found = (_within(item, name) for item in value.values())
    return next((one for one in found if one[0]), (False, None))


def _as_map(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None
