"""From arguments to items."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggufpack.batch.planning import plan_batch
from ggufpack.errors import ManifestError, UsageError
from ggufpack.spec import BuildSpec
from tests.unit.batch.builders import training, write_checkpoint

DEFAULTS = BuildSpec(Path(), register=False)


def test_a_folder_a_glob_and_a_checkpoint(tmp_path: Path) -> None:
    training(tmp_path / "a", 1, 2)
    training(tmp_path / "b", 3)
    plan = plan_batch([str(tmp_path / "a"), str(tmp_path / "b" / "checkpoint-*")], DEFAULTS)
    assert [one.item.key for one in plan.items] == ["a-1", "a-2", "b-3"]
    assert all(one.item.spec.output and one.item.spec.output.is_absolute() for one in plan.items)


def test_a_manifest_goes_before_options(tmp_path: Path) -> None:
    training(tmp_path / "a", 1)
    (tmp_path / "m.yaml").write_text("defaults: {system: M}\nitems: [{checkpoint: a, output: there}]")
    (one,) = plan_batch(
        [str(tmp_path / "m.yaml")], BuildSpec(Path(), system="O", template="native", output=Path("here"))
    ).items
    spec = one.item.spec
    assert (spec.system, spec.template, spec.output) == ("M", "native", tmp_path / "there")


def test_two_items_with_one_name(tmp_path: Path) -> None:
    training(tmp_path / "a", 1, 2)
    with pytest.raises(UsageError, match=r"checkpoint-2 and .*checkpoint-1 .* same package folder"):
        plan_batch([str(tmp_path / "a")], BuildSpec(Path(), name="x"))
    (tmp_path / "m.yaml").write_text("items:\n- checkpoint: a\n  name: x")
    with pytest.raises(ManifestError, match=r"m\.yaml:2: .*same package folder"):
        plan_batch([str(tmp_path / "m.yaml")], DEFAULTS)


def test_one_ollama_name_in_two_folders(tmp_path: Path) -> None:
    training(tmp_path / "a", 1)
    text = "items:\n- {checkpoint: a, name: x, output: p}\n- {checkpoint: a, name: X, output: q}"
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ManifestError, match="same Ollama name X:q4_k_m"):
        plan_batch([str(tmp_path / "m.yaml")], BuildSpec(Path()))
    assert len(plan_batch([str(tmp_path / "m.yaml")], DEFAULTS).items) == 2


def test_what_is_named_twice_is_one_item(tmp_path: Path) -> None:
    a = str(training(tmp_path / "a", 1))
    assert len(plan_batch([a, f"{a}/checkpoint-1"], DEFAULTS).items) == 1


@pytest.mark.parametrize(("name", "said"), [("no", "does not exist"), ("empty", "there is no checkpoint in")])
def test_nothing_there(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=said):
        plan_batch([str(tmp_path / name)], DEFAULTS)


def test_adapters_need_a_base(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = write_checkpoint(tmp_path / "out" / "checkpoint-3")
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    (adapter / "config.json").unlink()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    plan = plan_batch([str(tmp_path / "out")], DEFAULTS)
    assert not plan.items
    assert "(org/base, which is no folder here): give --base" in plan.left_out[0].reason
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (one,) = plan_batch([str(tmp_path / "out")], DEFAULTS).items
    assert (one.item.spec.base, one.item.spec.checkpoint, one.item.key) == (base, adapter, "out-3")
