"""The source's weights rounded as a GGUF's types say, and what goes into a product as llama.cpp rounds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import pytest
import torch

from ggufpack.errors import VerificationError
from ggufpack.quantize.types import TensorType
from ggufpack.verification.fidelity.rounding import GgufTypes, round_weights, rounded_inputs

WIDTH = 256


class Block(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(WIDTH, 32, bias=False)
        self.o_proj = torch.nn.Linear(32, WIDTH, bias=False)

    def forward(self, x: Any) -> Any:
        return self.o_proj(self.q_proj(x))


class Model(torch.nn.Module):  # type: ignore[misc]
    """``model.layers.0.self_attn.{q,o}_proj`` and embeddings tied to the head, as in a small llama."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.embed_tokens = torch.nn.Embedding(16, WIDTH)
        layer = torch.nn.Module()
        layer.self_attn = Block()
        self.model.layers = torch.nn.ModuleList([layer])
        self.lm_head = torch.nn.Linear(WIDTH, 16, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def get_input_embeddings(self) -> Any:
        return self.model.embed_tokens

    def forward(self, ids: Any) -> Any:
        return self.lm_head(self.model.layers[0].self_attn(self.model.embed_tokens(ids)))


def write(path: Path, kinds: dict[str, tuple[TensorType, tuple[int, int]]], **keys: str) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), value)
    for name, (kind, shape) in kinds.items():
        data = np.zeros((shape[0], kind.size(shape[1])), np.uint8)
        number = gguf.GGMLQuantizationType(int(kind))
        writer.add_tensor(name, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    made = Model()
    made.requires_grad_(False)
    return made


@pytest.fixture
def types(tmp_path: Path) -> GgufTypes:
    return GgufTypes(write(tmp_path / "a.gguf", FILE), gguf)


FILE = {
    "token_embd.weight": (TensorType.Q6_K, (16, WIDTH)),
    "blk.0.attn_q.weight": (TensorType.Q4_K, (32, WIDTH)),
    "blk.0.attn_output.weight": (TensorType.Q8_0, (WIDTH, 32)),
}


def test_each_matrix_gets_its_type(model: Model, types: GgufTypes) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    done = round_weights(model, types, gguf)
    assert done.unknown == 0
    assert done.types == {
        "model.embed_tokens": TensorType.Q6_K,
        "model.layers.0.self_attn.q_proj": TensorType.Q4_K,
        "model.layers.0.self_attn.o_proj": TensorType.Q8_0,
    }
    errors = {
        name.split(".")[-2]: float((parameter - before[name]).norm() / before[name].norm())
        for name, parameter in model.named_parameters()
    }
    assert 0.02 < errors["q_proj"] < 0.12
    assert 0.005 < errors["embed_tokens"] < 0.03
    assert 0.001 < errors["o_proj"] < 0.01
    # Q8_0 is exact in gguf's own Python: the same values from another program
    weights = before["model.layers.0.self_attn.o_proj.weight"].numpy()
    kind = gguf.GGMLQuantizationType.Q8_0
    wanted = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
    assert np.abs(model.model.layers[0].self_attn.o_proj.weight.numpy() - wanted).max() < 1e-6


def test_a_matrix_that_lies_the_other_way_is_turned(model: Model, tmp_path: Path) -> None:
    turned = {**FILE, "blk.0.attn_output.weight": (TensorType.Q4_K, (32, WIDTH))}
    types = GgufTypes(write(tmp_path / "b.gguf", turned), gguf)
    before = model.model.layers[0].self_attn.o_proj.weight.clone()
    assert round_weights(model, types, gguf).unknown == 0
    after = model.model.layers[0].self_attn.o_proj.weight
    assert after.shape == before.shape
    assert 0.02 < float((after - before).norm() / before.norm()) < 0.12


def test_what_the_file_does_not_name_is_counted(model: Model, tmp_path: Path) -> None:
    missing = {name: value for name, value in FILE.items() if "attn_q" not in name}
    types = GgufTypes(write(tmp_path / "b.gguf", missing), gguf)
    assert round_weights(model, types, gguf).unknown == 32 * WIDTH
    assert not types.imatrix
    assert GgufTypes(write(tmp_path / "c.gguf", FILE, quantize__imatrix__file="x"), gguf).imatrix


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (TensorType.F32, -1e-9, 1e-9),
        (TensorType.F16, 1e-6, 1e-3),
        (TensorType.BF16, 1e-4, 5e-3),
        (TensorType.Q8_0, 1e-3, 2e-2),
        (TensorType.Q4_K, 1e-3, 2e-2),
    ],
)
def test_inputs_are_rounded_meanwhile(model: Model, kind: TensorType, low: float, high: float) -> None:
    x = torch.randn(3, WIDTH)
    block = model.model.layers[0].self_attn
    before = block(x)
    with rounded_inputs(model, {"model.layers.0.self_attn.q_proj": kind}):
        meanwhile = block(x)
    assert (block(x) == before).all()
    assert low <= float((meanwhile - before).norm() / before.norm()) <= high


def test_a_head_that_is_tied_is_rounded_with_the_embeddings_type(model: Model) -> None:
    ids = torch.arange(4)
    before = model(ids)
    with rounded_inputs(model, {"model.embed_tokens": TensorType.Q8_0}):
        assert not torch.equal(model(ids), before)
    assert torch.equal(model(ids), before)


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(VerificationError, match=r"x\.gguf"):
        GgufTypes(tmp_path / "x.gguf", gguf)
