"""Items through the journal whose checkpoints and packages are named by URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ggufpack.batch import errands, storage
from ggufpack.batch.errands import run_errand
from ggufpack.batch.items import Item, ItemHandler, Outcome
from ggufpack.batch.journal import Claim, Journal
from ggufpack.batch.planning import plan_batch
from ggufpack.batch.result import Row
from ggufpack.batch.run import BatchRun
from ggufpack.batch.transfer import UNFINISHED
from ggufpack.batch.urls import joined
from ggufpack.errors import WorkerError
from ggufpack.spec import EventHandler, ignore_event
from tests.unit.batch.builders import small_package, small_spec, training

NO_WORKER: Any = None


@pytest.fixture(params=["file", "memory"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A URL with a training output ``run`` of two checkpoints."""
    source = tmp_path / "bucket"
    training(source / "run", 1, 2)
    if request.param == "file":
        yield f"file://{source}"
        return
    name = uuid.uuid4().hex
    filesystem = MemoryFileSystem()
    filesystem.put(str(source), f"/{name}", recursive=True)
    yield f"memory://{name}"
    filesystem.rm(f"/{name}", recursive=True)


class UrlExecutor:
    """Fetches and puts as a real one does; its builds are ``small_package``."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        for item in items:
            self.built.append(item.key)
            yield run_errand(item, NO_WORKER, ignore_event)


@pytest.fixture(autouse=True)
def small_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The temporary folder."""

    def carry_out(
        item: Item, worker: Any, on_event: EventHandler, before_publish: Callable[[Path], None]
    ) -> Outcome:
        return Outcome(item.key, "unverified", small_package(item, before_publish), None, 0.1)

    monkeypatch.setattr(errands, "carry_out", carry_out)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def run(bucket: str, folder: Path, name: str = "run", **flags: bool) -> tuple[list[str], dict[str, Row]]:
    """Keys that were built, and all rows."""
    executor = UrlExecutor()
    spec = small_spec(Path(f"{bucket}/packages"))
    with Journal(folder / "j.sqlite") as journal:
        running = BatchRun(journal, executor, on_event=lambda _key, _event: None, **flags)
        try:
            rows = list(running.run(plan_batch([f"{bucket}/{name}"], spec).items))
        finally:
            running.close()
    return executor.built, {row.planned.item.key: row for row in rows}


def write(url: str, content: bytes) -> None:
    storage.write(url, content)


def names(url: str) -> set[str]:
    return set(storage.listing(url, 3))


WHOLE = {f"run-{n}/{name}" for n in (1, 2) for name in (f"run-{n}-F16.gguf", "Modelfile", "ggufpack.json")}


def test_finished_work_is_not_redone_and_temporary_files_go(
    bucket: str, tmp_path: Path, small_builds: Path
) -> None:
    built, rows = run(bucket, tmp_path)
    assert built == ["run-1", "run-2"]
    assert rows["run-1"].to_json()["folder"] == rows["run-1"].result["folder"] == f"{bucket}/packages/run-1"
    assert names(f"{bucket}/packages") == WHOLE
    assert list(small_builds.glob("*/*")) == []  # the folder of this user's temporary files stays, empty
    assert list(small_builds.glob("ggufpack-*")) == []
    built, rows = run(bucket, tmp_path)
    assert built == []
    assert all(row.reused for row in rows.values())


@pytest.mark.parametrize("name", ["run-1-F16.gguf", "Modelfile", "ggufpack.json"])
def test_what_lies_there_is_read(bucket: str, tmp_path: Path, name: str) -> None:
    run(bucket, tmp_path)
    write(f"{bucket}/packages/run-1/{name}", b"FROM elsewhere")
    built, rows = run(bucket, tmp_path)
    if name != "ggufpack.json":
        assert built == ["run-1"]
    else:  # whose package this is, nobody knows any more
        assert "holds a package already" in str(rows["run-1"].problem)


def test_a_byte_of_the_weights_is_noticed_whatever_the_store_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"file://{tmp_path}/bucket"
    training(tmp_path / "bucket" / "run", 1, 2)
    monkeypatch.setattr(storage, "_MARKS", ("mtime", "ino"))  # fsspec tells more of local files
    run(bucket, tmp_path)
    weights = tmp_path / "bucket" / "run" / "checkpoint-2" / "model.safetensors"
    status = weights.stat()
    with weights.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(bucket, tmp_path, trust_mtime=True)[0] == []  # what the option is for, and what it costs
    assert run(bucket, tmp_path)[0] == ["run-2"]


def test_trust_mtime_reads_nothing_again_and_sees_what_the_store_tells(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bucket, tmp_path)
    read: list[str] = []
    digest = storage.digest

    def noting(url: str, hasher: storage.Hash) -> str | None:
        read.append(url)
        return digest(url, hasher)

    monkeypatch.setattr(storage, "digest", noting)
    assert run(bucket, tmp_path, trust_mtime=True)[0] == []
    assert not [url for url in read if "/run/" in url]
    content = b"".join([storage.read(f"{bucket}/run/checkpoint-1/model.safetensors", 0, 1 << 20)[:-1], b"\1"])
    write(f"{bucket}/run/checkpoint-1/model.safetensors", content)
    assert run(bucket, tmp_path, trust_mtime=True)[0] == ["run-1"]


def test_a_store_that_tells_nothing_is_never_trusted(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_MARKS", ())
    run(bucket, tmp_path)
    content = storage.read(f"{bucket}/run/checkpoint-1/model.safetensors", 0, 1 << 20)
    write(f"{bucket}/run/checkpoint-1/model.safetensors", content[:-1] + b"\1")
    assert run(bucket, tmp_path, trust_mtime=True)[0] == ["run-1"]


def test_what_is_none_of_ours_is_not_replaced(bucket: str, tmp_path: Path) -> None:
    write(f"{bucket}/packages/run-1/data.csv", b"precious")
    write(f"{bucket}/packages/run-2/ggufpack.json", b"{}")
    built, rows = run(bucket, tmp_path)
    assert built == []
    assert "is not a package of ggufpack" in str(rows["run-1"].problem)
    assert "holds a package already" in str(rows["run-2"].problem)


def test_half_work_of_a_killed_batch_goes(bucket: str, tmp_path: Path) -> None:
    """An object store has it under the final name; without a record, and with the token of its item."""
    target = Path(f"{bucket}/packages/run-1")
    with Journal(tmp_path / "j.sqlite") as journal:
        claim = journal.claim(target, key="run-1", checkpoint=tmp_path, spec_digest="x", seen=None)
        assert isinstance(claim, Claim)
    if bucket.startswith("file"):
        half = f"{bucket}/packages/.run-1.tmp-{claim.token}-0"
        write(joined(half, "run-1-F16.gguf"), b"half")
        write(f"{bucket}/packages/.run-1.tmp-000000000000-0/x", b"of another journal")
        kept = {".run-1.tmp-000000000000-0/x"}
    else:
        write(f"{bucket}/packages/run-1/{UNFINISHED}", claim.token.encode())
        write(f"{bucket}/packages/run-1/half.gguf", b"half")
        kept = set()
    assert run(bucket, tmp_path)[0] == ["run-1", "run-2"]
    assert names(f"{bucket}/packages") == WHOLE | kept


def test_who_is_not_wanted_any_more_publishes_nothing(bucket: str, small_builds: Path) -> None:
    def gone() -> None:
        raise WorkerError("The batch has ended.")

    spec = small_spec(Path(f"{bucket}/packages"))
    (one, _two) = plan_batch([f"{bucket}/run"], spec).items
    outcome = run_errand(one.item, NO_WORKER, ignore_event, gone)
    assert outcome.error is not None
    assert outcome.error["problem"] == "The batch has ended."
    assert not storage.exists(f"{bucket}/packages/run-1")
    assert list(small_builds.glob("*/*")) == []  # the folder of this user's temporary files stays, empty
    assert list(small_builds.glob("ggufpack-*")) == []


def test_errors_name_urls(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(item: Item, *_: Any) -> Outcome:
        said = WorkerError(f"{item.spec.checkpoint} is bad.", path=item.spec.checkpoint)
        return Outcome(item.key, "error", None, said.to_json(), 0.0)

    monkeypatch.setattr(errands, "carry_out", fail)
    _, rows = run(bucket, tmp_path)
    assert rows["run-1"].problem == f"{bucket}/run/checkpoint-1 is bad."


def test_the_drivers_error_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *_: Any, **__: Any) -> None:
        raise OSError("403 for https://key:hunter2@host/x?sig=hunter2")

    monkeypatch.setattr(MemoryFileSystem, "exists", fail)
    fsspec.filesystem("memory")
    with pytest.raises(Exception, match="403 for") as caught:
        storage.exists("memory://x")
    assert "hunter2" not in str(caught.value)
