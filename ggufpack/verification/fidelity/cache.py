"""Where distributions are kept: one folder each in the user's cache, the least used go first."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ggufpack.held import remove_dead
from ggufpack.packages import cache_folder

KEPT_BYTES = 8 << 30


def root() -> Path:
    """The folder of all."""
    return cache_folder() / "fidelity"


def digest_of(**parts: Any) -> str:
    """The key of what these parts lead to, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def use(folder: Path) -> bool:
    """Whether it is there; if so it counts as used now."""
    if not folder.is_dir():
        return False
    folder.touch()
    return True


def prune(keep: Path, limit: int = KEPT_BYTES) -> None:
    """Remove the least recently used folders beyond ``limit`` bytes, but never ``keep``.

    Hidden folders are unfinished: those of processes that were killed go as well.
    """
    remove_dead(keep.parent, ".")
    there = [path for path in keep.parent.iterdir() if path.is_dir()]
    folders = sorted(
        (path for path in there if not path.name.startswith(".")),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    total = 0
    for folder in folders:
        total += sum(file.stat().st_size for file in folder.iterdir())
        if total > limit and folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
