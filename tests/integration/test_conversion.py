"""The one-pass conversion against llama.cpp's two steps, whole file by whole file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufpack import vendoring
from ggufpack.convert.process import Worker
from ggufpack.convert.size import CHUNK_WEIGHTS
from ggufpack.quantize.types import FILE_TYPES
from tests.support.checkpoints import TINY, link_checkpoint
from tests.support.exact import compare_with_oracle
from tests.support.tensor_files import INDEX, SINGLE, read_tensors, shard, store_as

COMMON_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K")
# all types for a dense and an expert model with small vocabularies: the slow kernels cost minutes
ALL_TYPES = ("llama-spm", "mixtral")
# how tensors are stored, by name
STORED: dict[str, tuple[str, Callable[[str], str]]] = {
    "F16": ("llama-spm", lambda _: "F16"),
    "F32": ("llama-spm", lambda _: "F32"),
    "BF16 with F32 norms": ("llama-spm", lambda name: "F32" if "norm" in name else "BF16"),
    "F16 with a BF16 head": ("llama-spm", lambda name: "BF16" if "lm_head" in name else "F16"),
    "BF16 with an F32 expert": ("mixtral", lambda name: "F32" if "experts.1." in name else "BF16"),
}
# a permuted, an embedding, an expert and a transposed tensor that are read in several chunks
LARGE = {
    "mixtral-wide": (
        "model.layers.0.self_attn.q_proj.weight",
        "model.embed_tokens.weight",
        "model.layers.0.block_sparse_moe.experts.1.w1.weight",
    ),
    "gpt2-wide": ("transformer.h.0.mlp.c_fc.weight", "transformer.wte.weight"),
}

pytestmark = pytest.mark.server  # llama-quantize is built with the server


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.mark.parametrize("architecture", TINY)
def test_tiny_models_equal_the_two_steps(
    architecture: str,
    tiny_model: Callable[[str], Path],
    llama_quantize: Path,
    worker: Worker,
    tmp_path: Path,
) -> None:
    wanted = tuple(FILE_TYPES) if architecture in ALL_TYPES else COMMON_TYPES
    _compare(tiny_model(architecture), wanted, worker, tmp_path)


@pytest.mark.parametrize("stored", STORED)
def test_other_stored_dtypes_equal_the_two_steps(
    stored: str,
    tiny_model: Callable[[str], Path],
    llama_quantize: Path,
    worker: Worker,
    tmp_path: Path,
) -> None:
    architecture, dtype_of = STORED[stored]
    checkpoint = link_checkpoint(tiny_model(architecture), tmp_path / "model")
    store_as(checkpoint, dtype_of)
    scratch = tmp_path / "out"
    scratch.mkdir()
    _compare(checkpoint, ("F32", "F16", "BF16", "Q8_0", "Q4_K_M"), worker, scratch)


def test_smollm2_equals_the_two_steps(
    smollm2: Path, llama_quantize: Path, worker: Worker, tmp_path: Path
) -> None:
    _compare(smollm2, COMMON_TYPES, worker, tmp_path)


@pytest.mark.parametrize("name", ["qwen3moe", "mixtral"])
def test_expert_stacks_over_several_shards_equal_the_two_steps(
    name: str,
    tiny_model: Callable[[str], Path],
    llama_quantize: Path,
    worker: Worker,
    tmp_path: Path,
) -> None:
    checkpoint = tiny_model(name)
    if name == "mixtral":  # one file: dealt out here, tensor by tensor; the other one by transformers
        checkpoint = link_checkpoint(checkpoint, tmp_path / "model")
        shard(checkpoint, 3)
    files = json.loads((checkpoint / INDEX).read_text(encoding="utf-8"))["weight_map"]
    stack = {file for tensor, file in files.items() if ".layers.1." in tensor and ".experts." in tensor}
    assert len(stack) > 1, "one stack of experts is in several shards"
    scratch = tmp_path / "out"
    scratch.mkdir()
    _compare(checkpoint, ("F16", "Q8_0", "Q4_K_M"), worker, scratch)


def test_rows_of_blocks_but_not_superblocks_fall_back(
    tiny_model: Callable[[str], Path], llama_quantize: Path, worker: Worker, tmp_path: Path
) -> None:
    types = _compare(tiny_model("llama-224"), tuple(FILE_TYPES), worker, tmp_path)
    assert types["Q4_K_M"] == {"F32", "Q5_0", "Q8_0"}, "for Q4_K and Q6_K"
    assert types["Q5_K_M"] == {"F32", "Q5_1", "Q8_0"}, "for Q5_K and Q6_K"
    assert types["Q6_K"] == {"F32", "Q8_0"}
    assert "Q4_0" in types["Q2_K"] & types["Q3_K_M"]
    assert types["IQ4_XS"] == {"F32", "IQ4_NL", "Q8_0"}


def test_rows_without_blocks_fall_back_to_f16(
    tiny_model: Callable[[str], Path], llama_quantize: Path, worker: Worker, tmp_path: Path
) -> None:
    types = _compare(tiny_model("llama-80"), tuple(FILE_TYPES), worker, tmp_path)
    quantized = [name for name, kind in FILE_TYPES.items() if not kind.base.is_float]
    assert all(types[name] == {"F32", "F16"} for name in quantized)


@pytest.mark.parametrize(("name", "tensors"), LARGE.items())
def test_tensors_of_several_chunks_equal_the_two_steps(
    name: str,
    tensors: tuple[str, ...],
    tiny_model: Callable[[str], Path],
    llama_quantize: Path,
    worker: Worker,
    tmp_path: Path,
) -> None:
    checkpoint = tiny_model(name)
    stored = read_tensors(checkpoint / SINGLE)
    for tensor in tensors:
        assert stored[tensor].items.size > CHUNK_WEIGHTS
    _compare(checkpoint, COMMON_TYPES, worker, tmp_path)


def _compare(checkpoint: Path, wanted: tuple[str, ...], worker: Worker, scratch: Path) -> dict[str, set[str]]:
    """Fails at a difference; returns the tensor types that each file has."""
    compared = compare_with_oracle(checkpoint, wanted, worker, scratch)
    assert not compared.differences
    assert {path.name for path in scratch.iterdir() if path.is_file()} == {
        "source.gguf",
        *(f"{name}.gguf" for name in wanted),
    }, "nothing else is left in the folder"
    return {file.quantization: set(file.tensor_types) for file in compared.converted.files}
