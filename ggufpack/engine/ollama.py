"""A model that is registered in an Ollama server, as an engine for verification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ggufpack.engine.protocol import Generation, Message

if TYPE_CHECKING:
    from ggufpack.registry.server import OllamaServer


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

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
    ) -> Generation:
        """A deterministic generation; the sampling parameters of the Modelfile are overruled.

        Text that the server took for thinking is put before the answer: it was generated too. Its tags
        are gone.

        Raises:
            RegistryError: the server failed.
        """
        options = {
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,  # 1.1 by default up to 0.24
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "num_predict": max_tokens,
        }
        answer = self._server.chat(self._model, messages, options, think=think)
        return Generation(
            answer.thinking + answer.text,
            answer.done_reason,
            answer.prompt_tokens,
            answer.generated_tokens,
        )
