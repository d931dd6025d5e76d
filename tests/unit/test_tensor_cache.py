"""The tensor cache: nothing is trusted without its digest, the bound holds, processes may share it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ggufpack import tensor_cache
from ggufpack.errors import UsageError
from ggufpack.tensor_cache import (
    DIGEST_BYTES,
    Removed,
    TensorCache,
    entries,
    parse_size,
    prune,
    remove_damaged,
    remove_older,
    remove_unfinished,
    size_limit,
    spared,
)
from tests.support.disk import state_disk

pytestmark = pytest.mark.usefixtures("roomy_disk")

PLENTY = 10**9


def key(number: int) -> bytes:
    return sha256(number.to_bytes(8, "little")).digest()


def block(number: int, size: int = 1000) -> bytes:
    return (key(number) * (size // 32 + 1))[:size]


def filled(folder: Path, count: int, size: int = 1000) -> list[Path]:
    """Entries 0, 1, 2 …, each used an hour after the one before; their files in this order."""
    cache = TensorCache(folder, PLENTY)
    for number in range(count):
        assert cache.store(key(number), "Q4_K", block(number, size)) == DIGEST_BYTES + size
    now, paths = time.time(), []
    for number in range(count):
        path = file_of(folder, number)
        used = now - 3600 * (count - number)
        os.utime(path, (used, used - 60))
        paths.append(path)
    return paths


def file_of(folder: Path, number: int, kind: str = "Q4_K") -> Path:
    name = key(number).hex()
    return folder / name[:2] / f"{name}.{kind}"


def test_what_was_stored_is_read(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "not" / "yet", PLENTY)
    out = bytearray(1000)
    assert not cache.read(key(1), "Q4_K", out)
    assert cache.store(key(1), "Q4_K", block(1)) == 1032
    assert cache.read(key(1), "Q4_K", out)
    assert out == block(1)
    assert not cache.read(key(2), "Q4_K", out)
    assert not cache.read(key(1), "Q6_K", out)
    assert (cache.damaged, cache.refused) == (0, None)
    assert [path.name for path in (tmp_path / "not" / "yet").rglob("*") if path.is_file()] == [
        f"{key(1).hex()}.Q4_K"
    ], "no temporary file is left"


@pytest.mark.parametrize("position", [0, 31, 32, 500, 1031])
def test_a_changed_byte_is_noticed_and_the_entry_removed(position: int, tmp_path: Path) -> None:
    (path,) = filled(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    cache = TensorCache(tmp_path, PLENTY)
    assert not cache.read(key(0), "Q4_K", bytearray(1000))
    assert cache.damaged == 1
    assert not path.exists()
    cache.store(key(0), "Q4_K", block(0))
    assert cache.read(key(0), "Q4_K", bytearray(1000))


@pytest.mark.parametrize("size", [0, 10, 32, 1031, 1033])
def test_another_length_is_damage(size: int, tmp_path: Path) -> None:
    (path,) = filled(tmp_path, 1)
    path.write_bytes((path.read_bytes() + b"x")[:size])
    assert not TensorCache(tmp_path, PLENTY).read(key(0), "Q4_K", bytearray(1000))
    assert not path.exists()


def test_a_whole_entry_under_another_key_is_damage(tmp_path: Path) -> None:
    (path,) = filled(tmp_path, 1)
    other = file_of(tmp_path, 5)
    other.parent.mkdir(exist_ok=True)
    shutil.copy(path, other)
    assert not TensorCache(tmp_path, PLENTY).read(key(5), "Q4_K", bytearray(1000))
    assert not other.exists()


def test_entries_say_when_they_were_used(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    for path in (file_of(tmp_path, 0), file_of(tmp_path, 1)):
        os.utime(path, (1000, 1000))
    assert not any(entry.used_again for entry in entries(tmp_path))
    assert TensorCache(tmp_path, PLENTY).read(key(1), "Q4_K", bytearray(1000))
    first, second = sorted(entries(tmp_path), key=lambda entry: entry.used)
    assert (first.used, first.made, first.kind, first.size) == (1000, 1000, "Q4_K", 1032)
    assert second.made == 1000
    assert second.used > time.time() - 60
    assert second.used_again


# --- the bound --------------------------------------------------------------------


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    paths = filled(tmp_path, 5)
    assert TensorCache(tmp_path, PLENTY).read(key(0), "Q4_K", bytearray(1000))
    assert prune(tmp_path, 3 * 1032) == Removed(2, 2 * 1032)
    assert [path.exists() for path in paths] == [True, False, False, True, True]


def test_old_ones_go(tmp_path: Path) -> None:
    paths = filled(tmp_path, 3)
    assert remove_older(tmp_path, 1.5 * 3600) == Removed(2, 2 * 1032)
    assert [path.exists() for path in paths] == [False, False, True]


def test_a_full_cache_makes_room_but_not_at_the_cost_of_this_job(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    cache = TensorCache(tmp_path, 5 * 1032)
    assert cache.read(key(0), "Q4_K", bytearray(1000)), "the oldest is used, and so is spared"
    stored = [cache.store(key(number), "Q4_K", block(number)) for number in range(10, 15)]
    assert stored == [1032] * 4 + [0]
    assert sum(entry.size for entry in entries(tmp_path)) <= 5 * 1032
    assert file_of(tmp_path, 0).exists()
    assert not any(file_of(tmp_path, number).exists() for number in (1, 2, 3))
    assert cache.refused is not None
    assert "full of this job's own (5,160 bytes)" in cache.refused


@pytest.mark.parametrize(
    ("disk", "left"),
    [(8 * 10**9, 10**9), (20 * 10**9, 10**9), (10**11, 5 * 10**9), (10**13, 10**10)],
)
def test_what_stays_free_of_a_disk(disk: int, left: int) -> None:
    assert spared(disk) == left


def test_a_disk_that_is_short_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path, PLENTY)
    state_disk(monkeypatch, 10**11, spared(10**11) + 1032)
    assert cache.store(key(1), "Q4_K", block(1)) == 1032, "there is room for exactly this one"
    state_disk(monkeypatch, 10**11, spared(10**11) + 1031)
    assert cache.store(key(2), "Q4_K", block(2)) == 0
    assert cache.refused is not None
    assert "the disk has only 5,000,001,031 bytes free" in cache.refused
    assert cache.read(key(1), "Q4_K", bytearray(1000)), "reading goes on"


def test_a_disk_that_is_full_ends_storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path, PLENTY)
    cache.store(key(1), "Q4_K", block(1))

    def half(descriptor: int, parts: list[Any]) -> int:
        os.write(descriptor, parts[0])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", half)
        assert cache.store(key(2), "Q4_K", block(2)) == 0
    assert cache.refused is not None
    assert "No space left on device" in cache.refused
    assert cache.store(key(3), "Q4_K", block(3)) == 0, "it does not try again and again"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1, "the half file is gone"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path, PLENTY)
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: os.write(descriptor, parts[0] + parts[1][:7]))
    cache.store(key(1), "Q4_K", block(1))
    assert cache.read(key(1), "Q4_K", bytearray(1000))


@pytest.mark.parametrize(
    ("text", "size"),
    [("500", 500), ("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29), ("10m", 10**7), ("0", 0), ("2T", 2 * 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 XB", "1.2.3", "1i", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


def test_the_bound_comes_from_the_variable_or_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GGUFPACK_CACHE_SIZE", raising=False)
    assert size_limit(tmp_path / "not" / "there") == 20 * 10**9
    state_disk(monkeypatch, 15 * 10**10, 10**10)
    assert size_limit(tmp_path / "not" / "there") == 15 * 10**9
    monkeypatch.setenv("GGUFPACK_CACHE_SIZE", "3GB")
    assert size_limit(tmp_path) == 3 * 10**9
    monkeypatch.setenv("GGUFPACK_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="GGUFPACK_CACHE_SIZE: 'much' is no size"):
        size_limit(tmp_path)


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is not a folder"):
        TensorCache(tmp_path / "file")


# --- other processes, and files of others -------------------------------------------


def test_verify_removes_the_damaged_and_counts_as_no_use(tmp_path: Path) -> None:
    paths = filled(tmp_path, 3)
    content = bytearray(paths[1].read_bytes())
    content[-1] ^= 1
    paths[1].write_bytes(content)
    os.utime(paths[2], (2000, 1000))
    assert remove_damaged(tmp_path) == (3, Removed(1, 1032))
    assert [path.exists() for path in paths] == [True, False, True]
    assert (paths[2].stat().st_atime, paths[2].stat().st_mtime) == (2000, 1000)


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    folder = file_of(tmp_path, 0).parent
    theirs = [
        tmp_path / "notes.txt",
        folder / "notes.Q4_K",
        folder / ".hidden",
        tmp_path / "photos" / "a.Q4_K",
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    remove_unfinished(tmp_path)
    prune(tmp_path, 0)
    remove_damaged(tmp_path)
    assert not list(entries(tmp_path))
    assert all(path.read_text() == "mine" for path in theirs)


_WRITER = """
import shutil, sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from ggufpack.tensor_cache import TensorCache
shutil.disk_usage = lambda path: SimpleNamespace(total=10**12, free=10**12)
cache = TensorCache(Path(sys.argv[1]), int(sys.argv[2]))
out = bytearray(200_000)
print("ready", flush=True)
wrong = 0
for round in range(int(sys.argv[3])):
    for number in range(40):
        key = sha256(number.to_bytes(8, "little")).digest()
        block = (key * 6251)[:200_000]
        if cache.read(key, "Q4_K", out):
            wrong += bytes(out) != block
        else:
            cache.store(key, "Q4_K", block)
print(wrong, cache.damaged, cache.refused)
"""


def writer(folder: Path, limit: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(folder), str(limit), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    running = [writer(tmp_path, PLENTY, 20) for _ in range(3)]
    removed = 0
    while any(process.poll() is None for process in running):
        removed += prune(tmp_path, 10 * 200_032).entries
    assert [process.communicate()[0] for process in running] == ["ready\n0 0 None\n"] * 3
    assert removed, "entries went while others read them"
    assert remove_damaged(tmp_path)[1] == Removed(0, 0)


def test_a_killed_process_leaves_whole_entries_and_files_that_go(tmp_path: Path) -> None:
    left = 0
    for delay in (0.0, 0.002, 0.004, 0.008, 0.016):
        process = writer(tmp_path, PLENTY, 1000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left += len(list(entries(tmp_path)))
        prune(tmp_path, 0) if delay < 0.01 else None
    assert left, "it was killed in the middle"
    assert remove_damaged(tmp_path)[1].entries == 0

    path = file_of(tmp_path, 0)
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_name(f".{path.name}.4711-3")  # as a killed process leaves it
    scratch.write_bytes(b"half")
    assert remove_unfinished(tmp_path) == 0, "it may be another process's, at work"
    old = time.time() - tensor_cache.UNFINISHED_SECONDS - 1
    os.utime(scratch, (old, old))
    TensorCache(tmp_path, PLENTY).store(key(99), "Q4_K", block(99))
    assert not scratch.exists(), "the next one that stores cleans up"


def test_a_cache_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path, 10**9)
    key = bytes(range(32))
    assert cache.store(key, "Q8_0", b"block")

    def refuse(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache.read_all(key, "Q8_0") == b"block"
    assert cache.damaged == 0
    next(tensor_cache.entries(tmp_path)).path.write_bytes(b"x" * 40)
    assert cache.read_all(key, "Q8_0") is None
    assert cache.damaged == 1
