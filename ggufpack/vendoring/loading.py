"""Importing from the vendored tree without writing to it: it is compared with its hash."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs


def bytecode_folder() -> Path:
    """Where compiled files of the tree are kept."""
    return Path(platformdirs.user_cache_dir("ggufpack")) / "bytecode"


@contextlib.contextmanager
def compiled_elsewhere(folder: Path) -> Iterator[None]:
    """Meanwhile, compiled files go to ``folder``."""
    before = sys.pycache_prefix
    sys.pycache_prefix = str(folder)
    try:
        yield
    finally:
        sys.pycache_prefix = before
