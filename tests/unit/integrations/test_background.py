"""Options and names that are refused before a training begins; where an adapter's base is looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufpack.errors import CheckpointLayoutError, GgufpackError, InvalidModelNameError, UsageError
from ggufpack.integrations.background import BackgroundPackager, checked_pattern
from ggufpack.integrations.bases import base_folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantisation": "Q8_0"}, "'quantisation' is no option here"),
        ({"name": "x"}, "'name' is no option here"),
        ({"worker": None}, "'worker' is no option here"),
        ({"quantization": "Q9_9"}, "Q9_9"),
        ({"quantization": ["Q8_0", "nonsense"]}, "nonsense"),
    ],
)
def test_options_are_checked_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BackgroundPackager(options)


@pytest.mark.parametrize("pattern", ["model", "{run}", "{epoch}-{step}", "{step", "{}"])
def test_patterns_that_would_give_two_saves_one_name(pattern: str) -> None:
    with pytest.raises(UsageError, match="no pattern"):
        checked_pattern(pattern)


def test_patterns() -> None:
    assert checked_pattern("team/{run}-{step}") == "team/{run}-{step}"
    with pytest.raises(InvalidModelNameError):
        checked_pattern("a b-{step}")


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def test_the_base_of_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    relative = adapter(tmp_path / "a", "models/base")
    assert base_folder(relative, None, tmp_path) == tmp_path / "models" / "base"
    assert base_folder(relative, Path("other"), tmp_path) == tmp_path / "other"


def test_a_base_in_the_cache_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "hub" / "models--team--base"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert base_folder(adapter(tmp_path / "a", "team/base"), None, tmp_path) == snapshot


@pytest.mark.parametrize("base", ["team/never-heard-of", "/no/such/folder", ""])
def test_a_base_that_is_not_here(tmp_path: Path, base: str) -> None:
    with pytest.raises(CheckpointLayoutError, match="is no folder here") as caught:
        base_folder(adapter(tmp_path / "a", base), None, tmp_path)
    assert isinstance(caught.value, GgufpackError)
    assert caught.value.action == "Give the callback base=FOLDER."
