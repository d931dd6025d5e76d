"""What a killed process left is removed by the next, and nothing that a living one uses."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggufpack.held import held_folder, held_sibling, remove_dead, take_dead

DYING = """
import os, signal, sys
from pathlib import Path
from ggufpack.held import held_folder, held_sibling
parent = Path(sys.argv[1])
with held_folder("x-", parent) as folder, held_sibling(parent / "final") as (path, file):
    (folder / "file").write_text("half")
    file.write(b"half")
    file.flush()
    print("made", flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def other(folder: Path, what: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, str(folder), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"made\n"
    return process


def test_a_killed_process_is_cleaned_up_after(tmp_path: Path) -> None:
    assert other(tmp_path, "die").wait() == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with held_folder("x-", tmp_path) as folder, held_sibling(tmp_path / "final") as (path, file):
        assert set(tmp_path.iterdir()) == {folder, path}
        file.write(b"whole")
        file.flush()
        path.replace(tmp_path / "final")
    assert list(tmp_path.iterdir()) == [tmp_path / "final"]
    assert (tmp_path / "final").read_bytes() == b"whole"


def test_a_living_one_is_left_alone(tmp_path: Path) -> None:
    process = other(tmp_path, "live")
    theirs = set(tmp_path.iterdir())
    with held_folder("x-", tmp_path), held_sibling(tmp_path / "final"):
        assert theirs < set(tmp_path.iterdir())
    process.communicate()
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held_sibling(tmp_path / "final") as (_, file):
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_only_names_with_the_prefix_go(tmp_path: Path) -> None:
    for name in ("x-dead", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "x-link").symlink_to(tmp_path / "other")
    remove_dead(tmp_path, "x-")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "x-link"]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(95, os.strerror(95))

    (tmp_path / "x-old").mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert take_dead(tmp_path / "x-old") is None
    with held_folder("x-", tmp_path) as folder:
        assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["x-old"]
