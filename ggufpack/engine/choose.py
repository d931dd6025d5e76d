"""Which engine a build uses: an Ollama server that answers, or else the embedded one."""

from __future__ import annotations

import os
from importlib.util import find_spec

from ggufpack.errors import ServerUnreachableError
from ggufpack.registry import OllamaServer
from ggufpack.spec import BuildSpec


def find_server(spec: BuildSpec) -> OllamaServer | None:
    """The Ollama server, if one answers; ``None`` when the build does without.

    A server that was named (``--host``, ``OLLAMA_HOST``, ``--register``, or by a model on it) must answer;
    and one must when the package is to be verified and there is no embedded engine.

    Raises:
        ServerUnreachableError: it must and does not.
    """
    if not spec.register:
        return None
    server = OllamaServer(spec.host)
    try:
        server.check()
    except ServerUnreachableError:
        server.close()
        named = spec.host is not None or spec.require_server or bool(os.environ.get("OLLAMA_HOST"))
        if named or spec.from_model is not None or (spec.verify != "none" and not has_embedded_engine()):
            raise
        return None
    return server


def has_embedded_engine() -> bool:
    """Whether xllamacpp is installed."""
    return find_spec("xllamacpp") is not None
