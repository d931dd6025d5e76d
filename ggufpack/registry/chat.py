"""Requests to ``/api/chat`` and what comes back. Source: Ollama 0.33.0, api/types.go. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class ChatAnswer:
    """One finished answer; token counts are the server's. ``raw`` is the whole object."""

    text: str
    thinking: str
    done_reason: str
    prompt_tokens: int
    generated_tokens: int
    raw: Json


def chat_answer(answer: Json, message: Json, text: str) -> ChatAnswer:
    """The finished answer in what ``/api/chat`` or ``/api/generate`` gave; ``text`` is the key of its text.

    Raises:
        TypeError: a text or a count is neither.
    """
    made = ChatAnswer(
        text=message.get(text) or "",
        thinking=message.get("thinking") or "",
        done_reason=answer.get("done_reason") or "",
        prompt_tokens=answer.get("prompt_eval_count") or 0,
        generated_tokens=answer.get("eval_count") or 0,
        raw=answer,
    )
    texts, counts = (made.text, made.thinking, made.done_reason), (made.prompt_tokens, made.generated_tokens)
    if not (all(isinstance(one, str) for one in texts) and all(isinstance(one, int) for one in counts)):
        raise TypeError("a text or a count is neither")
    return made


def chat_payload(
    name: str,
    messages: Sequence[Mapping[str, Any]],
    options: Json,
    tools: Sequence[Json] | None,
    think: bool | None,
    keep_alive: float | str | None,
) -> dict[str, Any]:
    """The body of a request to ``/api/chat``, without what is ``None``."""
    optional = {"tools": tools, "think": think, "keep_alive": keep_alive}
    return {
        "model": name,
        "messages": [dict(message) for message in messages],
        "options": dict(options),
        "stream": False,
        **{key: value for key, value in optional.items() if value is not None},
    }
