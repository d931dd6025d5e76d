"""sentence-transformers' files: what a GGUF can hold of them, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint.sentence import pipeline_findings, read_pipeline
from ggufpack.errors import CheckpointFileError
from ggufpack.spec import Severity

OLD = "sentence_transformers.models."


def module(kind: str, place: str = "", prefix: str = OLD) -> dict[str, Any]:
    return {"idx": 0, "name": "0", "path": place, "type": f"{prefix}{kind}"}


MEAN = [module("Transformer"), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")]


def make(
    folder: Path,
    modules: Any = MEAN,
    *,
    pooling: dict[str, Any] | None = None,
    transformer: dict[str, Any] | None = None,
    prompts: dict[str, Any] | None = None,
) -> Path:
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(pooling or {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    for name, content in (
        ("sentence_bert_config.json", transformer),
        ("config_sentence_transformers.json", prompts),
    ):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def ids(folder: Path) -> list[str]:
    pipeline = read_pipeline(folder)
    assert pipeline is not None
    return [finding.id for finding in pipeline_findings(pipeline)]


def test_an_ordinary_pipeline(tmp_path: Path) -> None:
    pipeline = read_pipeline(make(tmp_path, transformer={"max_seq_length": 256}))
    assert pipeline is not None
    assert [one.type for one in pipeline.modules] == ["Transformer", "Pooling", "Normalize"]
    assert (pipeline.poolings, pipeline.max_length) == (("mean_tokens",), 256)
    assert pipeline.is_whole
    assert pipeline.normalizes
    assert pipeline_findings(pipeline) == []


def test_newer_names_are_the_same_modules(tmp_path: Path) -> None:
    names = {
        "Transformer": "base.modules.transformer.",
        "Pooling": "sentence_transformer.modules.pooling.",
        "Normalize": "base.modules.normalize.",
    }
    modules = [module(name, prefix=f"sentence_transformers.{where}") for name, where in names.items()]
    pipeline = read_pipeline(make(tmp_path, modules))
    assert pipeline is not None
    assert pipeline.is_whole
    assert pipeline.lost == ()


def test_no_pipeline(tmp_path: Path) -> None:
    assert read_pipeline(tmp_path) is None


@pytest.mark.parametrize(
    ("extra", "lost"),
    [
        (module("Dense", "2_Dense"), "the module Dense"),
        (module("Pooling", prefix="my_package."), "the module my_package.Pooling"),
        (module("system", prefix="os."), "the module os.system"),
    ],
)
def test_what_a_gguf_cannot_hold_is_an_error(extra: dict[str, Any], lost: str, tmp_path: Path) -> None:
    pipeline = read_pipeline(make(tmp_path, [*MEAN, extra]))
    assert pipeline is not None
    assert pipeline.lost == (lost,)
    (finding,) = pipeline_findings(pipeline)
    assert (finding.id, finding.severity) == ("GP140", Severity.ERROR)
    assert lost in finding.message


@pytest.mark.parametrize(("modality", "lost"), [("message", True), ("text", False)])
def test_texts_that_become_messages(modality: str, lost: bool, tmp_path: Path) -> None:
    """As sentence-transformers 6 saves a model that it made from a chat model."""
    config = {"text": {"method": "forward"}, modality: {"method": "forward"}}
    make(tmp_path, transformer={"modality_config": config})
    pipeline = read_pipeline(tmp_path)
    assert pipeline is not None
    assert (ids(tmp_path) == ["GP140"]) is lost
    assert any("chat template" in one for one in pipeline.lost) is lost


def test_two_poolings_are_more_than_one(tmp_path: Path) -> None:
    """The converter takes the mean and drops the other without a word."""
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    assert ids(make(tmp_path, pooling=both)) == ["GP140"]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"prompts": {"query": "query: ", "document": ""}}, ["GP142"]),
        ({"prompts": {"query": "query: "}, "default_prompt_name": "query"}, ["GP141"]),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": "query"}, []),
        ({"prompts": ["query"], "default_prompt_name": 3}, []),
    ],
)
def test_prompts_are_told(prompts: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    assert ids(make(tmp_path, prompts=prompts)) == expected


def test_vectors_of_any_length_are_told(tmp_path: Path) -> None:
    assert ids(make(tmp_path, MEAN[:2])) == ["GP143"]


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ({"0": "Transformer"}, "array"),
        ([{"path": ""}], "type"),
        (["Transformer"], "type"),
        ([module("Pooling", "../1_Pooling")], "leaves the folder"),
        ([module("Pooling", "/etc")], "leaves the folder"),
    ],
)
def test_damaged_files_are_refused(modules: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=problem):
        read_pipeline(make(tmp_path, modules))


def test_text_that_is_no_json(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(CheckpointFileError, match=r"modules\.json is not valid JSON"):
        read_pipeline(tmp_path)
