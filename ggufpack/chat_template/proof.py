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

_TWO_TURNS = (
    {"role": "user", "content": "Kuser1K"},
    {"role": "assistant", "content": "Kanswer1K"},
    {"role": "user", "content": "Kuser2K"},
)


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


def prompt_of(template: ChatTemplate, conversation: Conversation, bos: str) -> str:
    """The prompt that the checkpoint was trained with, without the BOS in front.

    BOS is the tokenizer's to add in an engine (``tokenizer.ggml.add_bos_token``); in a TEMPLATE it
    would stand there twice.

    Args:
        template: the checkpoint's.
        conversation: to render.
        bos: what ``leading_bos`` gives.

    Raises:
        ChatTemplateError: the template refuses the conversation, or fails.
    """
    text = template.render(
        conversation.messages,
        add_generation_prompt=not conversation.is_prefill,
        continue_final_message=conversation.is_prefill,
    )
    return text.removeprefix(bos)


def leading_bos(template: ChatTemplate) -> str:
    """The BOS text that the template puts once, in front of everything; empty when it does not."""
    bos = bos_in_front(template)
    return bos if _two_turns(template).count(bos) == 1 else ""


def repeats_bos(template: ChatTemplate) -> bool:
    """Whether what the tokenizer calls BOS stands in front and comes again with the turns.

    It is a part of the turns then and stays in the text: SmolLM2's ``<|im_start|>``, Llama 2's
    ``<s>``.
    """
    return bool(bos_in_front(template)) and not leading_bos(template)


def bos_in_front(template: ChatTemplate) -> str:
    """The BOS text that a prompt begins with, once or with every turn; empty when it does not."""
    bos = str(template.special_tokens.get("bos_token", ""))
    return bos if bos and _two_turns(template).startswith(bos) else ""


def _two_turns(template: ChatTemplate) -> str:
    try:
        return template.render(_TWO_TURNS, add_generation_prompt=True)
    except ChatTemplateError:
        return ""


def prove(template: ChatTemplate, other: Renderer, conversations: Sequence[Conversation]) -> Proof:
    """Compare ``template`` with ``other`` on each conversation, on two days."""
    clocks = [template.with_clock(lambda day=day: day) for day in _CLOCKS]  # type: ignore[misc]
    bos = leading_bos(template)
    equal: list[str] = []
    different: list[Difference] = []
    refused: list[str] = []
    for conversation in conversations:
        try:
            prompts = [prompt_of(clock, conversation, bos) for clock in clocks]
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
