"""How experts are chosen: what is added to config.json, and what llama.cpp does otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint.experts import check_experts, unwritten_keys

from .test_config import config_of


@pytest.mark.parametrize(
    ("model_type", "keys", "expected"),
    [
        ("qwen3_moe", {"norm_topk_prob": True}, []),
        ("qwen3_moe", {"norm_topk_prob": False}, ["GP119"]),
        ("qwen3_moe", {}, ["GP119"]),
        ("qwen3_next", {}, []),
        ("qwen3_next", {"norm_topk_prob": False}, ["GP119"]),
        ("qwen2_moe", {}, []),
        ("qwen2_moe", {"norm_topk_prob": True}, ["GP119"]),
        ("olmoe", {"norm_topk_prob": True}, ["GP119"]),
        # the file says what it does
        ("deepseek_v2", {"norm_topk_prob": True}, []),
        ("llama", {"norm_topk_prob": False}, []),
    ],
)
def test_the_experts_weights(
    tmp_path: Path, model_type: str, keys: dict[str, Any], expected: list[str]
) -> None:
    config, _ = config_of(tmp_path, model_type=model_type, **keys)
    findings = check_experts(config)
    assert [finding.id for finding in findings] == expected
    assert all(finding.key == "norm_topk_prob" for finding in findings)


def test_what_is_said_of_them(tmp_path: Path) -> None:
    (absent,) = check_experts(config_of(tmp_path, model_type="qwen3_moe")[0])
    assert "is not there, which means false, and llama.cpp always makes" in absent.message
    (wrong,) = check_experts(config_of(tmp_path, model_type="olmoe", norm_topk_prob=True)[0])
    assert "says true, and llama.cpp never makes" in wrong.message


def test_a_key_that_transformers_leaves_out(tmp_path: Path) -> None:
    config, _ = config_of(tmp_path, model_type="deepseek_v3")
    assert unwritten_keys(config) == {"scoring_func": "sigmoid"}
    assert [(finding.id, finding.key) for finding in check_experts(config)] == [("GP118", "scoring_func")]
    written, _ = config_of(tmp_path, model_type="deepseek_v3", scoring_func="softmax")
    assert unwritten_keys(written) == {}
    assert check_experts(written) == []
    assert unwritten_keys(config_of(tmp_path)[0]) == {}
