"""Which checkpoints take images, and what is said of those that no longer do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.checkpoint import Checkpoint, open_checkpoint
from ggufpack.checkpoint.vision import has_vision_tower, left_out
from ggufpack.spec import GgufFile, Severity

from .builders import CONFIG, make_checkpoint, model_tensors

TOWER = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"


def opened(folder: Path, *, config: bool = True, tensor: str | None = TOWER) -> Checkpoint:
    vision = {"vision_config": {"hidden_size": 4}} if config else {}
    tower = {} if tensor is None else {tensor: ("BF16", (4, 4))}
    return open_checkpoint(
        make_checkpoint(folder, config={**CONFIG, **vision}, tensors={**model_tensors(), **tower})
    )


@pytest.mark.parametrize(
    ("config", "tensor", "expected"),
    [
        (True, TOWER, True),
        (True, "model.visual.blocks.0.attn.qkv.weight", True),
        (True, None, False),  # trained on text, saved with the whole configuration
        (True, "model.provision.weight", False),
        (False, TOWER, False),
    ],
)
def test_a_tower_is_described_and_there(
    config: bool, tensor: str | None, expected: bool, tmp_path: Path
) -> None:
    assert has_vision_tower(opened(tmp_path, config=config, tensor=tensor)) is expected


def test_what_is_said(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    (unknown,) = left_out(checkpoint, True, None)
    assert (unknown.id, unknown.severity) == ("GP130", Severity.WARNING)
    assert "LlamaForCausalLM" in unknown.message
    (unwanted,) = left_out(checkpoint, False, None)
    assert (unwanted.id, unwanted.severity) == ("GP131", Severity.INFO)
    (packaged,) = left_out(checkpoint, True, GgufFile("F16", Path("m-mmproj-F16.gguf"), 1, "ab", {}))
    assert (packaged.id, packaged.severity) == ("GP132", Severity.UNCHECKED)


def test_a_model_of_text_loses_nothing(tmp_path: Path) -> None:
    assert left_out(opened(tmp_path, config=False, tensor=None), True, None) == ()
