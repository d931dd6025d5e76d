"""Worker side: keys of whole files, and what the tensor cache knows of the files.

What a file holds is its header and its blocks, so its key is a digest of the header and of the blocks'
keys (``convert.reuse``). The cache keeps the file's sha256 under it, not the file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

from blake3 import blake3

from ggufpack.tensor_cache import TensorCache

KIND = "FILE"
_FORMAT = 1  # raise it when a file has other bytes under an equal key


class FileKeys:
    """Keys of the files of one conversion, gathered block by block. Safe in threads."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, int], Sequence[bytes]] = {}
        self._judged = False
        self._lock = threading.Lock()

    def add(self, tensor: str, first_row: int, keys: Sequence[bytes]) -> None:
        """The keys of one chunk's blocks, one for each output."""
        with self._lock:
            self._blocks[tensor, first_row] = keys

    def judged(self) -> None:
        """A value needed a check whose outcome depends on what is allowed: no file gets a key."""
        self._judged = True

    def of(self, output: int, header: bytes) -> bytes | None:
        """The key of one file."""
        if self._judged:
            return None
        digest = blake3(repr((_FORMAT, len(header), len(self._blocks))).encode() + header)
        for (tensor, row), keys in sorted(self._blocks.items()):
            digest.update(f"\0{tensor}\0{row}\0".encode() + keys[output])
        return digest.digest()


def remember(cache: TensorCache, key: bytes, size: int, sha256: str) -> None:
    """Keep what a written file is."""
    cache.store(key, KIND, json.dumps({"size": size, "sha256": sha256}).encode())


def recall(cache: TensorCache, key: bytes) -> str | None:
    """The sha256 of the file with this key; ``None`` where no such file was written."""
    kept = cache.read_all(key, KIND)
    return None if kept is None else str(json.loads(kept)["sha256"])
