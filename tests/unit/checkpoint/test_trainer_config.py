"""LLaMA-Factory's YAML beside its output: a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.checkpoint import open_checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.trainer_config import read_trainer_config
from ggufpack.errors import CheckpointFileError

from .adapters import make_adapter
from .builders import make_checkpoint


def test_the_yaml_above_a_checkpoint_counts(tmp_path: Path) -> None:
    (tmp_path / "training_args.yaml").write_text("template: llama3\nmodel_name_or_path: org/m\n")
    found = read_trainer_config(tmp_path / "checkpoint-10")
    assert found is not None
    assert (found.template, found.model) == ("llama3", "org/m")
    assert read_trainer_config(tmp_path / "other") is None


def test_it_names_the_template_of_a_tokenizer_without_one(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run")
    (folder / "llamafactory_config.yaml").write_text("template: qwen\n")
    (finding,) = [item for item in open_checkpoint(folder).findings if item.id == "GP127"]
    assert "'qwen'" in finding.message
    (folder / "chat_template.jinja").write_text("its own", encoding="utf-8")
    assert "GP127" not in [item.id for item in open_checkpoint(folder).findings]


def test_it_names_an_adapters_base(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    run = tmp_path / "run"
    adapter = make_adapter(run / "checkpoint-5", config={"base_model_name_or_path": "org/base"})
    (run / "training_args.yaml").write_text(f"model_name_or_path: {base}\ntemplate: qwen\n")
    with open_model(adapter) as checkpoint:
        found = {item.id: item for item in checkpoint.findings}
    assert checkpoint.origin == base
    assert found["GP126"].path == run / "training_args.yaml"
    assert found["GP127"].path == run / "training_args.yaml"


@pytest.mark.parametrize("text", ["a: [", "- a list", "!!python/object:os.system {}"])
def test_a_broken_yaml_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "training_args.yaml").write_text(text)
    with pytest.raises(CheckpointFileError, match=r"training_args\.yaml"):
        read_trainer_config(tmp_path)
