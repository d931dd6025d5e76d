"""The embedded engine on a loopback port, where an OpenAI client can reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufpack.engine.embedded import EmbeddedEngine
from tests.support.ollama_server import free_port


class EngineOnPort(EmbeddedEngine):
    """``url`` is the ``base_url`` of its OpenAI API."""

    def __init__(self, model: Path, chat_template: str | None = None, *, n_ctx: int = 4096) -> None:
        super().__init__(model, chat_template, n_ctx=n_ctx)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> EngineOnPort:
        super().__enter__()
        return self

    def _parameters(self, xllamacpp: Any) -> Any:
        parameters = super()._parameters(xllamacpp)
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = self.port
        # as llama-server does by default: reasoning in a field of its own
        parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_AUTO
        return parameters
