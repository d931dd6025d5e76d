"""Which folder was meant, and one clear sentence for each that cannot be meant."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufpack.checkpoint.layout import locate
from ggufpack.errors import CheckpointLayoutError

from .builders import make_checkpoint, shard, write_json


def refused(path: Path) -> CheckpointLayoutError:
    with pytest.raises(CheckpointLayoutError) as caught:
        locate(path)
    assert caught.value.exit_code == 3
    assert caught.value.action
    return caught.value


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_an_export_is_itself(tmp_path: Path) -> None:
    assert locate(make_checkpoint(tmp_path)) == tmp_path


def test_a_sharded_export_is_itself(tmp_path: Path) -> None:
    shard(make_checkpoint(tmp_path))
    assert locate(tmp_path) == tmp_path


def test_an_index_whose_shards_are_missing_is_still_a_checkpoint(tmp_path: Path) -> None:
    # so that the message lists the shards
    make_checkpoint(tmp_path)
    for name in shard(tmp_path):
        (tmp_path / name).unlink()
    assert locate(tmp_path) == tmp_path


def test_a_trainers_folder_is_itself_in_spite_of_its_pickles(tmp_path: Path) -> None:
    folder = touch(
        make_checkpoint(tmp_path / "checkpoint-100"), "optimizer.pt", "rng_state.pth", "training_args.bin"
    )
    assert locate(folder) == folder


def test_an_export_with_checkpoints_inside_is_itself(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    make_checkpoint(tmp_path / "checkpoint-5")
    assert locate(tmp_path) == tmp_path


def test_several_checkpoints_are_named_in_numeric_order(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    touch(tmp_path, "trainer_state.json", "runs/log")
    error = refused(tmp_path)
    assert "holds 3 checkpoints: checkpoint-3, checkpoint-20, checkpoint-100" in error.problem
    assert str(tmp_path / "checkpoint-100") in (error.action or "")


def test_the_only_checkpoint_inside_is_taken(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint-20")
    touch(tmp_path, "README.md")
    assert locate(tmp_path) == tmp_path / "checkpoint-20"


def test_the_hub_cache_folder_of_a_model(tmp_path: Path) -> None:
    snapshot = make_checkpoint(tmp_path / "snapshots" / "0a1b")
    touch(tmp_path, "refs/main", "blobs/ff")
    assert locate(tmp_path) == snapshot


def test_pickles_beside_one_inner_checkpoint_are_not_ignored(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint-20")
    touch(tmp_path, "pytorch_model.bin")
    refused(tmp_path)


def test_an_adapter_asks_for_its_base(tmp_path: Path) -> None:
    touch(tmp_path, "adapter_model.safetensors", "tokenizer_config.json")
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "org/base"})
    error = refused(tmp_path)
    assert "only an adapter of org/base" in error.problem
    assert error.action == "Give the folder of org/base with --base."


def test_an_adapter_with_a_broken_config_is_still_an_adapter(tmp_path: Path) -> None:
    touch(tmp_path, "adapter_config.json", "adapter_model.safetensors")
    error = refused(tmp_path)
    assert "only an adapter." in error.problem
    assert error.action == "Give the folder of its base model with --base."


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.ckpt", "x.pth"]
)
def test_pickle_only_says_how_to_convert(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "config.json", "optimizer.pt")
    error = refused(tmp_path)
    assert f"pickle files only ({name})" in error.problem
    words = shlex.split((error.action or "").partition(": ")[2])
    compile(words[2], "snippet", "exec")
    assert "safe_serialization=True" in words[2]


def test_deepspeed_says_which_script(tmp_path: Path) -> None:
    touch(tmp_path, "global_step200/mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest", "config.json")
    error = refused(tmp_path)
    assert "DeepSpeed's sharded state (global_step200)" in error.problem
    assert f"python {tmp_path}/zero_to_fp32.py {tmp_path}" in (error.action or "")


@pytest.mark.parametrize("inner", ["pytorch_model_fsdp_0/", ""])
def test_fsdp_says_what_to_run(tmp_path: Path, inner: str) -> None:
    touch(tmp_path, f"{inner}__0_0.distcp", f"{inner}.metadata", "config.json")
    error = refused(tmp_path)
    assert "FSDP" in error.problem
    assert f"accelerate merge-weights {tmp_path / inner}" in (error.action or "")


def _nothing(path: Path) -> Path:
    path.rmdir()
    return path


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda path: path, "is empty"),
        (_nothing, "does not exist"),
        (lambda path: touch(path, "m.gguf") / "m.gguf", "is a GGUF file already"),
        (lambda path: touch(path, "model.safetensors") / "model.safetensors", "one file of a checkpoint"),
        (lambda path: touch(path, "notes.txt") / "notes.txt", "is not a folder"),
        (lambda path: touch(path, "m-Q4_K_M.gguf"), "only GGUF files (m-Q4_K_M.gguf)"),
        (lambda path: touch(path, "model.safetensors"), "weights and no config.json"),
        (lambda path: touch(path, "config.json", "tokenizer.json"), "config.json and no weights"),
        (lambda path: touch(path, "config.json", "weights.safetensors"), "none that is named model*"),
        (lambda path: touch(path, "params.json", "consolidated.safetensors"), "Mistral's own format"),
        (lambda path: touch(path, "model_index.json", "unet/model.bin"), "diffusers"),
        (lambda path: touch(path, "README.md"), "neither config.json nor"),
        (lambda path: touch(path, "training_args.bin", "README.md"), "neither config.json nor"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, prepare: Callable[[Path], Path], says: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    path = prepare(folder)
    error = refused(path)
    assert says in error.problem
    assert error.path == path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "closed")
    folder.chmod(0o000)
    try:
        with pytest.raises(CheckpointLayoutError, match="cannot be read"):
            locate(folder)
    finally:
        folder.chmod(0o700)
