"""Contents as plain text, or in parts: what a chat template takes."""

from __future__ import annotations

from typing import Any

from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

_TEXT = "Kuser1K"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def in_its_form(template: ChatTemplate) -> ChatTemplate:
    """``template``, given contents in parts where it prints no plain text.

    Templates of image models look for ``content[0]["text"]`` and print nothing of a string.
    """
    for candidate in (template, template.with_parts()):
        if _TEXT in _question(candidate, None) + _question(candidate, [_TOOL]):
            return candidate
    return template


def refusal_of_a_question(template: ChatTemplate) -> str:
    """Why the template does not print a plain question; empty when it does."""
    try:
        text = template.render([{"role": "user", "content": _TEXT}], add_generation_prompt=True)
    except ChatTemplateError as error:
        return str(error)
    return "" if _TEXT in text else "it prints a user's message without its text"


def _question(template: ChatTemplate, tools: list[dict[str, Any]] | None) -> str:
    try:
        question = [{"role": "user", "content": _TEXT}]
        return template.render(question, add_generation_prompt=True, tools=tools)
    except ChatTemplateError:
        return ""
