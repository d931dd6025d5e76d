"""A few rules by example; tests/integration/test_type_rules.py compares all with llama.cpp itself."""

from __future__ import annotations

import pytest

from ggufpack.quantize.rules import ModelTraits, TensorShape, choose_types, file_order, use_more_bits

DENSE = ModelTraits("llama", block_count=8, head_count=8, head_count_kv=8)


def model(*parts: str, layers: int = 8, columns: int = 256, tied: bool = False) -> list[TensorShape]:
    names = ["token_embd.weight", "output_norm.weight", *([] if tied else ["output.weight"])]
    names += [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    dimensions = {name: 1 if name.endswith("_norm.weight") else 2 for name in names}
    return [TensorShape(name, dimensions[name], columns) for name in sorted(names, key=file_order)]


def chosen(
    file_type: str, tensors: list[TensorShape], traits: ModelTraits = DENSE, *, has_imatrix: bool = False
) -> dict[str, str | None]:
    types = choose_types(file_type, tensors, traits, has_imatrix=has_imatrix)
    return {name: None if found is None else found.name for name, found in types.items()}


def test_more_bits_for_the_first_and_last_eighth_and_every_third_between() -> None:
    assert [i for i in range(32) if use_more_bits(i, 32)] == [
        *(0, 1, 2, 3),
        *(6, 9, 12, 15, 18, 21, 24, 27),
        *(28, 29, 30, 31),
    ]


def test_the_file_is_in_order_of_layer_numbers_then_bytes() -> None:
    names = ["blk.10.a", "blk.2.b", "output.weight", "blk.2.B", "a.blk.1", "token_embd.weight"]
    assert sorted(names, key=file_order) == [
        *("a.blk.1", "output.weight", "token_embd.weight"),
        *("blk.2.B", "blk.2.b", "blk.10.a"),
    ]


def test_values_and_downs_alternate_in_q4_k_m() -> None:
    types = chosen("Q4_K_M", model("attn_v", "ffn_down", "attn_q"))
    raised = ["Q6_K" if layer in (0, 3, 6, 7) else "Q4_K" for layer in range(8)]
    for part in ("attn_v", "ffn_down"):
        assert [types[f"blk.{layer}.{part}.weight"] for layer in range(8)] == raised
    assert {types[f"blk.{layer}.attn_q.weight"] for layer in range(8)} == {"Q4_K"}
    assert types["output_norm.weight"] is None, "as the converter stores it"


def test_a_tied_embedding_is_the_output() -> None:
    embedding, output = "token_embd.weight", "output.weight"
    own = chosen("Q4_K_M", model())
    assert (own[embedding], own[output]) == ("Q4_K", "Q6_K")
    tied = chosen("Q4_K_M", model(tied=True))
    assert (tied[embedding], output in tied) == ("Q6_K", False)


def test_falcon_has_rules_of_its_own() -> None:
    falcon = ModelTraits("falcon", block_count=32, head_count=71, head_count_kv=1)
    tensors = model("ffn_down", "attn_output", layers=32)
    types = chosen("Q4_K_M", tensors, falcon)
    assert types["output.weight"] == "Q8_0"
    downs = [types[f"blk.{layer}.ffn_down.weight"] for layer in (0, 1, 2, 3, 4, 5)]
    assert downs == ["Q6_K", "Q6_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K"]
    assert chosen("Q3_K_L", tensors, falcon)["blk.5.attn_output.weight"] == "Q4_K"


def test_eight_experts_keep_keys_and_values_precise() -> None:
    tensors = model("attn_k", "attn_v", "attn_output")
    experts = ModelTraits("llama", block_count=8, expert_count=8, head_count=8, head_count_kv=8)
    four = ModelTraits("llama", block_count=8, expert_count=4, head_count=8, head_count_kv=8)
    part = ("blk.1.attn_k.weight", "blk.1.attn_v.weight", "blk.1.attn_output.weight")
    assert [chosen("Q4_K_M", tensors, experts)[name] for name in part] == ["Q8_0", "Q8_0", "Q5_K"]
    assert [chosen("Q4_K_M", tensors, four)[name] for name in part] == ["Q4_K", "Q4_K", "Q4_K"]


@pytest.mark.parametrize(
    ("file_type", "without", "with_imatrix"),
    [
        ("IQ4_XS", "Q5_K", "IQ4_XS"),
        ("IQ4_NL", "Q5_K", "IQ4_NL"),
        ("Q4_0", "Q4_0", "Q4_1"),
        ("Q5_0", "Q5_0", "Q5_1"),
        ("Q4_K_S", "Q5_K", "Q5_K"),
        ("Q4_1", "Q4_1", "Q4_1"),
        ("F16", "F16", "F16"),
    ],
)
def test_an_imatrix_changes_the_first_eighth_of_the_downs(
    file_type: str, without: str, with_imatrix: str
) -> None:
    tensors = model("ffn_down", "ffn_up", layers=16)
    traits = ModelTraits("llama", block_count=16, head_count=8, head_count_kv=8)
    plain, weighted = (chosen(file_type, tensors, traits, has_imatrix=it) for it in (False, True))
    first = [f"blk.{layer}.ffn_down.weight" for layer in (0, 1)]
    assert [plain[name] for name in first] == [without] * 2
    assert [weighted[name] for name in first] == [with_imatrix] * 2
    assert {name: kind for name, kind in plain.items() if name not in first} == {
        name: kind for name, kind in weighted.items() if name not in first
    }


@pytest.mark.parametrize(
    ("file_type", "columns", "expected"),
    [
        ("Q4_K_S", 256, "Q4_K"),
        ("Q4_K_S", 288, "Q5_0"),
        ("Q5_K_S", 288, "Q5_1"),
        ("Q6_K", 288, "Q8_0"),
        ("Q3_K_S", 288, "Q4_0"),
        ("IQ4_XS", 288, "IQ4_NL"),
        ("Q4_0", 288, "Q4_0"),
        ("Q4_K_S", 272, "F16"),
        ("Q8_0", 272, "F16"),
    ],
)
def test_rows_that_no_block_divides_fall_back(file_type: str, columns: int, expected: str) -> None:
    types = chosen(file_type, model("attn_q", columns=columns))
    assert types["blk.0.attn_q.weight"] == expected
