"""The engine behind the search: the learner, and Ollama's template language in Python."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from importlib import import_module
from typing import Any

from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits

_GO = "ggufpack.chat_template.go"


class LearnedEngine:
    """Learns a TEMPLATE, and renders the text of it, not the learner's own tree."""

    def learn(self, template: ChatTemplate, traits: Traits, capabilities: frozenset[str]) -> str:
        """The text of a TEMPLATE.

        Raises:
            ValueError: nothing can be learned.
        """
        from ggufpack.chat_template.learn import NothingLearnedError, learn

        try:
            found = learn(template, traits, capabilities)
        except NothingLearnedError as error:
            raise ValueError(str(error)) from error
        text: str = import_module(f"{_GO}.emit").emit(found.template)
        return text

    def render(self, text: str, conversation: Conversation, today: date) -> str:
        """What Ollama renders.

        Raises:
            ValueError: the TEMPLATE fails.
        """
        rendered: str = import_module(f"{_GO}.evaluate").render(_parsed(text), conversation, today=today)
        return rendered

    def is_used(self, go_text: str, jinja_text: str) -> bool:
        """Whether Ollama ≥ 0.30 runs the TEMPLATE when the GGUF holds this Jinja."""
        return bool(import_module(f"{_GO}.inspect").go_is_used(go_text, jinja_text))


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    return import_module(f"{_GO}.parse").parse(text)
