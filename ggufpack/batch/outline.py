"""The outline of a folder by URL: a copy on this machine from which checkpoints can be told and measured.

It has the names that matter, the JSON files whole, of safetensors files their headers; the rest of each
file is a hole, so that all lengths are right. A checkpoint of 16 GB is an outline of some 100 kB.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ggufpack.batch import storage
from ggufpack.batch.scratch import own_scratch
from ggufpack.batch.urls import joined
from ggufpack.checkpoint.header import MAX_HEADER_BYTES
from ggufpack.checkpoint.jsonfiles import MAX_INDEX_BYTES
from ggufpack.checkpoint.layout import ADAPTER_CONFIG, CONFIG, INDEX
from ggufpack.package_folder import RECORD_NAME

_WHOLE = frozenset({CONFIG, ADAPTER_CONFIG, INDEX})
_LENGTH = struct.Struct("<Q")
# one request has the header of most files
_FIRST_BYTES = 256 << 10


@contextlib.contextmanager
def outline(url: str, depth: int) -> Iterator[Path]:
    """The outline, in a temporary folder; the folders above it have the names that they have in the URL.

    Args:
        url: of a folder.
        depth: of the files that are looked at (1: its own).

    Raises:
        CheckpointFileError: a name leads out of the folder, or a file is gone.
        UsageError: the storage cannot be asked.
    """
    above = PurePosixPath(url.partition("://")[2])
    with own_scratch() as held:
        root = held.scratch.resolve() / str(above).lstrip("/")
        root.mkdir(parents=True)
        for name, size in storage.listing(url, depth).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name == RECORD_NAME:
                path.touch()
            elif path.name in _WHOLE or path.suffix in (".safetensors", ".bin"):
                _write(path, joined(url, name), size)
        yield root


def _write(path: Path, url: str, size: int) -> None:
    start = b""
    if path.name in _WHOLE and size <= MAX_INDEX_BYTES:
        start = _start(url, size, storage.signature(url))
    elif path.suffix == ".safetensors":
        start = _header(url, size)
    path.write_bytes(start)
    os.truncate(path, size)


def _header(url: str, size: int) -> bytes:
    """The length and the header; what is no header is told by whoever reads the outline."""
    state = storage.signature(url)
    start = _start(url, min(size, _FIRST_BYTES), state)
    if len(start) < _LENGTH.size:
        return start
    end = _LENGTH.size + _LENGTH.unpack_from(start)[0]
    if end - _LENGTH.size > MAX_HEADER_BYTES or end > size:
        return start[: _LENGTH.size]
    return start[:end] if end <= len(start) else _start(url, end, state)


def _start(url: str, end: int, state: storage.Signature) -> bytes:
    """The first bytes of a file, read once for each of its states: a batch that watches looks often."""
    if end > _FIRST_BYTES or not storage.tells_changes(state):
        return storage.read(url, 0, end)
    return _kept(url, end, state)


@lru_cache(maxsize=512)
def _kept(url: str, end: int, _state: storage.Signature) -> bytes:
    return storage.read(url, 0, end)
