"""The kernels against gguf-py's own numpy implementation, and the choice between them."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ggufpack.errors import ConversionError
from ggufpack.quantize import kernels
from ggufpack.quantize.kernels import Encoded, Weights, available_kernels, load_kernels
from ggufpack.quantize.types import TensorType

COLUMNS = 256
BOTH_IMPLEMENT = (
    *(TensorType.F32, TensorType.F16, TensorType.BF16),
    *(TensorType.Q8_0, TensorType.Q4_0, TensorType.Q4_1, TensorType.Q5_0, TensorType.Q5_1),
)
# largest error against the row's largest weight, of standard normal weights; a quarter of it would be
# too good to be true
ERROR_BOUNDS = {
    TensorType.Q2_K: 0.40,
    TensorType.Q3_K: 0.18,
    TensorType.Q4_K: 0.09,
    TensorType.Q5_K: 0.04,
    TensorType.Q6_K: 0.02,
    TensorType.IQ4_NL: 0.09,
    TensorType.IQ4_XS: 0.09,
}
# a scale is the largest weight over at least 7: below 2**-123 its reciprocal is infinite
SMALLEST_MAXIMUM = 2.0**-120

ordinary = st.floats(-4, 4, width=32)
# the middle between two steps of a block whose largest weight is 127, 8 or 16
ties = st.sampled_from([0.5, -0.5, 1.5, -1.5, 2.5, 126.5, 127.0, -127.0, 8.0, -8.0, 16.0, -16.0, -0.0, 0.0])
# F16: just below, between and above its largest and smallest numbers
edges = st.sampled_from(
    [65504.0, 65519.0, 2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 1 + 2.0**-11, 1 + 2.0**-8]
)
denormals = st.floats(-(2.0**-126), 2.0**-126, width=32)
huge = st.floats(2.0**100, 2.0**127, width=32)
rows = st.one_of(
    *(arrays(np.float32, (2, COLUMNS), elements=values) for values in (ordinary, ties)),
    *(arrays(np.float32, (2, COLUMNS), elements=st.one_of(ordinary, other)) for other in (edges, denormals)),
)


def encode(weights: Weights, tensor_type: TensorType) -> Encoded:
    out = np.full(weights.size * 4 + 8, 0xA5, dtype=np.uint8)
    size = tensor_type.size(weights.size)
    load_kernels().encode(weights, TensorType.F32, weights.shape[-1], [(tensor_type, out)])
    assert (out[size:] == 0xA5).all(), "wrote past the end"
    return out[:size]


def by_gguf_py(weights: Weights, tensor_type: TensorType) -> Encoded:
    with np.errstate(all="ignore"):  # F16 overflow is part of the comparison
        encoded = quantize(weights, GGMLQuantizationType[tensor_type.name])
    return np.ascontiguousarray(encoded).view(np.uint8).reshape(-1)


def decode(encoded: Encoded, tensor_type: TensorType, row_count: int) -> npt.NDArray[np.float32]:
    decoded: npt.NDArray[np.float32] = dequantize(
        encoded.reshape(row_count, -1), GGMLQuantizationType[tensor_type.name]
    )
    return decoded


@pytest.mark.parametrize("tensor_type", BOTH_IMPLEMENT)
@settings(max_examples=60, deadline=None)
@given(weights=rows)
def test_encodes_as_gguf_py_does(tensor_type: TensorType, weights: Weights) -> None:
    blocks = weights.reshape(-1, 32)
    tiny = np.abs(blocks).max(axis=1) < SMALLEST_MAXIMUM
    blocks[tiny] = 0  # there both compute with infinities, each in its own way
    if tensor_type in (TensorType.Q4_1, TensorType.Q5_1):
        weights += np.float32(0)  # of 0.0 and -0.0 each takes another one as the smallest
    assert np.array_equal(encode(weights, tensor_type), by_gguf_py(weights, tensor_type))


@pytest.mark.parametrize("tensor_type", [TensorType.F32, TensorType.BF16, TensorType.F16])
@settings(max_examples=60, deadline=None)
@given(weights=arrays(np.float32, (2, 32), elements=st.one_of(huge, denormals, ordinary)))
def test_floats_equal_gguf_py_over_the_whole_range(tensor_type: TensorType, weights: Weights) -> None:
    assert np.array_equal(encode(weights, tensor_type), by_gguf_py(weights, tensor_type))


@pytest.mark.parametrize("tensor_type", TensorType)
def test_zeros_stay_zeros(tensor_type: TensorType) -> None:
    encoded = encode(np.zeros((2, COLUMNS), dtype=np.float32), tensor_type)
    assert not decode(encoded, tensor_type, 2).any()


@pytest.mark.parametrize("tensor_type", ERROR_BOUNDS)
@pytest.mark.parametrize("scale", [0.02, 1.0, 1e4])
def test_the_rounding_error_is_the_types_own(tensor_type: TensorType, scale: float) -> None:
    weights = (np.random.default_rng(7).standard_normal((8, COLUMNS)) * scale).astype(np.float32)
    decoded = decode(encode(weights, tensor_type), tensor_type, 8)
    error = np.abs(decoded - weights).max(axis=1) / np.abs(weights).max(axis=1)
    bound = ERROR_BOUNDS[tensor_type]
    assert bound / 4 < error.max() < bound


@pytest.mark.parametrize("tensor_type", [kind for kind in TensorType if not kind.is_float])
def test_a_row_is_encoded_alone(tensor_type: TensorType) -> None:
    """Chunks of rows may be cut anywhere."""
    weights = np.random.default_rng(8).standard_normal((3, COLUMNS)).astype(np.float32)
    apart = [encode(np.ascontiguousarray(row[None]), tensor_type) for row in weights]
    assert np.array_equal(encode(weights, tensor_type), np.concatenate(apart))


@pytest.mark.parametrize(
    "tensor_type", [TensorType.Q8_0, TensorType.Q4_0, TensorType.Q5_1, TensorType.Q4_K, TensorType.IQ4_NL]
)
def test_an_infinite_scale_is_not_valid(tensor_type: TensorType) -> None:
    weights = np.ones((1, COLUMNS), dtype=np.float32)
    assert load_kernels().is_valid(encode(weights, tensor_type), tensor_type)
    weights[0, 5] = 1e9
    assert not load_kernels().is_valid(encode(weights, tensor_type), tensor_type)


def test_one_object_for_all() -> None:
    assert load_kernels() is load_kernels() is load_kernels(available_kernels()[0])


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPACK_KERNELS", "reference")
    assert load_kernels().name == "reference"
    monkeypatch.setenv("GGUFPACK_KERNELS", "abacus")
    with pytest.raises(ConversionError, match="'abacus'") as caught:
        load_kernels()
    assert "reference" in str(caught.value.action)
    assert "GGUFPACK_KERNELS" in str(caught.value.action)
    assert load_kernels("reference").name == "reference"


@pytest.mark.parametrize("installed", [False, True], ids=["no-package", "no-library-in-it"])
def test_missing_kernels_say_what_to_install(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> ModuleSpec | None:
        spec = ModuleSpec(name, None, is_package=True)
        assert spec.submodule_search_locations is not None
        spec.submodule_search_locations.append(str(tmp_path))
        return spec if installed else None

    monkeypatch.setattr(kernels, "find_spec", find)
    monkeypatch.setattr(kernels, "_reference", kernels._reference.__wrapped__)
    monkeypatch.setattr(kernels, "_load", kernels._load.__wrapped__)
    with pytest.raises(ConversionError, match="libggml") as caught:
        load_kernels()
    assert caught.value.action == "Run `pip install libggml-python`."
    assert caught.value.exit_code == 4
