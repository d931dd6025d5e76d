"""What a client has to know of a registered model, read off the server. Nothing is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.registry import OllamaServer
from ggufpack.registry.shown import ShownModel

# what Ollama loads a model with when nobody says: 4096 below 23 GiB of video memory, more above
# (docs/context-length.mdx). The least is what holds everywhere.
DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class ServedModel:
    """One model on an Ollama server.

    Attributes:
        name: with its tag.
        host: address, without a slash at its end.
        context: tokens of a request as the model is registered: ``num_ctx``, or the server's default.
        trained_context: tokens that the model was made for; ``None`` where the server does not say.
        tools, thinking, vision: what the server says that the model can.
        embedding: whether it makes embeddings and does not chat.
    """

    name: str
    host: str
    context: int
    trained_context: int | None = None
    tools: bool = False
    thinking: bool = False
    vision: bool = False
    embedding: bool = False

    @property
    def openai_url(self) -> str:
        """``base_url`` of OpenAI clients (Ollama docs/api/openai-compatibility.mdx)."""
        return f"{self.host}/v1"


def read_model(server: OllamaServer, name: str) -> ServedModel:
    """Ask ``/api/show``.

    Raises:
        RegistryError: there is no such model, or no server.
    """
    shown = server.show(name)
    return served_model(name, server.host, shown, server.model_info(name))


def served_model(name: str, host: str, shown: ShownModel, info: Mapping[str, Any]) -> ServedModel:
    """The model that ``/api/show`` describes. ``info``: the GGUF's keys."""
    trained = info.get(f"{info.get('general.architecture')}.context_length")
    given = shown.parameters.get("num_ctx", ())
    can = set(shown.capabilities)
    return ServedModel(
        name=name if ":" in name.rpartition("/")[2] else f"{name}:latest",
        host=host,
        context=int(given[-1]) if given else min(DEFAULT_CONTEXT, trained or DEFAULT_CONTEXT),
        trained_context=trained,
        tools="tools" in can,
        thinking="thinking" in can,
        vision="vision" in can,
        embedding="embedding" in can and "completion" not in can,
    )
