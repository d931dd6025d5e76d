"""The C kernels give ggml's own bytes: every type, every variant this machine can run."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ggufpack.quantize.kernels import Encoded, Kernels, Weights, available_kernels, load_kernels
from ggufpack.quantize.types import TensorType

Random = np.random.Generator

SUPERBLOCK = 256
NAMES = available_kernels()
VARIANTS = tuple(name for name in NAMES if name != "reference")
FLOATS = (TensorType.F32, TensorType.F16, TensorType.BF16)
QUANTISED = tuple(kind for kind in TensorType if not kind.is_float)
F32_LARGEST = np.finfo(np.float32).max

every_type = pytest.mark.parametrize("tensor_type", TensorType, ids=lambda kind: kind.name)
every_kernel = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def ggml() -> Callable[..., Encoded]:
    """``ggml_quantize_chunk`` itself, not by way of the code under test."""
    spec = find_spec("libggml")
    assert spec is not None
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*/libggml-base.*"))
    quantize = ctypes.CDLL(str(path)).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def encode(
        weights: Weights, tensor_type: TensorType, columns: int, importance: Weights | None = None
    ) -> Encoded:
        out = np.zeros(tensor_type.size(weights.size), np.uint8)
        matrix = None if importance is None else importance.ctypes.data
        rows = weights.size // columns
        quantize(int(tensor_type), weights.ctypes.data, out.ctypes.data, 0, rows, columns, matrix)
        return out

    return encode


def encode(
    kernels: Kernels,
    weights: npt.NDArray[Any],
    tensor_type: TensorType,
    *,
    source: TensorType = TensorType.F32,
    columns: int = SUPERBLOCK,
    **options: Any,
) -> Encoded:
    size = tensor_type.size(weights.size)
    out = np.full(size + 64, 0xA5, np.uint8)
    kernels.encode(weights, source, columns, [(tensor_type, out)], **options)
    assert (out[size:] == 0xA5).all(), "wrote past the end"
    return out[:size]


def differing(ours: Encoded, theirs: Encoded, tensor_type: TensorType) -> list[int]:
    """Indices of the blocks that are not the same."""
    unlike = ours.reshape(-1, tensor_type.block.bytes) != theirs.reshape(-1, tensor_type.block.bytes)
    return [int(index) for index in np.flatnonzero(unlike.any(axis=1))]


def spread(random: Random, shape: tuple[int, ...], low: float, high: float) -> npt.NDArray[np.float64]:
    """Powers of ten, evenly between two exponents."""
    return 10.0 ** random.uniform(low, high, shape)


def near_ties(random: Random, shape: tuple[int, int]) -> Weights:
    """Halves and their neighbours, in blocks whose scale is a whole number for one type or another."""
    halves = (random.integers(-15, 16, shape) / 2).astype(np.float32)
    neighbours = np.nextafter(halves, random.choice(np.array([-99, 99], np.float32), shape))
    weights = np.where(random.random(shape) < 0.5, halves, neighbours)
    weights[:, ::32] = random.choice([127, -127, 8, -8, 16, -16, 15, 31], (shape[0], shape[1] // 32))
    return weights


def uneven_levels(random: Random, shape: tuple[int, int]) -> Weights:
    """The values of IQ4_NL in blocks whose scale is 1, and a few middles between two of them."""
    values = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
    middles = (values[1:] + values[:-1]) / 2
    rare = random.random(shape) < 0.04
    weights = np.where(rare, random.choice(middles, shape), random.choice(values, shape))
    weights[:, ::32] = -127
    return weights


def distributions(random: Random, count: int) -> Iterator[tuple[str, npt.NDArray[np.floating]]]:
    """Named batches of ``count`` superblocks, from well-behaved to hostile."""
    shape = (count, SUPERBLOCK)
    normal = random.standard_normal(shape)
    in_16, in_32 = (count, SUPERBLOCK // 16, 1), (count, SUPERBLOCK // 32, 1)
    sign = random.choice([-1.0, 1.0], shape)
    yield "normal", normal * 0.02
    yield "heavy tails", random.standard_t(2.5, shape) * 0.02
    yield "of every size", normal * spread(random, (count, 1), -30, 30)
    yield "uniform", random.uniform(-1, 1, shape)
    yield "positive", np.abs(normal) * 0.3
    yield "negative", -np.abs(normal) * 0.3
    yield "positive, far from zero", 5 + normal * 0.01
    yield "negative, far from zero", -5 - np.abs(normal) * spread(random, (count, 1), -6, 1)
    yield "zeros of both signs", sign * 0.0
    yield "constant", np.broadcast_to(normal[:, :1], shape)
    yield "one magnitude", sign * np.abs(normal[:, :1])
    yield "whole numbers", np.round(normal * 4)
    yield "ties", np.round(normal * 16) / 2
    yield "ties of a range", random.integers(0, 31, shape) / 2 - random.integers(0, 15, (count, 1))
    yield "near ties", near_ties(random, shape)
    yield "uneven levels", uneven_levels(random, shape)
    yield "few levels", random.choice([-1.0, -0.5, 0.0, 0.25, 1.0], shape)
    yield (
        "one spike",
        np.where(np.arange(SUPERBLOCK) == random.integers(0, SUPERBLOCK, (count, 1)), normal, 0),
    )
    yield "sparse spikes", np.where(random.random(shape) < 0.02, normal * 50, normal * 0.001)
    yield "mostly zeros", np.where(random.random(shape) < 0.1, normal, 0.0)
    yield "sub-blocks of zeros", (normal.reshape(count, -1, 32) * (random.random(in_32) < 0.5)).reshape(shape)
    yield (
        "sub-blocks of all sizes",
        (normal.reshape(count, -1, 16) * spread(random, in_16, -9, 3)).reshape(shape),
    )
    yield "small sub-blocks", (normal.reshape(count, -1, 32) * spread(random, in_32, -4, 0)).reshape(shape)
    yield "weights of all sizes", sign * spread(random, shape, -20, 20)
    yield "negligible", normal * spread(random, (count, 1), -17, -13)
    yield "tiny", normal * spread(random, (count, 1), -40, -34)
    yield "denormal", normal * 1e-42
    yield "the smallest", random.integers(-3, 4, shape) * 2.0**-149
    yield "F16 denormals", normal * spread(random, (count, 1), -9, -4)
    yield "F16 limits", normal * spread(random, (count, 1), 3, 8)
    yield "huge", normal * spread(random, (count, 1), 30, 38)
    yield "the largest", sign * F32_LARGEST * random.choice([0.1, 0.5, 1.0], shape)
    yield "extremes", random.choice([1e-40, -1e-40, 3e38, -3e38, 0.0, -0.0, 1.0, -1.0], shape)
    yield "any bits", random.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32).astype(np.float64)


def batch(seed: int, count: int) -> tuple[list[str], Weights]:
    """All distributions one after another: names, and (names, count * 256) finite weights."""
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        names, batches = zip(*distributions(random, count), strict=True)
        weights = np.stack(batches).astype(np.float32)
    np.clip(np.nan_to_num(weights), -F32_LARGEST, F32_LARGEST, out=weights)
    return list(names), weights.reshape(len(names), -1)


@every_type
@every_kernel
def test_bytes_are_ggmls(name: str, tensor_type: TensorType, ggml: Callable[..., Encoded]) -> None:
    # 33 superblocks: no kernel's groups come out even
    names, weights = batch(seed=int(tensor_type), count=33)
    ours = encode(load_kernels(name), weights, tensor_type)
    bad = differing(ours, ggml(weights, tensor_type, SUPERBLOCK), tensor_type)
    blocks = weights.shape[1] // tensor_type.block.weights
    assert not bad, sorted({names[index // blocks] for index in bad})


# neighbours of one another in all the ways that rounding and comparing know
awkward = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 127.0, -127.0, 1e-45, -1e-45, 1e-15, 9.9e-16, 3e38, -3e38, 65504.0, 7.5]
)
any_weight = st.one_of(awkward, st.floats(width=32, allow_nan=False, allow_infinity=False))


@every_kernel
@settings(max_examples=40, deadline=None)
@given(weights=arrays(np.float32, (2, SUPERBLOCK), elements=any_weight, fill=awkward))
def test_bytes_are_ggmls_for_what_hypothesis_finds(
    name: str, ggml: Callable[..., Encoded], weights: Weights
) -> None:
    for tensor_type in TensorType:
        ours = encode(load_kernels(name), weights, tensor_type)
        assert not differing(ours, ggml(weights, tensor_type, SUPERBLOCK), tensor_type), tensor_type


@pytest.mark.parametrize("tensor_type", FLOATS)
@every_kernel
def test_every_bf16_and_f16_is_widened_exactly(name: str, tensor_type: TensorType) -> None:
    stored = np.arange(2**16, dtype=np.uint16)
    if tensor_type is TensorType.F16:
        expected = stored.view(np.float16).astype(np.float32)
    else:
        expected = (stored.astype(np.uint32) << 16).view(np.float32)
    source = TensorType.BF16 if tensor_type is TensorType.F32 else tensor_type
    wide = encode(load_kernels(name), stored, TensorType.F32, source=source).view(np.float32)
    same = (wide.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(wide) & np.isnan(expected))
    assert same.all()
    assert np.array_equal(np.isnan(wide), np.isnan(expected))


@pytest.mark.parametrize("tensor_type", [TensorType.F16, TensorType.BF16])
@every_kernel
def test_narrowing_is_ggmls_for_every_exponent_and_nan(
    name: str, tensor_type: TensorType, ggml: Callable[..., Encoded]
) -> None:
    """The upper half of a float32, with lower halves below, at and above each type's rounding points."""
    upper = np.arange(2**16, dtype=np.uint32)[:, None] << 16
    lower = np.array(
        [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32
    )
    weights = (upper | lower).view(np.float32).ravel()
    assert np.isnan(weights).any()
    ours = encode(load_kernels(name), weights, tensor_type, columns=weights.size)
    assert not differing(ours, ggml(weights, tensor_type, weights.size), tensor_type)


@pytest.mark.parametrize("source", [TensorType.F16, TensorType.BF16])
@pytest.mark.parametrize("middle", FLOATS)
@every_kernel
def test_sources_and_middle_types(
    name: str, middle: TensorType, source: TensorType, ggml: Callable[..., Encoded]
) -> None:
    """What the steps do one by one: widen, round to the middle type, widen, encode."""
    random = np.random.default_rng(3)
    wide = (random.standard_normal(9 * SUPERBLOCK) * spread(random, (9 * SUPERBLOCK,), -7, 3)).astype(
        np.float32
    )
    stored = ggml(wide, source, SUPERBLOCK).view(np.uint16)
    exact = widened(stored, source)
    rounded = exact if middle is TensorType.F32 else widened(ggml(exact, middle, SUPERBLOCK), middle)
    if {source, middle} == {TensorType.F16, TensorType.BF16}:
        assert not np.array_equal(exact, rounded), "the middle type changes nothing here"
    for tensor_type in TensorType:
        ours = encode(load_kernels(name), stored, tensor_type, source=source, middle=middle)
        assert not differing(ours, ggml(rounded, tensor_type, SUPERBLOCK), tensor_type), tensor_type


def widened(stored: npt.NDArray[Any], source: TensorType) -> Weights:
    if source is TensorType.F16:
        return stored.view(np.float16).astype(np.float32)
    return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("rows", [1, 3, 57])
@every_kernel
def test_rows_that_are_no_whole_superblocks(name: str, rows: int, ggml: Callable[..., Encoded]) -> None:
    weights = np.random.default_rng(rows).standard_normal((rows, 576)).astype(np.float32)
    for tensor_type in TensorType:
        if 576 % tensor_type.block.weights == 0:
            ours = encode(load_kernels(name), weights, tensor_type, columns=576)
            assert not differing(ours, ggml(weights, tensor_type, 576), tensor_type), tensor_type


@pytest.mark.parametrize("count", [0, 1, 3, 7, 17, 4095, 4097])
@every_kernel
def test_floats_of_any_number(name: str, count: int, ggml: Callable[..., Encoded]) -> None:
    weights = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    for tensor_type in FLOATS:
        ours = encode(load_kernels(name), weights, tensor_type, columns=count or 1)
        expected = ggml(weights, tensor_type, count) if count else ours[:0]
        assert not differing(ours, expected, tensor_type), tensor_type


@every_kernel
def test_weights_may_lie_at_any_address(name: str, ggml: Callable[..., Encoded]) -> None:
    aligned = np.random.default_rng(4).standard_normal(SUPERBLOCK).astype(np.float32)
    memory = np.zeros(4 * SUPERBLOCK + 1, np.uint8)
    weights = memory[1:].view(np.float32)
    weights[:] = aligned
    for tensor_type in (TensorType.F32, TensorType.Q4_K):
        expected = ggml(aligned, tensor_type, SUPERBLOCK)
        assert not differing(encode(load_kernels(name), weights, tensor_type), expected, tensor_type)


@every_kernel
def test_several_outputs_are_each_as_alone(name: str) -> None:
    weights = np.random.default_rng(5).standard_normal((40, SUPERBLOCK)).astype(np.float32)
    kernels = load_kernels(name)
    outputs = [(kind, np.zeros(kind.size(weights.size), np.uint8)) for kind in TensorType]
    kernels.encode(weights, TensorType.F32, SUPERBLOCK, outputs)
    for tensor_type, out in outputs:
        assert np.array_equal(out, encode(kernels, weights, tensor_type)), tensor_type


@every_kernel
@pytest.mark.parametrize("place", [0, 5, 4095, 4096, 5 * SUPERBLOCK * 8 - 1])
def test_the_largest_magnitude(name: str, place: int) -> None:
    kernels = load_kernels(name)
    weights = np.random.default_rng(6).uniform(-1, 1, 5 * SUPERBLOCK * 8).astype(np.float32)

    def largest(middle: TensorType = TensorType.F32) -> float:
        out = np.zeros(TensorType.F32.size(weights.size), np.uint8)
        return kernels.encode(weights, TensorType.F32, SUPERBLOCK, [(TensorType.F32, out)], middle=middle)

    for value in (-1.5, 3.25, 1e38, -np.inf, np.inf):
        weights[place] = value
        assert largest() == np.float32(abs(value))
    weights[place] = -1.001
    assert largest() == np.float32(1.001)
    assert largest(TensorType.F16) == 1.0009765625
    assert largest(TensorType.BF16) == 1.0
    weights[place] = 70000.0
    assert largest(TensorType.F16) == np.inf
    weights[place] = np.nan
    weights[place - 1] = np.inf
    assert np.isnan(largest())
    assert np.isnan(largest(TensorType.BF16))


@every_kernel
def test_nan_stays_as_it_is_in_f32(name: str) -> None:
    weights = np.array([0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F800000] * 64, np.uint32).view(np.float32)
    assert np.array_equal(encode(load_kernels(name), weights, TensorType.F32), weights.view(np.uint8))


@pytest.mark.parametrize("tensor_type", QUANTISED, ids=lambda kind: kind.name)
@every_kernel
def test_an_importance_matrix_is_heeded(
    name: str, tensor_type: TensorType, ggml: Callable[..., Encoded]
) -> None:
    random = np.random.default_rng(7)
    weights = random.standard_normal((6, 2 * SUPERBLOCK)).astype(np.float32)
    importance = random.uniform(0.01, 5, 2 * SUPERBLOCK).astype(np.float32)
    kernels = load_kernels(name)
    ours = encode(kernels, weights, tensor_type, columns=2 * SUPERBLOCK, importance=importance)
    assert not differing(ours, ggml(weights, tensor_type, 2 * SUPERBLOCK, importance), tensor_type)
    if tensor_type is not TensorType.Q8_0:  # ggml does not use it there
        assert differing(ours, encode(kernels, weights, tensor_type, columns=2 * SUPERBLOCK), tensor_type)


@every_kernel
def test_many_threads_give_the_same_bytes(name: str) -> None:
    kernels = load_kernels(name)
    parts = np.random.default_rng(8).standard_normal((24, 20, SUPERBLOCK)).astype(np.float32)
    kinds = (TensorType.Q4_K, TensorType.Q6_K, TensorType.IQ4_NL, TensorType.Q8_0)
    alone = [[encode(kernels, part, kind) for kind in kinds] for part in parts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda part: [encode(kernels, part, kind) for kind in kinds], parts))
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every_kernel
def test_other_threads_run_meanwhile(name: str) -> None:
    weights = np.random.default_rng(9).standard_normal((1, SUPERBLOCK)).astype(np.float32)
    # long for every kernel: at least tens of the interpreter's switch intervals
    long = np.repeat(weights, 20_000 if name in ("avx512", "avx2") else 4_000, axis=0)
    worker = Thread(target=encode, args=(load_kernels(name), long, TensorType.Q4_K))
    turns, start = 0, time.perf_counter()
    worker.start()
    while worker.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > (time.perf_counter() - start) / 0.01


def test_the_native_kernels_are_tested() -> None:
    """Where the extension was built: it is built wherever there is a compiler."""
    assert VARIANTS
    assert VARIANTS[-1] == "generic"


@pytest.mark.parametrize("name", available_kernels())
def test_arrays_that_c_would_overrun_are_refused(name: str) -> None:
    weights = np.ones(512, dtype=np.float32)
    with pytest.raises(ValueError, match="Q4_K needs 288 contiguous bytes, not 287"):
        load_kernels(name).encode(weights, TensorType.F32, 256, [(TensorType.Q4_K, np.empty(287, np.uint8))])
    with pytest.raises(ValueError, match="not contiguous"):
        load_kernels(name).encode(
            weights[::2], TensorType.F32, 256, [(TensorType.Q8_0, np.empty(999, np.uint8))]
        )
