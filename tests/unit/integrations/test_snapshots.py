"""Snapshots of saves: links that outlive the save, and saves that have nothing to link."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from ggufpack.checkpoint.layout import is_adapter
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError
from ggufpack.integrations.snapshots import (
    PREFIX,
    new_snapshot,
    remove_stale,
    require_weights,
    take_snapshot,
)

STATE = ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "trainer_state.json")


@pytest.fixture
def save(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-5"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", *STATE):
        (folder / name).write_text(name)
    return folder


def test_it_outlives_the_save(save: Path) -> None:
    snapshot = take_snapshot(save)
    assert snapshot.folder.name == "checkpoint-5"
    assert snapshot.folder.parent.parent == save.parent
    assert (snapshot.folder / "model.safetensors").samefile(save / "model.safetensors")
    shutil.rmtree(save)
    names = {path.relative_to(snapshot.folder).as_posix() for path in snapshot.folder.rglob("*.*")}
    assert (
        names
        == set(snapshot.stamps)
        == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "chat_template.jinja",
            "additional_chat_templates/tools.jinja",
        }
    )
    assert (snapshot.folder / "model.safetensors").read_text() == "model.safetensors"
    snapshot.check()
    snapshot.remove()
    assert not list(save.parent.iterdir())


def test_a_file_that_is_written_to_is_noticed(save: Path) -> None:
    snapshot = take_snapshot(save)
    with (save / "model.safetensors").open("r+") as file:
        file.write("other")
    os.utime(save / "model.safetensors", ns=(0, 1))
    with pytest.raises(CheckpointFileError, match=r"model\.safetensors of checkpoint-5 was written to"):
        snapshot.check()
    snapshot.remove()


def test_it_copies_where_there_are_no_links(save: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    snapshot = take_snapshot(save)
    assert not (snapshot.folder / "model.safetensors").samefile(save / "model.safetensors")
    assert (snapshot.folder / "model.safetensors").read_text() == "model.safetensors"
    snapshot.check()
    snapshot.remove()


def test_a_save_that_cannot_be_linked_leaves_nothing(save: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(CheckpointFileError, match="cannot be linked or copied: No space left"):
        take_snapshot(save)
    assert [path.name for path in save.parent.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("names", "reason", "action"),
    [
        (["config.json", "pytorch_model_fsdp_0/x"], "FSDP's own shards", "FULL_STATE_DICT"),
        (["config.json", "global_step5/x"], "DeepSpeed's own shards", "stage3_gather_16bit"),
        (["config.json", "pytorch_model.bin"], "pickles", "safetensors"),
        (["adapter_config.json", "adapter_model.bin"], "pickles", "safetensors"),
        (["config.json", "optimizer.pt"], "no weights", "save_pretrained"),
    ],
)
def test_saves_that_are_not_packaged(tmp_path: Path, names: list[str], reason: str, action: str) -> None:
    folder = tmp_path / "checkpoint-5"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.raises(CheckpointLayoutError, match=reason) as caught:
        require_weights(folder)
    assert action in str(caught.value.action)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointLayoutError, match="checkpoint-9 does not exist"):
        take_snapshot(tmp_path / "checkpoint-9")


def test_an_adapter_is_one_only_without_a_model(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    assert is_adapter(tmp_path)
    require_weights(tmp_path)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").touch()
    assert not is_adapter(tmp_path)


def test_only_what_nobody_holds_is_stale(tmp_path: Path) -> None:
    held = new_snapshot(tmp_path, "checkpoint-1")
    left = tmp_path / f"{PREFIX}dead" / "checkpoint-2"
    left.mkdir(parents=True)
    assert remove_stale(tmp_path) == [left.parent]
    assert held.folder.is_dir()
    held.remove()
    assert not list(tmp_path.iterdir())
