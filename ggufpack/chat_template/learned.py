"""The engine behind the search: the learner, and Ollama's template language in Python."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.go.inspect import go_is_used
from ggufpack.chat_template.go.nodes import Template
from ggufpack.chat_template.go.parse import parse
from ggufpack.chat_template.hints import with_hints
from ggufpack.chat_template.learn import NothingLearnedError, learn
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits


class LearnedEngine:
    """Learns a TEMPLATE, and renders the text of it, not the learner's own tree."""

    def learn(self, template: ChatTemplate, traits: Traits, capabilities: frozenset[str]) -> str:
        """The text of a TEMPLATE.

        Raises:
            ValueError: nothing can be learned.
        """
        try:
            found = learn(template, traits, capabilities)
        except NothingLearnedError as error:
            raise ValueError(str(error)) from error
        return emit(with_hints(found.template, template, traits, capabilities))

    def render(self, text: str, conversation: Conversation, today: date) -> str:
        """What Ollama renders.

        Raises:
            ValueError: the TEMPLATE fails.
        """
        return render(_parsed(text), conversation, today=today)

    def is_used(self, go_text: str, jinja_text: str) -> bool:
        """Whether Ollama ≥ 0.30 runs the TEMPLATE when the GGUF holds this Jinja."""
        return go_is_used(go_text, jinja_text)


@lru_cache(maxsize=4)
def _parsed(text: str) -> Template:
    return parse(text)
