"""A child process that goes wrong: what its parent says."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from ggufpack import child
from ggufpack.child import Child
from ggufpack.confinement import process
from ggufpack.errors import WorkerError

# argument: the number of the event pipe
STAYS = """
import os, sys, time
os.close(int(sys.argv[1]))
print("no more answers", flush=True)
time.sleep(600)
"""
LEAVES_SLOWLY = """
import os, sys, time
os.close(int(sys.argv[1]))
time.sleep(1)
sys.exit(3)
"""


BUS_ERROR = """
import os, signal
os.kill(os.getpid(), signal.SIGBUS)
"""


def started(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    (tmp_path / "some_child.py").write_text(program, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Child("some_child", (), what="some child", error=WorkerError)


def test_one_that_says_no_more_and_stays_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LEAVE_SECONDS", 0.5)
    begun = time.monotonic()
    with started(STAYS, tmp_path, monkeypatch) as one:
        with pytest.raises(WorkerError, match="some child closed its answers") as caught:
            one.call({"do": "open"})
        pid = one.pid
    assert caught.value.log == "no more answers"
    assert time.monotonic() - begun < 60
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_leaves_slowly_has_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        started(LEAVES_SLOWLY, tmp_path, monkeypatch) as one,
        pytest.raises(WorkerError, match="stopped with status 3"),
    ):
        one.call({"do": "open"})


def test_one_that_loses_a_mapped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        started(BUS_ERROR, tmp_path, monkeypatch) as one,
        pytest.raises(WorkerError, match="became shorter, or the disk"),
    ):
        one.call({"do": "open"})


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with (
        started(STAYS, tmp_path, monkeypatch) as one,
        pytest.raises(WorkerError, match="Temporary files of the some child cannot be written"),
    ):
        one.start()


def test_an_emptied_temporary_folder_is_said() -> None:
    """A cleaner of /tmp takes the log of a process that then dies."""
    child = Child("ggufpack.no_such_module", (), what="conversion worker", error=WorkerError)
    with child:
        child.start()
        shutil.rmtree(child._log.parent)
        with pytest.raises(WorkerError, match="stopped with status 1") as caught:
            child.call({})
    assert "is gone: something empties" in (caught.value.log or "")


def test_secrets_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "PGPASSWORD_FILE_PASSWORD")
    for name in (*secrets, "TOKENIZERS_CACHE", "KEYBOARD"):
        monkeypatch.setenv(name, "x")
    child = Child("ggufpack.no_such_module", (), what="", error=WorkerError)
    assert not child._inherited().keys() & set(secrets)
    assert {"TOKENIZERS_CACHE", "KEYBOARD", "PATH"} <= child._inherited().keys()
    trusted = Child("ggufpack.no_such_module", (), what="", error=WorkerError, secrets=True)
    assert set(secrets) <= trusted._inherited().keys()


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "no JSON",
        '{"event": 1}',
        '{"event": "progress", "done": "all", "total": 1, "item": ""}',
        '{"event": "error", "type": ["WorkerError"], "problem": "x"}',
        '{"event": "error", "type": "WorkerError", "problem": "x", "action": 1, "path": 1}',
        '{"event": "done", "more": "' + "x" * 2000,
        "[" * 900,
    ],
)
def test_one_that_says_anything(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LONGEST_LINE", 1000)
    program = f"""
import os, sys
ready, said = b'{{"event": "ready"}}\\n', {said!r}.encode()
os.write(int(sys.argv[1]), ready + said + (b"" if len(said) > 1000 else b"\\n"))
sys.stdin.read()
"""
    with (
        started(program, tmp_path, monkeypatch) as one,
        pytest.raises(WorkerError, match="some child said what it never says"),
    ):
        one.call({"do": "open"})
