"""A model that is registered in an Ollama server, as an engine for verification."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpack.engine.protocol import Generation, Message

if TYPE_CHECKING:
    from ggufpack.registry.chat import ChatAnswer
    from ggufpack.registry.server import OllamaServer

_GREEDY = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,  # 1.1 by default up to 0.24
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_TOP = 20  # the most that the API gives
_LARGEST_LOGPROB = 0.01  # 0, and rounding
_REPEATS = 12  # a text has one token or more, so the window of as many tokens holds nothing else
_FORCE = 1000.0  # logits are far below
_MAX_REPEATED = 24  # the server breaks off after 30 chunks that are alike (server/routes.go)


class OllamaEngine:
    """One registered model. Template, stops and context length are the server's own: they are on trial.

    Args:
        server: the server.
        model: the registered name with its tag.
    """

    def __init__(self, server: OllamaServer, model: str) -> None:
        self._server = server
        self._model = model

    @property
    def name(self) -> str:
        """Program and version, as the server gives it."""
        return f"Ollama {self._server.version_text}"

    def render(self, messages: Sequence[Message], *, think: bool | None = None) -> str:
        """The prompt text that the server makes (``_debug_render_only``; the model is loaded for it).

        Raises:
            RegistryError: the server is too old to say, or its template fails on this conversation.
        """
        return self._server.render_chat(self._model, messages, think=think)

    def embed(self, text: str) -> list[float]:
        """The vector of one text (``/api/embed``).

        Raises:
            RegistryError: the model makes no embeddings.
        """
        return self._server.embed(self._model, text)

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
    ) -> Generation:
        """A deterministic generation; the sampling parameters of the Modelfile are overruled.

        Text that the server took for thinking is put before the answer: it was generated too. Its tags
        are gone.

        Raises:
            RegistryError: the server failed.
        """
        options = {**_GREEDY, "seed": seed, "num_predict": max_tokens}
        return _generation(self._server.chat(self._model, messages, options, think=think))

    def ask(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        think: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> ChatAnswer:
        """A deterministic answer as the server gives it: text, thinking and tool calls apart.

        Raises:
            RegistryError: the server failed, or says that the model cannot think or use tools.
        """
        options = {**_GREEDY, "seed": 0, "num_predict": max_tokens}
        return self._server.chat(self._model, messages, options, think=think, tools=tools)

    def next_tokens(
        self, messages: Sequence[Message], *, think: bool | None = None
    ) -> tuple[tuple[bytes, float], ...]:
        """The 20 most probable tokens after the prompt: bytes and log probability (nats).

        Empty where the server does not give them. A token that is no text has the bytes of what the server
        shows for it.

        Raises:
            RegistryError: the server failed.
        """
        options = {**_GREEDY, "seed": 0, "num_predict": 1}
        answer = self._server.chat(self._model, messages, options, think=think, top_logprobs=_TOP)
        with self._server.as_expected("give log probabilities"):
            given = answer.raw.get("logprobs") or ()
            rows = given[0]["top_logprobs"] if given else ()
            found = [
                (bytes(row.get("bytes") or row["token"].encode()), float(row["logprob"])) for row in rows
            ]
            if not all(logprob < _LARGEST_LOGPROB for _, logprob in found):
                raise ValueError("a log probability above 0")
            return tuple(found)

    def force_text(self, text: str, *, max_tokens: int) -> Generation:
        """``text`` as a JSON string: a schema with that one value becomes a grammar.

        A text that JSON would escape is forced as a token is, with all of its tokens allowed: the model
        chooses their order, and mostly goes on as the prompt did.

        Raises:
            RegistryError: the server failed.
        """
        if json.dumps(text, ensure_ascii=False) != f'"{text}"':
            return self._repeat(text, max_tokens)
        options = {**_GREEDY, "seed": 0, "num_predict": max_tokens}
        return _generation(self._server.complete(self._model, "Answer:", options, format={"const": text}))

    def force_token(self, token: int, text: str, *, max_tokens: int) -> Generation:  # noqa: ARG002
        """The token again and again: the prompt holds nothing else, and what it holds is rewarded.

        Raises:
            RegistryError: the server failed.
        """
        return self._repeat(text, min(max_tokens, _MAX_REPEATED))

    def _repeat(self, text: str, max_tokens: int) -> Generation:
        """The server takes no logit bias, but a presence penalty below zero (llama.cpp counts the prompt).

        The window is the prompt's end, so that a BOS in front is not in it.
        """
        options = {
            **_GREEDY,
            "seed": 0,
            "num_predict": max_tokens,
            "repeat_last_n": _REPEATS,
            "presence_penalty": -_FORCE,
        }
        return _generation(self._server.complete(self._model, text * _REPEATS, options))


def _generation(answer: ChatAnswer) -> Generation:
    return Generation(
        answer.thinking + answer.text, answer.done_reason, answer.prompt_tokens, answer.generated_tokens
    )
