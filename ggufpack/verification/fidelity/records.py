"""One record of a data set: as messages, or as plain text.

The forms are those that trainers read: OpenAI's and TRL's ``messages``, ShareGPT's ``conversations`` and
alpaca's ``instruction`` as LLaMA-Factory takes them (data/README.md there), and ``text``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.checkpoint.jsonfiles import type_name

Message = dict[str, Any]
_ROLES = ("system", "developer", "user", "assistant", "tool")
# keys of a message that templates read besides role and content
_MORE = ("name", "tool_call_id", "reasoning_content", "thinking")
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_CALL = "function_call"
_FORMS = ("messages", "conversations", "instruction", "text")


class RecordError(ValueError):
    """The record is of no known form. ``key`` is the place in it, the text says what is wrong there."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(problem)


@dataclass(frozen=True)
class Record:
    """What one record holds: either messages or text. ``name`` and ``kind`` only where it gives them."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    name: str | None = None
    kind: str | None = None


def parse_record(value: object) -> Record:
    """The record that a line, or an element of a list, holds.

    Raises:
        RecordError: anything that is not one of the four forms, with the key.
    """
    if not isinstance(value, dict):
        raise RecordError("", f"must be a JSON object, and is {type_name(value)}")
    forms = [form for form in _FORMS if form in value]
    if not forms:
        raise RecordError("", f"has none of the keys {', '.join(_FORMS)}")
    if len(forms) > 1:
        raise RecordError(forms[1], f"stands beside {forms[0]!r}: keep the one that is meant")
    name, kind = (None if value.get(key) is None else _string(value, key) for key in ("name", "kind"))
    if forms == ["text"]:
        text = _string(value, "text")
        if not text.strip():
            raise RecordError("text", "is empty")
        return Record(text=text, name=name, kind=kind)
    messages = _CHATS[forms[0]](value)
    if not messages:
        raise RecordError(forms[0], "is empty")
    return Record(messages=messages, name=name, kind=kind)


def _openai(record: Mapping[str, Any]) -> tuple[Message, ...]:
    return tuple(
        _openai_message(item, f"messages[{index}]") for index, item in enumerate(_list(record, "messages"))
    )


def _openai_message(item: object, place: str) -> Message:
    if not isinstance(item, dict):
        raise RecordError(place, f"must be an object, and is {type_name(item)}")
    role = _string(item, "role", place)
    if role not in _ROLES:
        raise RecordError(f"{place}.role", f"is {role!r}, and none of {', '.join(_ROLES)}")
    message: Message = {"role": role, "content": _content(item, place)}
    message |= {key: _string(item, key, place) for key in _MORE if item.get(key) is not None}
    if item.get("tool_calls"):
        calls = _list(item, "tool_calls", place)
        message["tool_calls"] = [
            _call(call, f"{place}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]
    return message


def _content(item: Mapping[str, Any], place: str) -> str:
    """A string, or OpenAI's list of text parts; null only beside tool calls."""
    content = item.get("content")
    if content is None and item.get("tool_calls"):
        return ""
    if not isinstance(content, list):
        return _string(item, "content", place)
    for index, part in enumerate(content):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise RecordError(f"{place}.content[{index}]", "is not a part of text")
    return "".join(part["text"] for part in content)


def _call(call: object, place: str) -> dict[str, Any]:
    """A tool call as templates take it: OpenAI sends the arguments as a string, they want the object."""
    if not isinstance(call, dict):
        raise RecordError(place, f"must be an object, and is {type_name(call)}")
    function = call.get("function", call)
    if not isinstance(function, dict):
        raise RecordError(f"{place}.function", f"must be an object, and is {type_name(function)}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{place}.arguments")
    if not isinstance(arguments, dict):
        raise RecordError(f"{place}.arguments", f"must be an object, and is {type_name(arguments)}")
    name = _string(function, "name", place)
    found = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": call["id"], **found} if isinstance(call.get("id"), str) else found


def _sharegpt(record: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = _system(record)
    for index, item in enumerate(_list(record, "conversations")):
        place = f"conversations[{index}]"
        if not isinstance(item, dict):
            raise RecordError(place, f"must be an object, and is {type_name(item)}")
        speaker, value = _string(item, "from", place), _string(item, "value", place)
        if speaker == _CALL:
            calls = _json(value, f"{place}.value")
            listed = calls if isinstance(calls, list) else [calls]
            made = [_call(call, f"{place}.value") for call in listed]
            messages.append({"role": "assistant", "content": "", "tool_calls": made})
        elif speaker in _SPEAKERS:
            messages.append({"role": _SPEAKERS[speaker], "content": value})
        else:
            known = ", ".join([*_SPEAKERS, _CALL])
            raise RecordError(f"{place}.from", f"is {speaker!r}, and none of {known}")
    return tuple(messages)


def _alpaca(record: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = _system(record)
    for index, pair in enumerate(_list(record, "history") if record.get("history") else ()):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RecordError(f"history[{index}]", "must be a pair of strings")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = _string(record, "instruction")
    if record.get("input"):
        question += "\n" + _string(record, "input")
    return (
        *messages,
        {"role": "user", "content": question},
        {"role": "assistant", "content": _string(record, "output")},
    )


_CHATS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Message, ...]]] = {
    "messages": _openai,
    "conversations": _sharegpt,
    "instruction": _alpaca,
}


def _system(record: Mapping[str, Any]) -> list[Message]:
    """LLaMA-Factory keeps the system message of its two forms beside the turns."""
    return [{"role": "system", "content": _string(record, "system")}] if record.get("system") else []


def _string(record: Mapping[str, Any], key: str, place: str = "") -> str:
    value = record.get(key)
    if not isinstance(value, str):
        found = "is missing" if key not in record else f"must be a string, and is {type_name(value)}"
        raise RecordError(f"{place}.{key}" if place else key, found)
    return value


def _list(record: Mapping[str, Any], key: str, place: str = "") -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise RecordError(f"{place}.{key}" if place else key, f"must be an array, and is {type_name(value)}")
    return value


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(place, f"is not JSON ({error})") from error
