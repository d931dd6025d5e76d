"""What an adapter's folder says, and what of it is refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint.adapter import Role, open_adapter
from ggufpack.checkpoint.adapter_config import read_adapter_config
from ggufpack.errors import AdapterError, CheckpointFileError, TensorFileError

from .adapters import FACTORS, PREFIX, make_adapter
from .builders import write_json


def refused(folder: Path, **parts: Any) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        open_adapter(make_adapter(folder, **parts))
    assert caught.value.exit_code == 3
    assert caught.value.action
    assert str(folder) in caught.value.problem
    return caught.value


def test_factors_belong_to_their_module(tmp_path: Path) -> None:
    adapter = open_adapter(make_adapter(tmp_path))
    parts = adapter.modules["model.layers.0.self_attn.q_proj"]
    assert {role: tensor.shape for role, tensor in parts.items()} == {
        Role.FACTOR_A: (2, 4),
        Role.FACTOR_B: (4, 2),
    }
    assert not adapter.whole


def test_whole_parameters_lose_pefts_wrappers(tmp_path: Path) -> None:
    more = {
        "base_model.model.lm_head.weight": ("BF16", (8, 4)),
        "base_model.model.lm_head.original_module.weight": ("BF16", (8, 4)),
        f"{PREFIX}.base_layer.bias": ("BF16", (4,)),
        "base_model.model.model.embed_tokens.token_adapter.base_layer.weight": ("BF16", (8, 4)),
    }
    adapter = open_adapter(make_adapter(tmp_path, more=more))
    assert set(adapter.whole) == {
        "lm_head.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.embed_tokens.weight",
    }
    assert adapter.whole["lm_head.weight"].name == "base_model.model.lm_head.weight"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 8, "lora_alpha": 16}, 2.0),
        ({"r": 16, "lora_alpha": 16, "use_rslora": True}, 4.0),
        ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"q_proj": 4}}, 0.5),
        ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"proj": 4}}, 2.0),  # a part of a name is none
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {r"layers\.\d\.self_attn\..*": 2}}, 8.0),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"^model.layers.0.self_attn.q_proj": 4}}, 4.0),
        ({"rank_pattern": {"q_proj": 2, ".*": 4}, "lora_alpha": 8}, 4.0),  # the first that matches
    ],
)
def test_scaling(tmp_path: Path, config: dict[str, Any], expected: float) -> None:
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", **config})
    read = read_adapter_config(tmp_path)
    assert math.isclose(read.scaling("model.layers.0.self_attn.q_proj"), expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("peft_type", kind) for kind in ("IA3", "LOHA", "OFT", "VERA", "ADALORA", "P_TUNING", None)),
        *(("init_lora_weights", name) for name in ("pissa", "pissa_niter_16", "olora", "corda", "loftq")),
        *(("init_lora_weights", name) for name in ("lora_ga", "mica", "something new")),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 1}),
        ("kasa_config", {"beta": 1.0}),
        ("monteclora_config", {"num_samples": 2}),
        ("a_key_of_tomorrow", True),
        ("r", 0),
        ("r", "8"),
        ("lora_alpha", "16"),
        ("lora_alpha", float("nan")),
        ("use_dora", "yes"),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": -1}),
        ("alpha_pattern", {"(": 4}),
        ("modules_to_save", "lm_head"),
        ("base_model_name_or_path", 3),
        ("trainable_token_indices", [1, -2]),
        ("trainable_token_indices", [1, 1]),
        ("trainable_token_indices", {"embed_tokens": 5}),
    ],
)
def test_a_key_that_cannot_be_followed_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    error = refused(tmp_path, config={key: value})
    assert error.key == key
    assert key in error.problem
    assert error.path == tmp_path / "adapter_config.json"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("init_lora_weights", value) for value in (True, False, "gaussian", "eva", "orthogonal", None)),
        ("a_key_of_tomorrow", None),
        ("target_parameters", []),
        ("velora_config", {"num_groups": 1}),
    ],
)
def test_a_key_without_effect_is_none(tmp_path: Path, key: str, value: object) -> None:
    assert open_adapter(make_adapter(tmp_path, config={key: value})).modules


@pytest.mark.parametrize("left_out", FACTORS)
def test_a_factor_without_its_partner(tmp_path: Path, left_out: str) -> None:
    tensors = {name: kind for name, kind in FACTORS.items() if name != left_out}
    error = refused(tmp_path, tensors=tensors)
    assert error.key == next(iter(tensors))
    assert left_out.split(".")[-2] in error.problem


@pytest.mark.parametrize(
    ("config", "more", "said"),
    [
        ({"use_dora": True}, {}, "has no lora_magnitude_vector"),
        ({}, {f"{PREFIX}.lora_magnitude_vector": ("F32", (4,))}, "use_dora is not true"),
        (
            {"use_dora": True},
            {f"{PREFIX.replace('q_proj', 'k_proj')}.lora_magnitude_vector": ("F32", (4,))},
            "no",
        ),
        ({}, {f"{PREFIX.replace('q_proj', 'k_proj')}.lora_B.bias": ("F32", (4,))}, "no lora_B"),
        ({}, {f"{PREFIX}.lora_A.default.weight": ("F32", (2, 4))}, "none of the tensors that PEFT saves"),
        ({}, {f"{PREFIX}.lora_diag": ("F32", (2,))}, "none of the tensors that PEFT saves"),
        ({}, {f"{PREFIX}.bias": ("I8", (4,))}, "stored as I8"),
    ],
)
def test_tensors_that_do_not_belong_together(
    tmp_path: Path, config: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    assert said in refused(tmp_path, config=config, more=more).problem


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin only, a pickle"):
        open_adapter(tmp_path)


def test_weights_are_missing(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"has no adapter_model\.safetensors"):
        open_adapter(tmp_path)


def test_no_tensor_at_all(tmp_path: Path) -> None:
    assert "holds no tensor" in refused(tmp_path, tensors={}).problem


def test_damaged_files_are_the_usual_errors(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(TensorFileError, match="cut off"):
        open_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointFileError, match="not valid JSON"):
        open_adapter(tmp_path)
