"""Conversations with everything that a chat template can print, in both programs' wire forms.

Ollama's form is ``api.Message`` and ``api.Tool`` (Ollama 0.33, api/types.go); transformers' is what
``apply_chat_template`` hands to the Jinja.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Json = Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A call in an assistant's message. ``arguments`` is a JSON object."""

    id: str
    name: str
    arguments: Json


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: who speaks.
        content: text; a call may come without any.
        thinking: the reasoning before an assistant's answer; empty for none.
        calls: an assistant's tool calls.
        tool_name, tool_call_id: of a tool result.
    """

    role: Role
    content: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True)
class Conversation:
    """A named list of messages, the tools on offer, and whether thinking was asked for.

    When the last message is the assistant's, the model goes on with it (a prefill). ``think`` is
    ``None`` when the caller says nothing.
    """

    name: str
    messages: tuple[Message, ...]
    tools: tuple[Json, ...] = ()
    think: bool | None = None

    @property
    def is_prefill(self) -> bool:
        """Whether the model continues the last message instead of answering it."""
        return self.messages[-1].role == "assistant"

    @property
    def roles(self) -> str:
        """The role path, as refusals name it: ``user/assistant/user``."""
        return "/".join(message.role for message in self.messages)

    def for_jinja(self) -> list[dict[str, Any]]:
        """Messages as transformers hands them to the template; tools are given beside them."""
        return [_for_jinja(message) for message in self.messages]

    def for_ollama(self) -> list[dict[str, Any]]:
        """Messages as ``/api/chat`` takes them."""
        return [_for_ollama(message) for message in self.messages]


def _for_jinja(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        found["reasoning_content"] = message.thinking  # render adds the other names it goes by
    if message.calls:
        found["tool_calls"] = [_call(call) for call in message.calls]
    if message.role == "tool":
        found |= {"name": message.tool_name, "tool_call_id": message.tool_call_id}
    return found


def _for_ollama(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        found["thinking"] = message.thinking
    if message.calls:
        found["tool_calls"] = [_call(call) for call in message.calls]
    if message.role == "tool":
        found |= {"tool_name": message.tool_name, "tool_call_id": message.tool_call_id}
    return found


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}
