"""When a checkpoint that appears is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

from ggufpack.batch.watch import Watcher, watch
from tests.unit.batch.builders import small_spec, training, write_checkpoint, write_weights


def taken(watcher: Watcher) -> list[str]:
    return [one.item.key for one in watcher.look().items]


def test_after_two_looks_without_a_change_and_once(tmp_path: Path) -> None:
    watcher = Watcher([str(tmp_path)], small_spec(tmp_path / "packages"))
    assert taken(watcher) == []
    training(tmp_path / "out", 1)
    assert taken(watcher) == []
    write_weights(tmp_path / "out" / "checkpoint-1", b"\1")  # still being written
    assert taken(watcher) == []
    assert taken(watcher) == ["out-1"]
    assert taken(watcher) == []
    training(tmp_path / "out", 2)
    assert [taken(watcher), taken(watcher)] == [[], ["out-2"]]


def test_what_is_saved_again_is_taken_again(tmp_path: Path) -> None:
    watcher = Watcher([str(tmp_path)], small_spec(tmp_path / "packages"))
    export = write_checkpoint(tmp_path / "export")
    assert [taken(watcher), taken(watcher)] == [[], ["export"]]
    write_weights(export, b"\1")
    assert [taken(watcher), taken(watcher)] == [[], ["export"]]


def test_a_checkpoint_without_what_its_siblings_have_waits(tmp_path: Path) -> None:
    out = training(tmp_path / "out", 1, state=True)
    watcher = Watcher([str(tmp_path)], small_spec(tmp_path / "packages"))
    training(out, 2)
    watcher.look()
    plan = watcher.look()
    assert [one.item.key for one in plan.items] == ["out-1"]
    assert "has no trainer_state.json yet" in plan.left_out[0].reason
    (out / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert taken(watcher) == ["out-2"]


def test_one_that_is_rotated_away_is_forgotten(tmp_path: Path) -> None:
    out = training(tmp_path / "out", 1, 2)
    watcher = Watcher([str(tmp_path)], small_spec(tmp_path / "packages"))
    watcher.look()
    shutil.rmtree(out / "checkpoint-1")
    assert taken(watcher) == ["out-2"]


def test_it_ends_when_nothing_comes(tmp_path: Path) -> None:
    training(tmp_path / "out", 1)
    plans = list(watch([str(tmp_path)], small_spec(tmp_path / "packages"), 0.3, poll=0.05))
    assert [[one.item.key for one in plan.items] for plan in plans] == [["out-1"]]
