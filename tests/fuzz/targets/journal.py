"""A batch's journal, damaged: refused with JournalError, or readable and writable."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from ggufpack.batch.journal import Claim, Entry, Journal
from ggufpack.errors import JournalError
from tests.fuzz import scratch

WORDS = (b"items", b"CREATE TABLE", b"CREATE VIEW", b"claimed", b"done", b'{"a": 1}', b"GGPB", b"/packages/a")
_TARGET = Path("/packages/a")


def one_input(data: bytes) -> None:
    """Pairs of place and byte that are changed in a good journal: a page of SQLite's is long."""
    content = bytearray(_good())
    for at in range(0, len(data) - 2, 3):
        content[int.from_bytes(data[at : at + 2], "big") % len(content)] = data[at + 2]
    folder = scratch.folder()
    for left in folder.glob("journal*"):
        left.unlink()
    path = scratch.put("journal.sqlite", bytes(content))
    try:
        with Journal(path) as journal:
            for entry in journal.entries():
                assert isinstance(entry, Entry)
                assert isinstance(entry.outputs, dict)
            seen = journal.entry(_TARGET)
            claim = journal.claim(_TARGET, key="a", checkpoint=Path("/a"), spec_digest="s", seen=seen)
            if isinstance(claim, Claim):
                journal.finish(claim, "done", {"status": "verified"}, {"m.gguf": "0" * 64})
    except JournalError as error:
        assert error.path == path.absolute()
        str(error).encode()


_cached: list[bytes] = []


def _good() -> bytes:
    if not _cached:
        path = scratch.folder() / "good.sqlite"
        with Journal(path) as journal:
            claim = journal.claim(_TARGET, key="a", checkpoint=Path("/a"), spec_digest="s", seen=None)
            assert isinstance(claim, Claim)
            journal.stage_started(claim, "convert")
            journal.finish(claim, "done", {"status": "verified"}, {"m.gguf": "0" * 64})
        _cached.append(path.read_bytes())
    return _cached[0]


def seeds() -> Iterator[bytes]:
    yield b""
    yield bytes((0, 60, 1, 0, 100, 13))
    for number in range(20):  # somewhere in it, the same places each time
        yield b"".join(zlib.crc32(bytes([number, step])).to_bytes(4, "big")[:3] for step in range(4))
