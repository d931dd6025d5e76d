"""The embedded engine on a loopback port, where an OpenAI client can reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufpack.engine.embedded import EmbeddedEngine
from tests.support.ollama_server import free_port


class EngineOnPort(EmbeddedEngine):
    """``url`` is the ``base_url`` of its OpenAI API.

    ``reasoning``: whether it is told apart from the answer, as llama-server does by default.
    """

    def __init__(self, model: Path, chat_template: str | None = None, *, reasoning: bool = True) -> None:
        super().__init__(model, chat_template)
        self.reasoning = reasoning
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> EngineOnPort:
        super().__enter__()
        return self

    def _parameters(self, xllamacpp: Any) -> Any:
        parameters = super()._parameters(xllamacpp)
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = self.port
        if self.reasoning:
            parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_AUTO
        return parameters
