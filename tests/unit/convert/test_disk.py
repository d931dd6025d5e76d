"""Output files: whole, hashed, and refused before the first byte when there is no room."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpack.convert import disk
from ggufpack.convert.disk import OutputFile, check_space
from ggufpack.errors import ConversionError, DiskSpaceError


def test_a_file_is_what_was_appended_and_its_digest_too(tmp_path: Path) -> None:
    parts: list[Any] = [b"GGUF", np.arange(1000, dtype=np.float32), bytearray(7)]
    whole = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
    file = OutputFile(tmp_path / "a", len(whole) + 32)
    for part in parts:
        file.append(part)
    file.pad_to(len(whole) + 32)
    digest = file.finish()
    file.close()
    assert (tmp_path / "a").read_bytes() == whole + bytes(32)
    assert digest == hashlib.sha256(whole + bytes(32)).hexdigest()


def test_its_room_is_taken_at_once(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "a", 5_000_000)
    try:
        status = (tmp_path / "a").stat()
        assert status.st_size == 5_000_000
        assert status.st_blocks * 512 >= 5_000_000
    finally:
        file.close()


def test_large_files_are_written_back_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(disk, "WRITEBACK_BYTES", 1000)
    monkeypatch.setattr(disk, "_start_writeback", lambda _, offset, count: asked.append((offset, count)))
    file = OutputFile(tmp_path / "a", 2600)
    for size in (600, 600, 600, 600, 200):
        file.append(bytes(size))
    assert asked == [(0, 1200), (1200, 1200)]
    file.finish()
    file.close()


@pytest.mark.parametrize("written", [0, 99, 101])
def test_a_file_of_another_size_is_not_finished(tmp_path: Path, written: int) -> None:
    file = OutputFile(tmp_path / "a", 100)
    file.append(bytes(written))
    with pytest.raises(ConversionError, match=f"has {written} bytes, not 100"):
        file.finish()
    file.close()


def test_padding_never_goes_back(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "a", 100)
    file.append(bytes(40))
    file.pad_to(40)
    with pytest.raises(ConversionError, match="at byte 40, past byte 32"):
        file.pad_to(32)
    file.close()


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        OutputFile(tmp_path / "a", 10)
    assert (tmp_path / "a").read_text() == "mine"


def test_a_filesystem_without_preallocation_gets_the_size_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    OutputFile(tmp_path / "a", 4096).close()
    assert (tmp_path / "a").stat().st_size == 4096


def test_a_full_disk_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(OSError, match="No space"):
        OutputFile(tmp_path / "a", 4096)
    assert (tmp_path / "a").stat().st_size == 0


def test_space_is_counted_for_all_files_together(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    check_space(tmp_path, [free // 4, free // 4])
    with pytest.raises(DiskSpaceError, match="bytes are needed") as caught:
        check_space(tmp_path, [free * 3 // 4, free * 3 // 4])
    assert caught.value.path == tmp_path
