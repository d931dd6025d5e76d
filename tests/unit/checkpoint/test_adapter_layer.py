"""What of an adapter a GGUF LoRA can hold: its alpha and factors, and what is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.adapter_layer import AdapterLayer, plan_layer
from ggufpack.errors import AdapterError, UsageError
from ggufpack.spec import AdapterSpec

from .adapters import PREFIX, make_adapter
from .builders import Tensors, make_checkpoint, model_tensors

O_PROJ = "base_model.model.model.layers.0.self_attn.o_proj"
O_FACTORS: Tensors = {f"{O_PROJ}.lora_A.weight": ("F32", (3, 4)), f"{O_PROJ}.lora_B.weight": ("F32", (4, 3))}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "base")


def layer_of(base: Path, *adapters: Path | AdapterSpec) -> AdapterLayer:
    specs = [item if isinstance(item, AdapterSpec) else AdapterSpec(item) for item in adapters]
    with open_model(base, None, specs) as checkpoint:
        layer = plan_layer(checkpoint)
    assert AdapterLayer.from_json(json.loads(json.dumps(layer.to_json()))) == layer
    return layer


def test_one_scaling_is_the_alpha(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    assert layer_of(base, adapter) == AdapterLayer(adapter, 4.0, {}, (), 16)
    assert layer_of(base, AdapterSpec(adapter, -0.5)).alpha == -2.0


def test_rank_stabilised_scaling_is_an_alpha_too(base: Path, tmp_path: Path) -> None:
    layer = layer_of(base, make_adapter(tmp_path / "a", config={"use_rslora": True}))
    assert layer.alpha == pytest.approx(4 * math.sqrt(2))  # llama.cpp divides it by the rank 2
    assert not layer.factors


def test_ranks_of_their_own_need_no_factor(base: Path, tmp_path: Path) -> None:
    layer = layer_of(
        base, make_adapter(tmp_path / "a", config={"rank_pattern": {"o_proj": 3}}, more=O_FACTORS)
    )
    assert (layer.alpha, dict(layer.factors), layer.weights) == (4.0, {}, 32)


def test_other_scalings_go_into_the_factors(base: Path, tmp_path: Path) -> None:
    config = {"rank_pattern": {"o_proj": 3}, "alpha_pattern": {"o_proj": 1}}
    layer = layer_of(base, make_adapter(tmp_path / "a", config=config, more=O_FACTORS))
    assert layer.alpha == 4.0
    assert layer.factors == {f"{O_PROJ}.lora_B.weight": 0.25}


@pytest.mark.parametrize(
    ("config", "more", "key", "why"),
    [
        (
            {"use_dora": True},
            {f"{PREFIX}.lora_magnitude_vector": ("F32", (4,))},
            "use_dora",
            "asks for DoRA",
        ),
        (
            {"modules_to_save": ["lm_head"]},
            {"base_model.model.lm_head.weight": ("F32", (8, 4))},
            "base_model.model.lm_head.weight",
            "trained whole (modules_to_save)",
        ),
        (
            {},
            {
                f"base_model.model.{name}.weight": ("F32", (9, 4))
                for name in ("model.embed_tokens", "lm_head")
            },
            "base_model.model.model.embed_tokens.weight",
            "embeddings that were resized",
        ),
        (
            {"target_modules": ["embed_tokens"]},
            {
                "base_model.model.model.embed_tokens.lora_embedding_A": ("F32", (2, 8)),
                "base_model.model.model.embed_tokens.lora_embedding_B": ("F32", (4, 2)),
            },
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "factors of an embedding",
        ),
        (
            {"trainable_token_indices": [1]},
            {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": ("F32", (1, 4))},
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            "trained rows of an embedding",
        ),
        ({"lora_alpha": 0}, {}, "lora_alpha", "a scaling of 0"),
        ({"fan_in_fan_out": True}, {}, f"{PREFIX}.lora_A.weight", "belongs to a Conv1D"),
    ],
)
def test_what_is_no_product_is_refused(
    config: dict[str, Any], more: Tensors, key: str, why: str, base: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", config=config, more=more)
    error = refused(base, adapter)
    assert error.key == key
    assert why in error.problem
    assert error.action == f"Merge it instead: ggufpack build {base} --adapter {adapter}"


@pytest.mark.parametrize("config", [{"bias": "all"}, {"bias": "lora_only"}])
def test_a_trained_bias_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    base = make_checkpoint(tmp_path / "base", tensors={**model_tensors(), bias: ("BF16", (4,))})
    adapter = make_adapter(tmp_path / "a", config=config, more={f"base_model.model.{bias}": ("F32", (4,))})
    assert "a trained bias" in refused(base, adapter).problem


def test_a_bias_of_a_factor_is_refused(tmp_path: Path) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    base = make_checkpoint(tmp_path / "base", tensors={**model_tensors(), bias: ("F32", (4,))})
    more: Tensors = {f"{PREFIX}.lora_B.bias": ("F32", (4,))}
    error = refused(base, make_adapter(tmp_path / "a", config={"lora_bias": True}, more=more))
    assert "lora_bias" in error.problem


def test_a_head_that_was_saved_as_it_was_is_left_out(base: Path, tmp_path: Path) -> None:
    """PEFT saves the embeddings beside factors of one of them; both files hold zeros."""
    name = "base_model.model.lm_head.base_layer.weight"
    layer = layer_of(base, make_adapter(tmp_path / "a", more={name: ("BF16", (8, 4))}))
    assert layer.untrained == (name,)


def test_a_second_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    one, two = make_adapter(tmp_path / "1"), make_adapter(tmp_path / "2")
    error = refused(base, one, two)
    assert error.path == two
    assert error.action == f"Merge it instead: ggufpack build {base} --adapter {one} --adapter {two}"


def test_a_full_model_is_refused(base: Path) -> None:
    with pytest.raises(UsageError, match="is no adapter"):
        layer_of(base)


def refused(base: Path, *adapters: Path) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        layer_of(base, *adapters)
    return caught.value
