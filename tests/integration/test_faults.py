"""A slice of ``python -m tests.faults``: a build that is killed in its last step, and a disk that refuses."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults.injected import count_calls
from tests.faults.kills import wrong_message
from tests.faults.preload import Action, Kind, Preload
from tests.faults.row import COUNTED, Row
from tests.faults.scene import Scene
from tests.support.ollama_server import RunningOllama

NOTHING: dict[str, list[str]] = {kind: [] for kind in COUNTED}


@pytest.mark.server
def test_killed_between_the_names_and_the_package(ollama_server: RunningOllama, tmp_path: Path) -> None:
    """The names are given, the folder is not: the same command, without --overwrite, finishes it."""
    row = Row("kill-in-call")
    scene = Scene(tmp_path / "scene", server=ollama_server, store=True).learn()
    preload = Preload(tmp_path, scene.folder)
    renames = count_calls(scene, preload, Kind.RENAME)
    preload.arm(renames, Action.KILL, Kind.RENAME)
    scene.run(environment=preload.environment)
    assert preload.seen().path == str(scene.package)
    assert not scene.package.exists()
    scene.dirty = True
    scene.look(row)
    scene.again(row)
    assert row.problems == NOTHING


def test_a_full_disk(tmp_path: Path) -> None:
    row = Row("enospc")
    scene = Scene(tmp_path / "scene").learn()
    preload = Preload(tmp_path, scene.output)
    for kind in (Kind.SIZE, Kind.RENAME):  # in the worker, and in the build itself
        preload.arm(1, Action.FAIL_ONCE, kind, errno.ENOSPC)
        done = scene.run(environment=preload.environment)
        assert preload.seen().hits == 1
        assert wrong_message(done, ["no room"]) is None
        scene.look(row)
        scene.settled(row)
    assert row.problems == NOTHING
