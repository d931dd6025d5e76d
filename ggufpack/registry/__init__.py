"""The Ollama server: names, blobs, models, and registering a package without leaving half of one.

This package imports the ollama client and httpx; import it where it is used, not at a module's top.
"""

from __future__ import annotations

from ggufpack.registry.base import RegisteredBase, registered_base
from ggufpack.registry.chat import ChatAnswer
from ggufpack.registry.register import StagedModel, leftovers, refuse_existing, register, stage_model
from ggufpack.registry.server import OllamaServer
from ggufpack.registry.shown import ShownModel

__all__ = [
    "ChatAnswer",
    "OllamaServer",
    "RegisteredBase",
    "ShownModel",
    "StagedModel",
    "leftovers",
    "refuse_existing",
    "register",
    "registered_base",
    "stage_model",
]
