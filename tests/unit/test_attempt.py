"""What one attempt at a package leaves when it is killed, and what the next one does about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggufpack.attempt import attempt_at, published
from ggufpack.errors import UsageError
from ggufpack.package_folder import RECORD_NAME, package_folder
from ggufpack.spec import Event, Note, ignore_event

DYING = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from ggufpack.attempt import attempt_at
from ggufpack.package_folder import package_folder
from ggufpack.spec import ignore_event
final = Path(sys.argv[1])
with attempt_at(final, None, ignore_event) as attempt, package_folder(final, attempt.token) as folder:
    if sys.argv[2] != "-":
        attempt.registers_at(SimpleNamespace(host=sys.argv[2]))
    attempt.publishes(["ab" * 32])
    (folder.working / "x.gguf").write_text("half")
    if final.exists():
        final.rename(final.with_name(f".{final.name}.old-{attempt.token}"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die(final: Path, host: str = "-") -> None:
    done = subprocess.run([sys.executable, "-c", DYING, str(final), host], check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_next_attempt_cleans_up_and_puts_the_older_package_back(tmp_path: Path) -> None:
    final = tmp_path / "out" / "model"
    final.mkdir(parents=True)
    (final / RECORD_NAME).write_text("old")
    die(final)
    assert not final.exists()
    assert len(list(final.parent.iterdir())) == 3
    with attempt_at(final, None, ignore_event) as attempt:
        assert (final / RECORD_NAME).read_text() == "old"
        assert set(final.parent.iterdir()) >= {final, attempt.mark}
        assert not list(final.parent.glob(".model.[to]*"))
        assert attempt.own == {"ab" * 32}
    assert list(final.parent.iterdir()) == [final]


def test_a_living_attempt_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with attempt_at(final, None, ignore_event) as one, package_folder(final, one.token) as folder:
        (folder.working / "x.gguf").write_text("half")
        with attempt_at(final, None, ignore_event) as other:
            assert other.own == frozenset()
        assert (folder.working / "x.gguf").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_on_a_server_that_does_not_answer_is_not_forgotten(tmp_path: Path) -> None:
    final = tmp_path / "model"
    die(final, "http://127.0.0.1:9")
    events: list[Event] = []
    with attempt_at(final, None, events.append):
        pass
    (left,) = tmp_path.iterdir()
    assert json.loads(left.read_text().splitlines()[0]) == {"host": "http://127.0.0.1:9"}
    (note,) = events
    assert isinstance(note, Note)
    assert str(left) in note.message


def test_a_line_that_was_cut_short_said_nothing(tmp_path: Path) -> None:
    final = tmp_path / "model"
    die(final)
    (mark,) = tmp_path.glob(".model.build-*")
    mark.write_text('{"host": "http://127.0.0.1:9')
    with attempt_at(final, None, ignore_event) as attempt:
        assert attempt.own == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_keeps_its_tokens_itself(tmp_path: Path) -> None:
    with attempt_at(tmp_path / "out" / "model", "a" * 12, ignore_event) as attempt:
        assert attempt.token == "a" * 12
        assert list(tmp_path.iterdir()) == []


def test_an_items_files_are_known_until_a_build_is_done(tmp_path: Path) -> None:
    final, token = tmp_path / "out" / "model", "a" * 12
    final.parent.mkdir()
    assert published(final, token) == frozenset()
    with pytest.raises(KeyError), attempt_at(final, token, ignore_event) as attempt:
        attempt.publishes(["ab" * 32])
        assert list(final.parent.iterdir()) == [attempt.mark]
        with attempt_at(final, None, ignore_event) as other:  # it lives: its file is nobody else's
            assert other.own == frozenset()
        raise KeyError
    assert published(final, token) == {"ab" * 32}
    with pytest.raises(KeyError), attempt_at(final, token, ignore_event) as attempt:
        assert attempt.own == {"ab" * 32}
        attempt.publishes(["cd" * 32])
        raise KeyError
    assert published(final, token) == {"ab" * 32, "cd" * 32}
    with attempt_at(final, token, ignore_event):
        final.mkdir()
    assert list(final.parent.iterdir()) == [final]


def test_a_build_without_a_token_takes_over_what_an_item_left(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with pytest.raises(KeyError), attempt_at(final, "a" * 12, ignore_event) as attempt:
        attempt.publishes(["ab" * 32])
        raise KeyError
    with attempt_at(final, None, ignore_event) as attempt:
        assert attempt.own == {"ab" * 32}
    assert list(tmp_path.iterdir()) == []


def test_an_items_mark_that_cannot_be_written(tmp_path: Path) -> None:
    final = tmp_path / "file" / "model"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match=r"\.model\.build-aa.* cannot be written"),
        attempt_at(final, "a" * 12, ignore_event) as attempt,
    ):
        attempt.publishes(["ab" * 32])


def test_folders_that_were_made_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), attempt_at(tmp_path / "a" / "b" / "model", None, ignore_event):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        attempt_at(tmp_path / "file" / "model", None, ignore_event).__enter__()


def test_names_that_were_given_may_be_taken_again_until_a_build_is_done(tmp_path: Path) -> None:
    """The server and the store have the model, and the package cannot be put in its place."""
    final = tmp_path / "out" / "model"
    with pytest.raises(KeyError), attempt_at(final, None, ignore_event) as attempt:
        attempt.publishes(["ab" * 32])
        raise KeyError
    with pytest.raises(ValueError, match="early"), attempt_at(final, None, ignore_event) as attempt:
        assert attempt.own == {"ab" * 32}
        raise ValueError("early")
    with attempt_at(final, None, ignore_event) as attempt:
        assert attempt.own == {"ab" * 32}
        final.mkdir()
    assert list(final.parent.iterdir()) == [final]


def test_an_older_package_stays_when_the_new_one_cannot_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "model"
    final.mkdir()
    (final / RECORD_NAME).write_text("old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise OSError(5, os.strerror(5))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UsageError, match="model cannot be written"), package_folder(final, "t") as folder:
        folder.publish()
    assert (final / RECORD_NAME).read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("older", [False, True])
def test_a_place_that_cannot_be_made_durable_is_as_before(
    tmp_path: Path, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "out" / "model"
    if older:
        final.mkdir(parents=True)
        (final / RECORD_NAME).write_text("old")

    def refuse(path: Path) -> None:
        if path == final.parent:
            raise OSError(5, os.strerror(5))

    monkeypatch.setattr("ggufpack.package_folder.sync", refuse)
    with pytest.raises(UsageError, match="model cannot be written"), package_folder(final, "t") as folder:
        (folder.working / RECORD_NAME).write_text("new")
        folder.make_durable()
        folder.publish()
    left = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == ({Path("out", "model", RECORD_NAME): "old"} if older else {})
