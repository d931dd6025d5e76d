"""One builder of a package at a time: the lock of one that is killed is free."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggufpack.batch.builder_lock import LocksMissingError, only_builder
from ggufpack.batch.scratch import own_scratch, scratch_area
from ggufpack.errors import WorkerError

HOLDER = """
import sys, pathlib
from ggufpack.batch.builder_lock import only_builder
with only_builder(pathlib.Path(sys.argv[1]), "t", lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""
SCRATCH = """
import sys
from ggufpack.batch.scratch import own_scratch
held = own_scratch()
(held.scratch / "fetched").mkdir()
print(held.scratch, flush=True)
sys.stdin.read()
"""


def start(code: str, *words: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_who_waits_gets_it_when_the_other_is_killed(tmp_path: Path) -> None:
    process, said = start(HOLDER, str(tmp_path / "one"))
    assert said == "held"
    waited = []

    def wait() -> None:
        waited.append(1)
        if len(waited) == 2:
            process.kill()

    with only_builder(tmp_path / "one", "t", wait):
        assert len(waited) >= 2
        assert process.wait() != 0
    assert list(tmp_path.iterdir()) == []


def test_who_is_not_wanted_any_more_does_not_wait(tmp_path: Path) -> None:
    def gone() -> None:
        raise WorkerError("gone")

    with (
        only_builder(tmp_path / "one", "t", lambda: None),
        pytest.raises(WorkerError, match="gone"),
        only_builder(tmp_path / "one", "t", gone),
    ):
        pass
    with only_builder(tmp_path / "one", "t", gone), only_builder(tmp_path / "one", "other", gone):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_filesystem_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LocksMissingError), only_builder(tmp_path / "one", "t", lambda: None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living, of_living = start(SCRATCH)
    dying, of_dead = start(SCRATCH)
    dying.kill()
    dying.wait()
    assert Path(of_dead).is_dir()
    with own_scratch() as own:
        assert own.scratch.is_dir()
        assert Path(of_living, "fetched").is_dir()
        assert not Path(of_dead).exists()
    living.communicate()
    assert scratch_area().stat().st_mode & 0o077 == 0


def test_somebody_elses_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "other").mkdir()
    scratch_area().symlink_to(tmp_path / "other")
    with pytest.raises(WorkerError, match="is not this user's folder"):
        own_scratch()
