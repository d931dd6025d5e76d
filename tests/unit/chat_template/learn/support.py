"""Learning hand-made templates, and asking ours and the Jinja for the same prompt."""

from __future__ import annotations

from datetime import date, datetime

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.learn import CAPABILITIES, Learned, learn
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits

TODAY = datetime(2031, 4, 5, 6, 7, 8)
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}


class Subject:
    """A Jinja, its traits, and what was learned of it."""

    def __init__(self, text: str, capabilities: frozenset[str] = CAPABILITIES) -> None:
        self.jinja = ChatTemplate(text, special_tokens=TOKENS, now=lambda: TODAY)
        self.traits: Traits = probe_traits(self.jinja)
        self.learned: Learned = learn(self.jinja, self.traits, capabilities)
        self.text = emit(self.learned.template)

    def both(
        self, *messages: Message, tools: tuple[dict[str, object], ...] = (), think: bool | None = None
    ) -> tuple[str, str]:
        """The prompt of the learned template, and the Jinja's."""
        conversation = Conversation("case", messages, tools, think)
        ours = render(self.learned.template, conversation, today=date(TODAY.year, TODAY.month, TODAY.day))
        return ours, self.traits.prompt(self.jinja, conversation)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str = "", *calls: ToolCall, thinking: str = "") -> Message:
    return Message("assistant", text, thinking, calls)


def system(text: str) -> Message:
    return Message("system", text)


def call(name: str, identifier: str = "123456789", **arguments: object) -> ToolCall:
    return ToolCall(identifier, name, arguments)


def result(text: str, of: ToolCall) -> Message:
    return Message("tool", text, tool_name=of.name, tool_call_id=of.id)


def tool(
    name: str, description: str = "Does it.", required: list[str] | None = None, **properties: object
) -> dict[str, object]:
    parameters: dict[str, object] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }
