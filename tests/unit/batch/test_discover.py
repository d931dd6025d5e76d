"""What is found under a training output, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufpack.batch.discover import discover
from tests.unit.batch.builders import training, write_checkpoint


def names(folder: Path) -> list[str]:
    return [str(one.folder.relative_to(folder)) for one in discover(folder).found]


def test_steps_in_their_order_and_the_export_last(tmp_path: Path) -> None:
    out = training(write_checkpoint(tmp_path / "out"), 1000, 200, 30)
    found = discover(out).found
    assert [one.step for one in found] == [30, 200, 1000, None]
    assert {one.run for one in found} == {"out"}
    assert found[-1].fields == {"run": "out", "step": "final", "checkpoint": "out"}


def test_a_sweep(tmp_path: Path) -> None:
    for run in ("lr-10", "lr-9"):
        training(tmp_path / run, 2, 1)
    assert names(tmp_path) == [f"{run}/checkpoint-{step}" for run in ("lr-9", "lr-10") for step in (1, 2)]


def test_a_checkpoint_that_is_named_itself(tmp_path: Path) -> None:
    (found,) = discover(training(tmp_path / "out", 5) / "checkpoint-5").found
    assert (found.run, found.step) == ("out", 5)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\1"), "too few for a safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has a config.json and no weights"),
        (lambda folder: (folder / "config.json").unlink(), "weights and no config.json"),
        (lambda folder: folder.rename(folder.with_name("tmp-checkpoint-2")), "still being written"),
    ],
)
def test_incomplete_ones_are_left_out_with_the_reason(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    out = training(tmp_path / "out", 1, 2)
    spoil(out / "checkpoint-2")
    looked = discover(out)
    assert [one.step for one in looked.found] == [1]
    (left,) = looked.left_out
    assert reason in left.reason


def test_truncated_weights(tmp_path: Path) -> None:
    out = training(tmp_path / "out", 1)
    weights = out / "checkpoint-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "cut off" in discover(out).left_out[0].reason


def test_packages_hidden_folders_and_links_are_passed_over(tmp_path: Path) -> None:
    out = training(tmp_path / "out", 1)
    write_checkpoint(out / "package")
    (out / "package" / "ggufpack.json").write_text("{}")
    write_checkpoint(out / ".hidden")
    (out / "loop").symlink_to(out)
    assert names(out) == ["checkpoint-1"]


def test_adapters(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "checkpoint-7"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    assert discover(tmp_path).left_out[0].reason == "It has no adapter_model.safetensors."
    weights = write_checkpoint(tmp_path / "x") / "model.safetensors"
    weights.rename(folder / "adapter_model.safetensors")
    (found,) = discover(tmp_path / "out").found
    assert found.adapter
    assert found.fields["adapter"] == "checkpoint-7"
