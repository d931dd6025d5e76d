"""The process of the embedded engine: ``python -m ggufpack.engine.worker EVENT_FD``.

Requests (``ggufpack.child``) are ``{"do": NAME, …}``, where NAME is ``open`` or a request of ``Served``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from ggufpack.child import Reporter, leave, serve
from ggufpack.engine.confined import engine_confinement, generation_to_json
from ggufpack.engine.embedded import EmbeddedEngine


class Served:
    """A running engine, asked with JSON."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine

    def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """See ``EmbeddedEngine.generate``."""
        return generation_to_json(
            self._engine.generate(
                request["messages"],
                max_tokens=request["max_tokens"],
                seed=request["seed"],
                think=request["think"],
            )
        )

    def force_text(self, request: dict[str, Any]) -> dict[str, Any]:
        """See ``EmbeddedEngine.force_text``."""
        return generation_to_json(self._engine.force_text(request["text"], max_tokens=request["max_tokens"]))

    def force_token(self, request: dict[str, Any]) -> dict[str, Any]:
        """See ``EmbeddedEngine.force_token``."""
        return generation_to_json(
            self._engine.force_token(request["token"], request["text"], max_tokens=request["max_tokens"])
        )


def run(descriptor: int) -> None:
    """Serve requests until standard input closes."""
    reporter = Reporter(descriptor)
    reporter.send("ready")

    def begin(request: dict[str, Any]) -> tuple[Served, dict[str, Any]]:
        tempfile.tempdir = str(Path.cwd())
        engine = EmbeddedEngine(
            Path(request["model"]), stops=request["stops"], socket_folder=Path(request["folder"])
        )
        return Served(engine.__enter__()), {}

    serve(reporter, begin, "embedded engine", engine_confinement)


if __name__ == "__main__":
    run(int(sys.argv[1]))
    leave()
