"""Missing layers, and models whose layers differ on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint.layers import check_layers, group_by_layer
from ggufpack.errors import TensorFileError

FOLDER = Path("checkpoint")


def names(
    count: int, prefix: str = "model.layers", tensors: tuple[str, ...] = ("attn.q", "mlp.up", "norm")
) -> list[str]:
    return [f"{prefix}.{layer}.{tensor}.weight" for layer in range(count) for tensor in tensors]


def ids(tensors: list[str], **config: Any) -> list[str]:
    return [finding.id for finding in check_layers(tensors, {"num_hidden_layers": 4, **config}, FOLDER)]


@pytest.mark.parametrize(
    "prefix",
    ["model.layers", "transformer.h", "h", "gpt_neox.layers", "transformer.blocks", "bert.encoder.layer",
     "model.language_model.layers"],
)  # fmt: skip
def test_complete_models_have_no_finding(prefix: str) -> None:
    assert ids([*names(4, prefix), "lm_head.weight"]) == []


def test_a_layer_without_any_tensor_is_an_error_that_names_it() -> None:
    tensors = [name for name in names(4) if ".2." not in name]
    with pytest.raises(TensorFileError, match=r"1 of 4 layers have no tensor: model\.layers\.2\."):
        ids(tensors)


def test_missing_last_layers_are_an_error() -> None:
    with pytest.raises(TensorFileError, match=r"model\.layers\.2, model\.layers\.3"):
        ids(names(2))


def test_one_missing_tensor_of_a_dense_model_is_an_error_that_names_it() -> None:
    tensors = names(4)
    tensors.remove("model.layers.3.mlp.up.weight")
    with pytest.raises(TensorFileError, match="lack tensors") as caught:
        ids(tensors)
    assert caught.value.key == "model.layers.3.mlp.up.weight"


def test_a_first_layer_that_lacks_something_may_be_a_design() -> None:
    tensors = names(4)
    tensors.remove("model.layers.0.mlp.up.weight")
    assert ids(tensors) == ["GP209"]


def test_modernbert_has_no_norm_in_its_first_layer() -> None:
    tensors = names(4, "layers", ("attn.Wqkv", "attn_norm", "mlp.Wi"))
    tensors.remove("layers.0.attn_norm.weight")
    assert ids(tensors) == []


def test_the_number_of_layers_may_be_the_length_of_a_list() -> None:
    assert ids(names(4), num_hidden_layers=None, layers_block_type=["attention"] * 4) == []
    with pytest.raises(TensorFileError, match=r"model\.layers\.4"):
        ids(names(4), num_hidden_layers=None, hybrid_override_pattern="M*M*M")


def test_two_incomplete_layers_are_a_warning() -> None:
    tensors = [
        name for name in names(8) if name not in ("model.layers.3.norm.weight", "model.layers.5.norm.weight")
    ]
    assert ids(tensors, num_hidden_layers=8) == ["GP209"]


def test_a_dense_first_layer_of_experts_is_fine() -> None:
    experts = [
        f"model.layers.{layer}.mlp.experts.{expert}.up.weight" for layer in range(1, 4) for expert in range(4)
    ]
    assert ids([*names(4, tensors=("attn.q", "norm")), *experts, "model.layers.0.mlp.up.weight"]) == []


def test_a_missing_expert_is_an_error() -> None:
    experts = [
        f"model.layers.{layer}.mlp.experts.{expert}.up.weight" for layer in range(4) for expert in range(4)
    ]
    experts.remove("model.layers.2.mlp.experts.3.up.weight")
    with pytest.raises(TensorFileError, match=r"model\.layers\.2\.mlp\.experts\.3\.up\.weight"):
        ids([*names(4, tensors=("attn.q", "norm")), *experts])


def test_a_hybrid_of_convolution_and_attention_is_fine() -> None:
    mixers = {0: "conv.in", 1: "attn.q", 2: "conv.in", 3: "conv.in"}
    tensors = [f"model.layers.{layer}.{mixer}.weight" for layer, mixer in mixers.items()]
    assert ids([*names(4, tensors=("norm",)), *tensors]) == []


def test_sliding_attention_does_not_excuse_a_missing_tensor() -> None:
    tensors = names(4)
    tensors.remove("model.layers.1.norm.weight")
    with pytest.raises(TensorFileError):
        ids(tensors, layer_types=["sliding_attention", "full_attention"] * 2)
    assert ids(tensors, layer_types=["linear_attention", "full_attention"] * 2) == ["GP209"]


def test_pruned_models_may_have_empty_layers() -> None:
    tensors = [name for name in names(6) if ".2." not in name]
    assert ids(tensors, num_hidden_layers=6, block_configs=[{}]) == ["GP209"]


def test_prediction_layers_after_the_last_one_are_fine_when_configured() -> None:
    tensors = [*names(4), "model.layers.4.eh_proj.weight", "model.layers.4.attn.q.weight"]
    assert ids(tensors, num_nextn_predict_layers=1) == []
    assert ids(tensors) == ["GP210"]


def test_towers_have_their_own_number_of_layers() -> None:
    assert ids([*names(4), *names(9, "vision_tower.encoder.layers")]) == []
    projector = ["connector.layers.0.weight", "connector.layers.2.weight"]
    assert ids([*names(4), *projector]) == []


def test_an_encoder_decoder_has_two_stacks() -> None:
    tensors = [*names(4, "encoder.block"), *names(6, "decoder.block")]
    assert ids(tensors, is_encoder_decoder=True) == []
    with pytest.raises(TensorFileError, match=r"decoder\.block\.2"):
        ids([name for name in tensors if not name.startswith("decoder.block.2.")], is_encoder_decoder=True)


@pytest.mark.parametrize(
    ("tensors", "count"), [(["wte.weight"], 4), (names(4), None), (names(4), "4"), (names(4), True)]
)
def test_what_cannot_be_checked_says_so(tensors: list[str], count: object) -> None:
    assert ids(tensors, num_hidden_layers=count) == ["GP211"]


def test_only_the_first_number_is_the_layer() -> None:
    groups = group_by_layer(["encoder.block.3.layer.1.q.weight"])
    assert groups == {"encoder.block": {3: {"layer.1.q.weight"}}}


def test_a_hostile_number_of_layers_is_answered_at_once() -> None:
    with pytest.raises(TensorFileError):
        ids(names(4), num_hidden_layers=10**18)
