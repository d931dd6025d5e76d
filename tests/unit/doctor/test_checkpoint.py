"""A checkpoint folder: a broken part does not hide the others."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufpack.doctor import Examination, examine
from tests.unit.checkpoint.builders import GENERATION, make_checkpoint, shard, write_json
from tests.unit.doctor.files import CHATML


def ids(found: Examination) -> set[str]:
    return {each.id for each in found.findings}


def skipped(found: Examination) -> set[str]:
    return {one.check for one in found.not_checked}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder = make_checkpoint(tmp_path / "good")
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def test_a_good_one(good: Path) -> None:
    found = examine(good)
    assert (found.kind, found.status, found.exit_code) == ("checkpoint", "fine", 0)
    assert skipped(found) == {"weights", "converter"}
    assert found.facts["stops"][0] == "<|im_end|>"
    assert len(found.checked) == 11


def test_it_says_what_open_checkpoint_says(good: Path) -> None:
    from ggufpack.checkpoint import open_checkpoint

    write_json(good / "generation_config.json", {"temperature": -1, "eos_token_id": 5000})
    (good / "adapter_config.json").write_text("{}")
    opened = {(each.id, each.message) for each in open_checkpoint(good).findings}
    assert {name for name, _ in opened} >= {"GP102", "GP112", "GP308"}
    assert opened <= {(each.id, each.message) for each in examine(good).findings}


def test_broken_weights_do_not_hide_the_template(good: Path) -> None:
    weights = good / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (good / "chat_template.jinja").write_text("{% if %}")
    found = examine(good)
    assert ids(found) >= {"GP260", "GP420"}
    assert {"layers", "cross-checks", "Modelfile"} <= skipped(found)
    assert found.exit_code == 3
    assert examine(good).findings[0].id == "GP260"


def test_every_broken_shard_is_told(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m")
    names = shard(folder, 3)
    for name in names[1:]:
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    found = examine(folder)
    assert [each.path for each in found.findings if each.id == "GP260"] == [
        folder / name for name in names[1:]
    ]


def test_a_broken_config_does_not_hide_the_tokenizer(good: Path) -> None:
    (good / "config.json").write_text("{bad")
    (good / "tokenizer.json").write_text("[]")
    found = examine(good)
    assert sorted(each.id for each in found.findings if each.severity.value == "error") == ["GP151", "GP151"]
    assert {"chat template", "layers"} <= skipped(found)
    assert "config.json and the tokenizer" in next(
        one.why for one in found.not_checked if one.check == "chat template"
    )


def test_a_broken_template_alone_is_the_prompt_stage(good: Path) -> None:
    (good / "chat_template.jinja").write_text("{% if %}")
    assert examine(good).exit_code == 5


def _several(path: Path) -> None:
    for number in (100, 200):
        make_checkpoint(path / f"checkpoint-{number}")


def _pickle(path: Path) -> None:
    make_checkpoint(path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _adapter(path: Path) -> None:
    path.mkdir()
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "base/model"}')


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is empty"),
        (_several, "checkpoint-100, checkpoint-200"),
        (_pickle, "pickle files only"),
        (_adapter, "only an adapter of base/model"),
    ],
)
def test_not_one_checkpoint(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path / "m")
    found = examine(tmp_path / "m")
    first = found.findings[0]
    assert first.id == "GP150"
    assert words in first.message
    assert first.action
    assert found.exit_code == 3
    assert {"tensors", "weights"} <= skipped(found)


def test_the_tokenizer_of_an_adapter_folder_is_looked_at(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", generation=None)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text("{}")
    found = examine(folder)
    assert "tokenizer" in found.checked
    assert "generation configuration" in skipped(found)  # nothing to read it from
    assert ids(found) == {"GP150"}


def _with_value(folder: Path, value: float) -> None:
    """One F32 tensor beside zeros."""
    data = np.array([value, 0], np.float32).tobytes()
    header = json.dumps(
        {"model.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(float("nan"), "GP269"), (float("-inf"), "GP269"), (-70000.0, "GP261"), (65504.0, "")],
)
def test_deep_reads_the_weights(value: float, expected: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", generation=GENERATION)
    _with_value(folder, value)
    assert not ids(examine(folder)) & {"GP269", "GP261"}
    found = examine(folder, deep=True)
    assert ids(found) & {"GP269", "GP261"} == ({expected} if expected else set())
    assert "weights" in found.checked


def test_one_file_of_a_checkpoint(good: Path) -> None:
    found = examine(good / "config.json")
    assert [each.id for each in found.findings] == ["GP154"]
    assert found.exit_code == 3
