"""What the model and its package are compared on: the built-in texts, or the user's own."""

from __future__ import annotations

from dataclasses import dataclass

from ggufpack.chat_template.prompt import Prompt
from ggufpack.verification.fidelity.builtin import CHATS, PLAIN


@dataclass(frozen=True)
class EvaluationText:
    """One text.

    Attributes:
        name: short, for the report.
        kind: a language code (``"en"``), ``"code"``, ``"chat"``, or what the user wrote.
        text: what is tokenised, special tokens parsed. Nothing is added to a chat, whose template
            wrote what it wants; a plain text gets the tokenizer's BOS if it adds one.
        is_chat: whether a chat template rendered it.
    """

    name: str
    kind: str
    text: str
    is_chat: bool


def builtin_texts(prompt: Prompt) -> tuple[EvaluationText, ...]:
    """The built-in set for one checkpoint: plain texts, then chats through its own template.

    A chat ends where the last answer ends: the end of that turn is not in it, as in
    :meth:`Prompt.expected`. Chats that the template refuses are left out (some take no system
    message), and all of them when there is no template.

    Raises:
        ChatTemplateError: the template fails on a chat for another reason than refusing it.
    """
    plain = [EvaluationText(name, kind, text, False) for name, kind, text in PLAIN]
    if prompt.template is None:
        return tuple(plain)
    rendered = ((name, prompt.expected(messages)) for name, messages in CHATS)
    return (
        *plain,
        *(EvaluationText(name, "chat", text, True) for name, text in rendered if text is not None),
    )
