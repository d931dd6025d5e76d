"""Folders by URL, on two real filesystems of fsspec: one that renames folders, and one that cannot."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ggufpack.batch import storage, transfer
from ggufpack.batch.urls import joined
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError, DiskSpaceError, UsageError

MARK = "0123456789ab"


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A URL to write below."""
    name = uuid.uuid4().hex
    url = f"file://{tmp_path}/{name}" if request.param == "file" else f"memory://{name}"
    yield url
    filesystem, path = fsspec.url_to_fs(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def listing(url: str) -> list[str]:
    filesystem, path = fsspec.url_to_fs(url)
    return sorted(str(found).removeprefix(path) for found in filesystem.find(path))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "made" / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("model-Q8_0.gguf", "Modelfile", "ggufpack.json", "1_Pooling/config.json"):
        (folder / name).write_text(name)
    return folder


def test_there_and_back(root: str, package: Path, tmp_path: Path) -> None:
    url = joined(root, "model")
    assert not storage.exists(url)
    transfer.put(package, url, token=MARK, overwrite=False)
    assert storage.exists(url)
    assert listing(root) == [
        "/model/1_Pooling/config.json",
        "/model/Modelfile",
        "/model/ggufpack.json",
        "/model/model-Q8_0.gguf",
    ]
    fetched = transfer.fetch(url, tmp_path)
    assert fetched == tmp_path / "model"
    assert (fetched / "1_Pooling" / "config.json").read_text() == "1_Pooling/config.json"
    assert storage.size_of(joined(url, "Modelfile")) == len("Modelfile")
    assert storage.size_of(joined(url, "tokenizer.json")) == 0


def test_a_package_is_replaced_as_a_whole_and_only_on_request(root: str, package: Path) -> None:
    url = joined(root, "model")
    transfer.put(package, url, token=MARK, overwrite=False)
    (package / "Modelfile").write_text("newer")
    (package / "model-Q8_0.gguf").rename(package / "model-F16.gguf")
    with pytest.raises(UsageError, match="holds a package already"):
        transfer.put(package, url, token=MARK, overwrite=False)
    assert "/model/model-Q8_0.gguf" in listing(root)
    transfer.put(package, url, token=MARK, overwrite=True)
    assert [name for name in listing(root) if "gguf" in name] == [
        "/model/ggufpack.json",
        "/model/model-F16.gguf",
    ]


def test_what_reads_back_as_something_else_is_no_package(
    root: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = LocalFileSystem if root.startswith("file") else MemoryFileSystem
    put_file = kind.put_file

    def damaging(self: Any, local: str, remote: str, **more: Any) -> None:
        put_file(self, local, remote, **more)
        if remote.endswith(".gguf"):
            self.pipe_file(remote, b"damaged")

    monkeypatch.setattr(kind, "put_file", damaging)
    with pytest.raises(UsageError, match=r"model-Q8_0\.gguf was written and reads back as something else"):
        transfer.put(package, joined(root, "model"), token=MARK, overwrite=False)
    assert listing(root) == []


def test_the_record_comes_last_where_folders_cannot_be_renamed(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    put_file = MemoryFileSystem.put_file

    def noting(self: Any, local: str, remote: str, **more: Any) -> None:
        order.append(Path(remote).name)
        put_file(self, local, remote, **more)

    monkeypatch.setattr(MemoryFileSystem, "put_file", noting)
    transfer.put(package, f"memory://{uuid.uuid4().hex}/model", token=MARK, overwrite=False)
    assert order[-1] == "ggufpack.json"
    assert len(order) == 4


def test_the_state_of_the_trainer_is_not_fetched(root: str, package: Path, tmp_path: Path) -> None:
    for name in ("optimizer.pt", "trainer_state.json", "rng_state.pth", "pytorch_model.bin"):
        (package / name).write_text("state")
    transfer.put(package, root, token=MARK, overwrite=False)
    (tmp_path / "in").mkdir()
    fetched = transfer.fetch(root, tmp_path / "in")
    assert sorted(path.name for path in fetched.iterdir()) == [
        "1_Pooling",
        "Modelfile",
        "ggufpack.json",
        "model-Q8_0.gguf",
    ]


def test_what_cannot_be_fetched(
    root: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointLayoutError, match="does not exist, or is empty"):
        transfer.fetch(root, tmp_path)
    transfer.put(package, root, token=MARK, overwrite=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3))
    with pytest.raises(DiskSpaceError, match="are free in"):
        transfer.fetch(root, tmp_path)


def test_a_file_that_comes_incomplete(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}/model"
    transfer.put(package, url, token=MARK, overwrite=False)

    def cut(self: Any, remote: str, local: str, **_: Any) -> None:
        Path(local).write_bytes(b"x")

    monkeypatch.setattr(MemoryFileSystem, "get_file", cut)
    with pytest.raises(CheckpointFileError, match="came with 1 of 21 bytes"):
        transfer.fetch(url, tmp_path)


@pytest.mark.parametrize("url", ["nonsense://x/y", "s3://bucket/model"])
def test_storage_that_cannot_be_used_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=url):
        transfer.fetch(url, tmp_path)


def test_what_is_no_package_is_never_replaced(root: str, tmp_path: Path, package: Path) -> None:
    url = joined(root, "model")
    storage.write(joined(url, "data.csv"), b"precious")
    with pytest.raises(UsageError, match="is not a package of ggufpack"):
        transfer.put(package, url, token=MARK, overwrite=True)
    assert listing(url) == ["/data.csv"]


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("upto", range(6))
def test_a_put_that_is_killed(
    root: str, package: Path, upto: int, replaces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its writes. What is there is no package, or a whole one; and it can be cleaned up."""
    url = joined(root, "model")
    if replaces:
        transfer.put(package, url, token="0" * 12, overwrite=False)
        (package / "ggufpack.json").write_text("newer")
    kind: Any = LocalFileSystem if root.startswith("file") else MemoryFileSystem
    writes: list[str] = []
    with monkeypatch.context() as patch:
        renames = ("mv",) if kind is LocalFileSystem else ()
        for name in ("put_file", "rm_file", "rm", "pipe_file", *renames):
            patch.setattr(kind, name, dying(getattr(kind, name), writes, upto))
        patch.setattr(transfer, "_clean_up_renamed", lambda *_: None)
        patch.setattr(transfer, "_clean_up_unfinished", lambda *_: None)
        with contextlib.suppress(KilledError):
            transfer.put(package, url, token=MARK, overwrite=replaces)
    transfer.clean_up(url, "1" * 12)  # of another journal
    left = listing(root)
    assert left or upto == 0
    transfer.clean_up(url, MARK)
    found = listing(root)
    whole = [
        "/model/1_Pooling/config.json",
        "/model/Modelfile",
        "/model/ggufpack.json",
        "/model/model-Q8_0.gguf",
    ]
    assert found in ([], whole)
    if found and not replaces:
        assert upto >= 4
    if replaces and root.startswith("file"):
        assert found == whole  # the older package is never lost where folders can be renamed
    transfer.put(package, url, token=MARK, overwrite=True)
    assert listing(root) == whole


class KilledError(BaseException):
    """In place of SIGKILL."""


def dying(method: Any, writes: list[str], upto: int) -> Any:
    def call(self: Any, *arguments: Any, **more: Any) -> Any:
        if len(writes) == upto:
            raise KilledError
        writes.append(method.__name__)
        return method(self, *arguments, **more)

    return call
