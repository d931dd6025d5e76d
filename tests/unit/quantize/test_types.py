from __future__ import annotations

import gguf
import pytest

from ggufpack.errors import UsageError
from ggufpack.quantize.types import FILE_TYPES, FLOAT_TYPES, TensorType, parse_file_types

# the two names that llama.cpp's enum spells otherwise
UPSTREAM_NAMES = {"F32": "ALL_F32"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Q4_K_M", ("Q4_K_M",)),
        ("q4_k_m", ("Q4_K_M",)),
        ("q4", ("Q4_K_M",)),
        ("Q5", ("Q5_K_M",)),
        ("q6", ("Q6_K",)),
        ("q8", ("Q8_0",)),
        ("bf16", ("BF16",)),
        (" q8_0 , iq4_xs", ("Q8_0", "IQ4_XS")),
        ("q8_0,F16,q4,Q8,q4_k_m", ("Q8_0", "F16", "Q4_K_M")),
    ],
)
def test_names_in_any_case_in_order_each_once(text: str, names: tuple[str, ...]) -> None:
    assert parse_file_types(text) == names


@pytest.mark.parametrize(
    ("text", "unknown"), [("Q4_K_X", "'Q4_K_X'"), ("", "''"), ("q8_0,", "''"), ("q8_0, nf4", "'nf4'")]
)
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(text: str, unknown: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_file_types(text)
    assert caught.value.problem.startswith(f"-q {text}: {unknown} ")
    assert caught.value.action is not None
    assert all(name in caught.value.action for name in FILE_TYPES)


@pytest.mark.parametrize("text", ["iq2_xs", "Q8_0,Q2_K_S"])
def test_a_type_that_needs_an_imatrix_is_said_to(text: str) -> None:
    with pytest.raises(UsageError, match="needs an importance matrix always, and is not offered"):
        parse_file_types(text)
    with pytest.raises(UsageError, match="is no quantisation type"):
        parse_file_types("IQ9_XS")


@pytest.mark.parametrize("tensor_type", TensorType)
def test_tensor_types_are_ggmls(tensor_type: TensorType) -> None:
    upstream = gguf.GGMLQuantizationType[tensor_type.name]
    assert int(tensor_type) == int(upstream)
    assert tuple(tensor_type.block) == gguf.GGML_QUANT_SIZES[upstream]
    assert tensor_type.size(512) == 512 // tensor_type.block.weights * tensor_type.block.bytes
    assert tensor_type.is_float == (tensor_type in FLOAT_TYPES) == tensor_type.name.endswith(("F16", "F32"))


@pytest.mark.parametrize("name", FILE_TYPES)
def test_file_types_are_llama_cpps(name: str) -> None:
    file_type = FILE_TYPES[name]
    assert file_type.name == name
    upstream = gguf.LlamaFileType[UPSTREAM_NAMES.get(name, f"MOSTLY_{name}")]
    assert file_type.number == int(upstream)
    # a file type is named after its base type, but for the size letter
    assert name in (file_type.base.name, *(f"{file_type.base.name}_{size}" for size in "SML"))
