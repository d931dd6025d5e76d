"""Items through the journal: what is done again, and what is not."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufpack.batch.items import Item, ItemHandler, Outcome
from ggufpack.batch.journal import Claim, Held, Journal
from ggufpack.batch.lease import Lease, is_held
from ggufpack.batch.planning import Planned, plan_batch
from ggufpack.batch.remains import clean_up_remains
from ggufpack.batch.result import Row
from ggufpack.batch.run import BatchRun
from ggufpack.errors import JournalError, UsageError, WorkerError
from ggufpack.target import target_of
from tests.unit.batch.builders import SmallExecutor, small_spec, training, write_weights


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return training(tmp_path / "out", 1, 2)


def planned(out: Path, **options: Any) -> tuple[Planned, ...]:
    return plan_batch([str(out)], replace(small_spec(out.parent / "packages"), **options)).items


def journal_path(out: Path) -> Path:
    return out.parent / "j.sqlite"


def run(out: Path, executor: SmallExecutor | None = None, **options: Any) -> tuple[list[str], list[Row]]:
    """Keys that were built, and all rows."""
    executor = executor or SmallExecutor()
    flags = {name: bool(options.pop(name)) for name in ("restart", "trust_mtime") if name in options}
    with Journal(journal_path(out)) as journal:
        running = BatchRun(journal, executor, on_event=lambda _key, _event: None, **flags)
        try:
            rows = list(running.run(planned(out, **options)))
        finally:
            running.close()
    return executor.built, rows


def package(out: Path, name: str) -> Path:
    return out.parent / "packages" / name


def test_finished_work_is_not_redone(out: Path) -> None:
    assert run(out)[0] == ["out-1", "out-2"]
    built, rows = run(out)
    assert built == []
    assert all(row.reused for row in rows)


def test_a_byte_of_the_weights_is_noticed_whatever_the_clock_says(out: Path) -> None:
    run(out)
    weights = out / "checkpoint-2" / "model.safetensors"
    status = weights.stat()
    with weights.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(out, trust_mtime=True)[0] == []  # what the option is for, and what it costs
    assert run(out)[0] == ["out-2"]
    assert (package(out, "out-2") / "out-2-F16.gguf").read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("change", ["config.json", "README.md", "1_Pooling/config.json"])
def test_other_files_count(out: Path, change: str) -> None:
    run(out)
    path = out / "checkpoint-1" / change
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"architectures": ["X"], "model_type": "x"}')
    assert run(out)[0] == ["out-1"]


def test_the_trainers_state_does_not_count(out: Path) -> None:
    run(out)
    (out / "checkpoint-1" / "trainer_state.json").write_text("{}")
    (out / "checkpoint-1" / "optimizer.pt").write_text("")
    assert run(out)[0] == []


def test_options_that_shape_the_package_count(out: Path) -> None:
    run(out)
    assert run(out, threads=3)[0] == []
    assert run(out, system="Be kind.")[0] == ["out-1", "out-2"]


@pytest.mark.parametrize("name", ["out-1-F16.gguf", "Modelfile", "ggufpack.json"])
def test_a_changed_or_lost_output_is_redone_if_it_is_ours(out: Path, name: str) -> None:
    run(out)
    (package(out, "out-1") / name).unlink()
    if name != "ggufpack.json":
        assert run(out)[0] == ["out-1"]
    else:  # a package without our record is not ours to replace
        row = run(out)[1][0]
        assert row.status == "error"
        assert "not a package of ggufpack" in str(row.problem)


def test_a_package_of_somebody_else_is_not_replaced(out: Path) -> None:
    package(out, "out-1").mkdir(parents=True)
    (package(out, "out-1") / "ggufpack.json").write_text("{}")
    built, rows = run(out)
    assert built == ["out-2"]
    assert {row.planned.item.key: row.status for row in rows} == {"out-1": "error", "out-2": "unverified"}
    assert run(out, overwrite=True)[0] == ["out-1"]


def test_restart_does_all_again(out: Path) -> None:
    run(out)
    assert run(out, restart=True)[0] == ["out-1", "out-2"]


def test_errors_are_tried_again(out: Path) -> None:
    kept = out / "checkpoint-1" / "model.safetensors"

    def change(item: Item) -> None:
        if item.key == "out-1":
            write_weights(out / "checkpoint-1", b"\2")

    rows = {row.planned.item.key: row for row in run(out, SmallExecutor(change))[1]}
    assert "changed while it was packaged" in str(rows["out-1"].problem)
    assert kept.exists()
    assert run(out)[0] == ["out-1"]


def test_a_checkpoint_that_vanishes_is_reported(out: Path) -> None:
    items = planned(out)
    (out / "checkpoint-1" / "model.safetensors").unlink()
    with Journal(journal_path(out)) as journal:
        running = BatchRun(journal, SmallExecutor(), on_event=lambda _key, _event: None)
        rows = {row.planned.item.key: row for row in running.run(items)}
        running.close()
    assert rows["out-1"].status == "error"
    assert rows["out-2"].status == "unverified"


# --- killed batches -------------------------------------------------------------


def kill_in(out: Path, step: str) -> str:
    """Leave the journal and the disk as a kill at ``step`` of the first item would; the token."""
    one = planned(out)[0]
    command = [sys.executable, "-m", "tests.unit.batch.dying", str(out), str(journal_path(out)), step]
    done = subprocess.run(command, check=False)
    assert done.returncode == -9
    with Journal(journal_path(out)) as journal:
        entry = journal.entry(one.folder)
    assert entry is not None
    assert entry.state == "claimed"
    return entry.token


def hidden(out: Path) -> Iterator[Path]:
    return (path for path in [*out.parent.glob("packages/.*"), *out.parent.glob("j.sqlite.*")])


@pytest.mark.parametrize("step", ["claimed", "half"])
def test_half_work_is_cleaned_and_done(out: Path, step: str) -> None:
    token = kill_in(out, step)
    assert run(out)[0] == ["out-1", "out-2"]
    assert not list(hidden(out))
    assert json.loads((package(out, "out-1") / "ggufpack.json").read_text())["token"] == token


def test_a_package_that_was_finished_but_for_the_journal_is_taken(out: Path) -> None:
    kill_in(out, "published")
    built, rows = run(out)
    assert built == ["out-2"]
    assert rows[0].reused
    assert rows[0].result["folder"] == str(package(out, "out-1"))
    assert run(out)[0] == []


def test_it_is_not_taken_when_the_input_is_another(out: Path) -> None:
    kill_in(out, "published")
    write_weights(out / "checkpoint-1", b"\3")
    assert run(out)[0] == ["out-1", "out-2"]


def test_an_earlier_package_is_not_taken_for_that_of_a_killed_build(out: Path) -> None:
    run(out)
    write_weights(out / "checkpoint-1", b"\3")
    kill_in(out, "half")
    assert run(out)[0] == ["out-1"]
    gguf = package(out, "out-1") / "out-1-F16.gguf"
    assert gguf.read_bytes() == (out / "checkpoint-1" / "model.safetensors").read_bytes()


class FailingExecutor(SmallExecutor):
    """Makes nothing."""

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        error = WorkerError("It failed.").to_json()
        return (Outcome(item.key, "error", None, error, 0.0) for item in items)


def test_a_package_that_was_moved_aside_is_put_back(out: Path) -> None:
    run(out)
    with Journal(journal_path(out)) as journal:
        entry = journal.entry(package(out, "out-1"))
    assert entry is not None
    write_weights(out / "checkpoint-1", b"\4")
    package(out, "out-1").rename(package(out, f".out-1.old-{entry.token}"))
    run(out, FailingExecutor())
    assert (package(out, "out-1") / "ggufpack.json").is_file()
    assert not list(hidden(out))
    assert run(out)[0] == ["out-1"]


def test_what_was_left_of_an_item_that_is_asked_for_no_more_goes(out: Path) -> None:
    token = kill_in(out, "half")
    foreign = package(out, ".out-1.tmp-000000000000-x")
    foreign.mkdir()
    assert [path.name for path in hidden(out) if token in path.name]
    gone = (out / "checkpoint-1").rename(out.parent / "elsewhere")
    assert run(out)[0] == ["out-2"]
    assert list(hidden(out)) == [foreign]
    with Journal(journal_path(out)) as journal:
        assert journal.dead() == ()
    gone.rename(out / "checkpoint-1")
    assert run(out)[0] == ["out-1"]


def test_what_cannot_be_removed_is_tried_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in(out, "half")
    gone = (out / "checkpoint-1").rename(out.parent / "elsewhere")

    def fail(*_: Any) -> None:
        raise UsageError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("ggufpack.batch.existing.clean_up", fail)
        with Journal(journal_path(out)) as journal:
            told: list[str] = []
            clean_up_remains(journal, (), lambda key, why: told.append(f"{key}: {why}"))
            assert told == ["out-1: not now", "out-2: not now"]
            assert [entry.key for entry in journal.dead()] == ["out-1", "out-2"]
    assert run(out)[0] == ["out-2"]
    assert not list(hidden(out))
    assert gone.is_dir()


def test_what_a_living_batch_makes_is_left_alone(out: Path) -> None:
    target = package(out, "other")
    with Journal(journal_path(out)) as living:
        claim = living.claim(target, key="other", checkpoint=out, spec_digest="d", seen=None)
        assert isinstance(claim, Claim)
        made = target.with_name(f".other.tmp-{claim.token}-x")
        made.mkdir(parents=True)
        assert run(out)[0] == ["out-1", "out-2"]
        assert made.is_dir()
        assert living.dead() == ()


def test_what_a_killed_process_of_this_batch_left_goes_at_once(out: Path) -> None:
    class Dying(FailingExecutor):
        def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
            for item in items:
                folder = target_of(item.spec).folder
                (folder.parent / f".{folder.name}.tmp-{item.spec.token}-x").mkdir(parents=True)
            return super().run(items, on_event)

    run(out, Dying())
    assert not list(hidden(out))


# --- two at once ----------------------------------------------------------------


def test_a_living_batchs_item_is_not_taken(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "x"
    with Journal(journal_path(out)) as one, Journal(journal_path(out)) as other:
        claim = one.claim(target, key="x", checkpoint=out, spec_digest="d", seen=None)
        assert isinstance(claim, Claim)
        seen = other.entry(target)
        held = other.claim(target, key="x", checkpoint=out, spec_digest="d", seen=seen)
        assert isinstance(held, Held)
        assert f"process {os.getpid()}" in held.owner
        one.finish(claim, "done", {"a": 1}, {"f": "0"})
        assert other.claim(target, key="x", checkpoint=out, spec_digest="d", seen=seen) is None
        entry = other.entry(target)
        assert entry is not None
        assert (entry.state, entry.outputs) == ("done", {"f": "0"})


def test_who_lost_a_claim_writes_nothing(out: Path, tmp_path: Path) -> None:
    with Journal(journal_path(out)) as journal:
        claim = journal.claim(tmp_path, key="x", checkpoint=out, spec_digest="d", seen=None)
        assert isinstance(claim, Claim)
        journal.finish(claim, "error", {}, {})
        journal.finish(claim, "done", {}, {})
        entry = journal.entry(tmp_path)
        assert entry is not None
        assert entry.state == "error"


def test_a_lease_is_held_as_long_as_anybody_holds_it(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    owner = Lease(journal)
    helper = Lease(journal, owner.name)
    owner._file.close()  # as a kill would
    assert is_held(journal, owner.name)
    helper.close()
    assert not is_held(journal, owner.name)
    assert not list(tmp_path.iterdir())


# --- journals that cannot be used -------------------------------------------------


def test_a_newer_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(JournalError, match="written by a newer ggufpack"):
        Journal(path)


def test_a_damaged_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(JournalError, match=r"is damaged: .*Move it away"):
        Journal(path)
    assert [one.name for one in tmp_path.iterdir()] == ["j"]


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(JournalError, match="of another program"):
        Journal(path)


def test_stages_are_recorded(out: Path) -> None:
    run(out)
    with Journal(journal_path(out)) as journal:
        ((_lease, stage, seconds),) = journal.stages(package(out, "out-1"))
    assert (stage, seconds) == ("conversion", 0.5)
