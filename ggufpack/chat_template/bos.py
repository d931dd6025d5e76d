"""The BOS text in front of a prompt: written by the template, or left to the engine."""

from __future__ import annotations

from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

_TWO_TURNS = (
    {"role": "user", "content": "Kuser1K"},
    {"role": "assistant", "content": "Kanswer1K"},
    {"role": "user", "content": "Kuser2K"},
)


def repeats_bos(template: ChatTemplate) -> bool:
    """Whether what the tokenizer calls BOS stands in front and comes again with the turns.

    It is a part of the turns then and stays in the text: SmolLM2's ``<|im_start|>``, Llama 2's
    ``<s>``.
    """
    bos = bos_in_front(template)
    return bool(bos) and _two_turns(template).count(bos) > 1


def bos_in_front(template: ChatTemplate) -> str:
    """The BOS text that a prompt begins with, once or with every turn; empty when it does not."""
    bos = str(template.special_tokens.get("bos_token", ""))
    return bos if bos and _two_turns(template).startswith(bos) else ""


def _two_turns(template: ChatTemplate) -> str:
    try:
        return template.render(_TWO_TURNS, add_generation_prompt=True)
    except ChatTemplateError:
        return ""
