"""Blobs: whole under their name or not there, resumed, and kept when they are there."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from ggufpack.errors import StoreError
from ggufpack.store.blobs import BlobStore, WrongContentError, refusals
from ggufpack.store.manifest import Blob
from tests.unit.store.builders import WEIGHTS, contents_of

BLOB = Blob.of(WEIGHTS)


class Breaking(io.BytesIO):
    """A source that breaks off after some bytes."""

    def __init__(self, content: bytes, after: int) -> None:
        super().__init__(content)
        self.after = after

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.after:
            raise KeyboardInterrupt
        return super().read(min(size or 0, self.after - self.tell()))


class Counted(io.BytesIO):
    """A source that knows how much was read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.count += len(piece)
        return piece


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def ignore(_count: int) -> None:
    pass


def test_put_and_keep(blobs: BlobStore) -> None:
    seen: list[int] = []
    assert blobs.put(BLOB, io.BytesIO(WEIGHTS), seen.append)
    assert contents_of(blobs.folder) == {f"sha256-{BLOB.sha256}": WEIGHTS}
    assert sum(seen) == BLOB.size
    os.utime(blobs.path(BLOB), (1, 1))
    source = Counted(WEIGHTS)
    assert not blobs.put(BLOB, source, ignore)
    assert source.count == 0
    assert blobs.path(BLOB).stat().st_mtime > 1  # young again, for a server that prunes


def test_a_damaged_blob_is_written_again(blobs: BlobStore) -> None:
    blobs.put(BLOB, io.BytesIO(WEIGHTS), ignore)
    damaged = bytearray(WEIGHTS)
    damaged[7] ^= 1
    blobs.path(BLOB).write_bytes(damaged)
    assert blobs.has(BLOB)
    assert not blobs.is_whole(BLOB, ignore)
    assert blobs.put(BLOB, io.BytesIO(WEIGHTS), ignore)
    assert blobs.is_whole(BLOB, ignore)


@pytest.mark.parametrize(
    "content",
    [WEIGHTS[:-1], WEIGHTS + b"x", WEIGHTS[:-1] + b"x", b""],
    ids=["short", "long", "other", "none"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_content_leaves_nothing(blobs: BlobStore, content: bytes, resume: bool) -> None:
    with pytest.raises(WrongContentError):
        blobs.put(BLOB, io.BytesIO(content), ignore, resume=resume)
    assert contents_of(blobs.folder) == {}


def test_what_broke_off_goes_unless_it_may_be_resumed(blobs: BlobStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        blobs.put(BLOB, Breaking(WEIGHTS, 2_000_000), ignore)
    assert contents_of(blobs.folder) == {}
    with pytest.raises(KeyboardInterrupt):
        blobs.put(BLOB, Breaking(WEIGHTS, 2_000_000), ignore, resume=True)
    assert contents_of(blobs.folder) == {blobs.partial_path(BLOB).name: WEIGHTS[:2_000_000]}
    source = Counted(WEIGHTS)
    assert blobs.put(BLOB, source, ignore, resume=True)
    assert source.count == len(WEIGHTS) - 2_000_000
    assert contents_of(blobs.folder) == {blobs.path(BLOB).name: WEIGHTS}


def test_a_rest_that_is_too_long_does_no_harm(blobs: BlobStore) -> None:
    blobs.folder.mkdir()
    blobs.partial_path(BLOB).write_bytes(WEIGHTS + b"more")
    assert blobs.put(BLOB, io.BytesIO(WEIGHTS), ignore, resume=True)
    assert blobs.path(BLOB).read_bytes() == WEIGHTS


@pytest.mark.parametrize("resume", [False, True])
def test_a_name_that_could_not_be_made_durable(
    blobs: BlobStore, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a blob that nobody knows to have written."""

    def refuse(_folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ggufpack.store.blobs.sync", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        blobs.put(BLOB, io.BytesIO(WEIGHTS), ignore, resume=resume)
    assert contents_of(blobs.folder) == ({blobs.path(BLOB).name: WEIGHTS} if resume else {})


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no room for .*/here") as caught, refusals(tmp_path / "here"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 6
