"""Proof by rendering: the checkpoint's template and what replaces it, over the same conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ggufpack.chat_template.probes import Conversation
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

Renderer = Callable[[Sequence[Mapping[str, str]]], str]

# Two days that differ in every part of a date: a template that prints the date gives two texts.
_CLOCKS = (datetime(2021, 3, 9, 7, 5, 1), datetime(2034, 12, 28, 16, 48, 39))


@dataclass(frozen=True)
class Difference:
    """A conversation with two prompts. ``expected`` is the checkpoint's."""

    name: str
    expected: str
    actual: str


@dataclass(frozen=True)
class Proof:
    """What was compared. A conversation that the template refuses is no case; it is named."""

    equal: tuple[str, ...]
    different: tuple[Difference, ...]
    refused: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every case is equal, a plain conversation of several turns among them."""
        return not self.different and {"user only", "two turns", "prefill"} <= set(self.equal)


def prompt_of(template: ChatTemplate, conversation: Conversation) -> str:
    """The prompt that the checkpoint was trained with, without the BOS in front.

    BOS is the tokenizer's to add in an engine (``tokenizer.ggml.add_bos_token``); in a TEMPLATE it
    would stand there twice.

    Raises:
        ChatTemplateError: the template refuses the conversation, or fails.
    """
    text = template.render(
        conversation.messages,
        add_generation_prompt=not conversation.is_prefill,
        continue_final_message=conversation.is_prefill,
    )
    return text.removeprefix(bos_of(template))


def bos_of(template: ChatTemplate) -> str:
    """The text of ``bos_token``, or nothing."""
    return str(template.special_tokens.get("bos_token", ""))


def prove(template: ChatTemplate, other: Renderer, conversations: Sequence[Conversation]) -> Proof:
    """Compare ``template`` with ``other`` on each conversation, on two days."""
    clocks = [template.with_clock(lambda day=day: day) for day in _CLOCKS]  # type: ignore[misc]
    equal: list[str] = []
    different: list[Difference] = []
    refused: list[str] = []
    for conversation in conversations:
        try:
            prompts = [prompt_of(clock, conversation) for clock in clocks]
        except ChatTemplateError:
            refused.append(conversation.name)
            continue
        actual = other(conversation.messages)
        wrong = [expected for expected in prompts if expected != actual]
        if wrong:
            different.append(Difference(conversation.name, wrong[0], actual))
        else:
            equal.append(conversation.name)
    return Proof(tuple(equal), tuple(different), tuple(refused))
