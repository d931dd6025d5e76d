"""Answers of ``/v1/chat/completions`` as data, whole or streamed. No IO.

The fields are those of OpenAI's reference ("Chat Completions"). Where servers differ:

- reasoning is ``reasoning`` in Ollama (openai/openai.go: Message) and vLLM ("Reasoning Outputs"), and
  ``reasoning_content`` in llama.cpp (tools/server/README.md) and older vLLM;
- ``bytes`` of a token may be missing or null, and in vLLM it is the token's text encoded again, so that a
  part of a character is U+FFFD (entrypoints/openai, ``_get_top_logprobs``); -9999 stands for -inf there;
- ``content`` is null beside tool calls, and ``tool_calls`` an empty list or missing without;
- the last chunk of a stream has the usage and no choice (``stream_options``: ``include_usage``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token: its bytes, its log probability (nats), and the most probable candidates."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class Call:
    """A tool call; ``arguments`` is JSON text, as it came."""

    name: str
    arguments: str


@dataclass(frozen=True)
class OpenAIAnswer:
    """One finished answer.

    Attributes:
        text, thinking: of the message.
        calls: tool calls.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"``, or what the server says.
        prompt_tokens, generated_tokens: the usage; ``None`` where the server does not give it.
        tokens: with log probabilities; empty where the server does not give them.
        prompt_ids: token ids of the prompt (vLLM: ``return_token_ids``).
        prompt_text: the prompt (Ollama: ``_debug_render_only``).
        fingerprint: ``system_fingerprint``.
    """

    text: str
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    finish_reason: str = ""
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    tokens: tuple[TokenLogprob, ...] = ()
    prompt_ids: tuple[int, ...] | None = None
    prompt_text: str | None = None
    fingerprint: str = ""


def parse_answer(answer: Json) -> OpenAIAnswer:
    """A ``chat.completion`` object.

    Raises:
        KeyError, IndexError, TypeError, AttributeError: it is none.
    """
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    found = OpenAIAnswer(
        text=_text(message.get("content")),
        thinking=_text(message.get("reasoning") or message.get("reasoning_content")),
        calls=tuple(_call(one["function"]) for one in message.get("tool_calls") or ()),
        finish_reason=_text(choice.get("finish_reason")),
        tokens=_tokens(choice),
        fingerprint=answer.get("system_fingerprint") or "",
        prompt_text=(answer.get("_debug_info") or {}).get("rendered_template"),
        prompt_ids=None if answer.get("prompt_token_ids") is None else tuple(answer["prompt_token_ids"]),
    )
    return _with_usage(found, answer.get("usage"))


@dataclass
class _Parts:
    text: str = ""
    thinking: str = ""
    finish: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    tokens: list[TokenLogprob] = field(default_factory=list)


def parse_stream(chunks: Iterable[Json]) -> OpenAIAnswer:
    """The ``chat.completion.chunk`` objects of one stream, put together.

    A tool call may come in pieces: the name in the first, the arguments in all (OpenAI, vLLM); Ollama sends
    each whole.

    Raises:
        KeyError, TypeError, AttributeError: they are none.
    """
    parts = _Parts()
    usage: Json | None = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            parts.text += delta.get("content") or ""
            parts.thinking += delta.get("reasoning") or delta.get("reasoning_content") or ""
            parts.finish = choice.get("finish_reason") or parts.finish
            parts.tokens += _tokens(choice)
            for call in delta.get("tool_calls") or ():
                name, arguments = parts.calls.setdefault(call.get("index") or 0, ["", ""])
                function = call.get("function") or {}
                parts.calls[call.get("index") or 0] = [
                    name or function.get("name") or "",
                    arguments + (function.get("arguments") or ""),
                ]
    found = OpenAIAnswer(
        text=parts.text,
        thinking=parts.thinking,
        calls=tuple(Call(name, arguments) for _, (name, arguments) in sorted(parts.calls.items())),
        finish_reason=parts.finish,
        tokens=tuple(parts.tokens),
    )
    return _with_usage(found, usage)


def error_text(answer: object) -> str | None:
    """What an error object says.

    OpenAI, Ollama, llama.cpp and vLLM from 0.10 on put it into ``error``; older vLLM has ``message`` on top,
    some servers a plain string, FastAPI ``detail``.
    """
    if not isinstance(answer, Mapping):
        return None
    error = answer.get("error", answer)
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("detail")
    return None if error is None else str(error)


def _text(value: object) -> str:
    """A text that may be missing; of another type it is no answer."""
    if not isinstance(value, (str, type(None))):
        raise TypeError("a text is none")
    return value or ""


def _with_usage(answer: OpenAIAnswer, usage: Json | None) -> OpenAIAnswer:
    # a server that does not count gives zeros
    counts = usage or {}
    return replace(
        answer,
        prompt_tokens=counts.get("prompt_tokens") or None,
        generated_tokens=counts.get("completion_tokens") if counts.get("prompt_tokens") else None,
    )


def _call(function: Json) -> Call:
    return Call(function["name"], function.get("arguments") or "")


def _tokens(choice: Json) -> tuple[TokenLogprob, ...]:
    rows: Sequence[Json] = (choice.get("logprobs") or {}).get("content") or ()
    return tuple(
        TokenLogprob(
            _bytes(row),
            float(row["logprob"]),
            tuple((_bytes(one), float(one["logprob"])) for one in row.get("top_logprobs") or ()),
        )
        for row in rows
    )


def _bytes(row: Json) -> bytes:
    given = row.get("bytes")
    return str(row.get("token") or "").encode() if given is None else bytes(given)
