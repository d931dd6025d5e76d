"""The type rules against llama.cpp's own: ``llama-quantize --dry-run`` on headers without data.

The models are sparse files: full-size shapes of real families, no weights.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufpack.quantize.rules import ModelTraits, TensorShape, choose_types, file_order
from ggufpack.quantize.types import FILE_TYPES, NEED_IMATRIX, TensorType
from tests.support.imatrix_files import collect, write_gguf

pytestmark = pytest.mark.server  # llama-quantize is built with the server

Shapes = dict[str, tuple[int, ...]]
NOT_OFFERED = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"),
    *("Q2_K_S", "TQ1_0", "TQ2_0", "MXFP4_MOE"),
)
_LINE = re.compile(r"\] +(\S+) +- \[.*?\], type = +(\S+), size = .*? MiB(?: -> .*? MiB \((\S+)\))?\n")


@dataclass(frozen=True)
class Family:
    """A model family at full size: sizes as in its config.json."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    experts: int = 0
    tied: bool = False
    fused_qkv: bool = False
    prediction_layers: int = 0
    vocabulary: int = 32000

    def shapes(self) -> Shapes:
        """Tensor name to shape, outermost first."""
        width = self.hidden // self.heads * self.kv_heads
        found: Shapes = {
            "token_embd.weight": (self.vocabulary, self.hidden),
            "output_norm.weight": (self.hidden,),
        }
        if not self.tied:
            found["output.weight"] = (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            found |= {f"blk.{layer}.{part}": shape for part, shape in self._layer(width)}
        return found

    def _layer(self, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, inner = self.hidden, self.feed_forward
        yield "attn_norm.weight", (hidden,)
        yield "attn_output.weight", (hidden, hidden)
        if self.fused_qkv:
            yield "attn_qkv.weight", (hidden + 2 * width, hidden)
        else:
            yield "attn_q.weight", (hidden, hidden)
            yield "attn_k.weight", (width, hidden)
            yield "attn_v.weight", (width, hidden)
        if self.experts:
            yield "ffn_gate_inp.weight", (self.experts, hidden)
            yield "ffn_gate_exps.weight", (self.experts, inner, hidden)
            yield "ffn_up_exps.weight", (self.experts, inner, hidden)
            yield "ffn_down_exps.weight", (self.experts, hidden, inner)
        else:
            yield "ffn_up.weight", (inner, hidden)
            yield "ffn_down.weight", (hidden, inner)

    def traits(self) -> ModelTraits:
        """What the rules are given."""
        return ModelTraits(
            architecture=self.architecture,
            block_count=self.layers,
            prediction_layers=self.prediction_layers,
            expert_count=self.experts,
            head_count=self.heads,
            head_count_kv=self.kv_heads,
        )


FAMILIES = {
    "llama-8b": Family("llama", 32, 4096, 32, 8, 14336),
    "llama-70b": Family("llama", 80, 8192, 64, 8, 28672),
    "llama-65b": Family("llama", 80, 8192, 64, 64, 22016),
    "qwen2-72b": Family("qwen2", 80, 8192, 64, 8, 29568),
    "mixtral-8x7b": Family("llama", 32, 4096, 32, 8, 14336, experts=8),
    "qwen3moe-30b": Family("qwen3moe", 48, 2048, 32, 4, 768, experts=128),
    "falcon-7b": Family("falcon", 32, 4544, 71, 1, 18176, fused_qkv=True),
    "gemma2-2b": Family("gemma2", 26, 2304, 8, 4, 9216, tied=True),
    "phi3-mini": Family("phi3", 32, 3072, 32, 32, 8192, fused_qkv=True),
    "odd-widths": Family("llama", 5, 576, 9, 3, 1504, tied=True),
    "widths-no-block-divides": Family("llama", 3, 400, 4, 2, 1000),
    "prediction-layer": Family("glm4moe", 24, 4096, 32, 8, 1408, experts=16, prediction_layers=1),
}


def _write_header(path: Path, family: Family) -> None:
    writer = gguf.GGUFWriter(path=None, arch=family.architecture)
    writer.add_block_count(family.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(family.hidden)
    writer.add_feed_forward_length(family.feed_forward)
    writer.add_expert_feed_forward_length(family.feed_forward)
    writer.add_head_count(family.heads)
    writer.add_head_count_kv(family.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_sliding_window(4096)
    if family.experts:
        writer.add_expert_count(family.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_scale(1.0)
        writer.add_leading_dense_block_count(0)
    if family.prediction_layers:
        writer.add_uint32(f"{family.architecture}.nextn_predict_layers", family.prediction_layers)
    writer.add_string("tokenizer.ggml.model", "none")
    writer.add_array("tokenizer.ggml.tokens", [str(token) for token in range(family.vocabulary)])
    size = 0
    for name, shape in family.shapes().items():
        kind = np.dtype(np.float16 if len(shape) > 1 and "gate_inp" not in name else np.float32)
        bytes_ = math.prod(shape) * kind.itemsize
        writer.add_tensor_info(name, list(shape), kind, bytes_)
        size += (bytes_ + 31) // 32 * 32
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, (path.stat().st_size + 31) // 32 * 32 + size)


@pytest.mark.parametrize("has_imatrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_file_type_gets_llama_cpps_types(
    name: str, has_imatrix: bool, tmp_path: Path, llama_quantize: Path
) -> None:
    family = FAMILIES[name]
    options: list[str | Path] = []
    if has_imatrix:  # its entries do not matter here, only that there is one
        options = ["--imatrix", write_gguf(tmp_path / "imatrix.gguf", collect({"any": (1, 1)}))]
    model = tmp_path / "model.gguf"
    _write_header(model, family)
    shapes = [
        TensorShape(tensor, len(shape), shape[-1])
        for tensor, shape in sorted(family.shapes().items(), key=lambda item: file_order(item[0]))
    ]
    for file_type in FILE_TYPES:
        run = subprocess.run(
            [llama_quantize, "--dry-run", *options, model, file_type],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        theirs = {tensor: (changed or own).upper() for tensor, own, changed in _LINE.findall(run.stdout)}
        assert list(theirs) == [shape.name for shape in shapes], "the order of tensors in the file"
        ours = {
            tensor: _name(chosen, tensor)
            for tensor, chosen in choose_types(
                file_type, shapes, family.traits(), has_imatrix=has_imatrix
            ).items()
        }
        assert ours == theirs, file_type


@pytest.mark.parametrize("file_type", [*FILE_TYPES, *NOT_OFFERED])
def test_which_types_need_an_imatrix(file_type: str, tmp_path: Path, llama_quantize: Path) -> None:
    model = tmp_path / "model.gguf"
    _write_header(model, FAMILIES["llama-8b"])
    run = subprocess.run(
        [llama_quantize, "--dry-run", model, file_type],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert ("will require an imatrix" in run.stdout) == (file_type in NEED_IMATRIX)


def _name(chosen: TensorType | None, tensor: str) -> str:
    if chosen is not None:
        return chosen.name
    return "F32" if "norm" in tensor or "gate_inp" in tensor else "F16"
