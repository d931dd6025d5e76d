"""Adapters as GGUF LoRAs: what the file adds to a model is what merging adds, for many architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggufpack import vendoring
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.adapter_layer import plan_layer
from ggufpack.convert.job import layer_job
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import AdapterError
from ggufpack.gguf_header import read_gguf_header
from ggufpack.spec import AdapterSpec
from tests.support.checkpoints import change_config, link_checkpoint
from tests.support.lora import gguf_tensors, train_adapter
from tests.support.tensor_files import SINGLE, StoredTensor, read_tensors, write_tensors

Floats = npt.NDArray[np.float32]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Variant:
    """An architecture, how its adapter is trained and saved, and the weight it is given."""

    base: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    "all linear layers": Variant("llama", {"target_modules": [*LINEAR, "lm_head"]}),
    "a weight": Variant("llama", {"target_modules": ["q_proj"]}, weight=-0.75),
    "embeddings saved as they were": Variant(
        "llama", {"target_modules": ["q_proj"]}, options={"save_embedding_layers": True}
    ),
    "rsLoRA": Variant("llama", {"target_modules": ATTENTION, "use_rslora": True, "r": 6}),
    "patterns": Variant(
        "llama",
        {
            "target_modules": ATTENTION,
            "rank_pattern": {"q_proj": 2, r"layers\.[12]\.self_attn\.v_proj": 6},
            "alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.o_proj": 5},
        },
    ),
    "tied embeddings": Variant("qwen2", {"target_modules": LINEAR}),
    "joined projections": Variant("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
    "some layers": Variant("gemma3", {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "attention of experts": Variant("mixtral", {"target_modules": ATTENTION}),
    "olmo2": Variant("olmo2", {"target_modules": LINEAR}),
    "cohere": Variant("cohere", {"target_modules": LINEAR}),
    "starcoder2": Variant("starcoder2", {"target_modules": ["c_fc", "c_proj", "q_proj", "v_proj"]}),
    "reordered heads": Variant("bloom", {"target_modules": ["query_key_value", "dense"]}),
    "reordered groups": Variant("falcon", {"target_modules": ["query_key_value"]}),
    "a state space": Variant("mamba", {"target_modules": ["in_proj", "x_proj"]}),
    "short convolutions": Variant("lfm2", {"target_modules": ["in_proj", "q_proj", "w1"]}),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.mark.parametrize("name", VARIANTS)
def test_the_file_adds_what_merging_adds(
    name: str, tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    base = in_float32(tiny_model(variant.base), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", options=variant.options, **variant.config)
    written = write_layer(worker, base, adapter, tmp_path / "layer.gguf", variant.weight)
    plain = model_tensors(worker, base, (), tmp_path / "plain.gguf")
    merged = model_tensors(worker, base, (AdapterSpec(adapter, variant.weight),), tmp_path / "merged.gguf")
    added = additions(written)
    changed = {name for name, values in merged.items() if not np.array_equal(values, plain[name])}
    assert added.keys() == changed
    for tensor, values in added.items():
        # the sum with the weight was rounded, and the product was not
        bound = 4 * np.finfo(np.float32).eps * max(np.abs(merged[tensor]).max(), np.abs(values).max())
        np.testing.assert_allclose(values, merged[tensor] - plain[tensor], rtol=1e-5, atol=bound)
        assert np.abs(values).max() > 100 * bound, tensor


def test_what_llama_cpp_cannot_write_is_refused(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    base = tiny_model("deepseek2")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["kv_b_proj"])  # it is cut and turned
    with pytest.raises(AdapterError, match="cannot write it") as caught:
        write_layer(worker, base, adapter, tmp_path / "layer.gguf")
    assert caught.value.action == f"Merge it instead: ggufpack build BASE --adapter {adapter}"
    assert list(tmp_path.iterdir()) == [adapter]


def test_a_product_that_is_left_out_is_noticed(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    base = tiny_model("llama")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with open_model(base, None, [AdapterSpec(adapter)]) as checkpoint:
        layer = plan_layer(checkpoint)
        more = replace(layer, weights=layer.weights + 1)
        job = layer_job(checkpoint, more, ("LORA", tmp_path / "layer.gguf"), plan_only=False)
        with pytest.raises(AdapterError, match=r"wrote factors of 196,608 weights, and the adapter"):
            worker.convert(job)
    assert list(tmp_path.iterdir()) == [adapter]


def test_a_plan_leaves_no_file(tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path) -> None:
    base = tiny_model("llama")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    written = write_layer(worker, base, adapter, tmp_path / "layer.gguf")
    size = written.stat().st_size
    written.unlink()
    with open_model(base, None, [AdapterSpec(adapter)]) as checkpoint:
        job = layer_job(checkpoint, plan_layer(checkpoint), ("LORA", written), plan_only=True)
        (planned,) = worker.convert(job).files
    assert (planned.size, planned.tensor_types) == (size, {"F32": 6})
    assert list(tmp_path.iterdir()) == [adapter]


def test_values_that_are_no_numbers_are_refused(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    base = tiny_model("llama")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    tensors = read_tensors(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name].items[0, 0] = np.nan
    write_tensors(adapter / "adapter_model.safetensors", tensors)
    with pytest.raises(AdapterError, match="NaN or infinity") as caught:
        write_layer(worker, base, adapter, tmp_path / "layer.gguf")
    assert caught.value.key == name


def write_layer(worker: Worker, base: Path, adapter: Path, target: Path, weight: float = 1.0) -> Path:
    with open_model(base, None, [AdapterSpec(adapter, weight)]) as checkpoint:
        job = layer_job(checkpoint, plan_layer(checkpoint), ("LORA", target), plan_only=False)
        (file,) = worker.convert(job).files
    assert set(file.tensor_types) == {"F32"}
    return file.path


def model_tensors(
    worker: Worker, base: Path, adapters: tuple[AdapterSpec, ...], target: Path
) -> dict[str, Floats]:
    with open_model(base, None, adapters) as checkpoint:
        merge = None if checkpoint.adaptation is None else checkpoint.adaptation.merge.to_json()
        worker.convert(Job(checkpoint.folder, (("F32", target),), "f32", merge=merge))
    return arrays(target)


def arrays(path: Path) -> dict[str, Floats]:
    """Every F32 tensor of a GGUF, outermost dimension first."""
    shapes = {tensor.name: tensor.shape[::-1] for tensor in read_gguf_header(path).tensors}
    return {
        name: np.frombuffer(data, "<f4").reshape(shapes[name])
        for name, kind, data in gguf_tensors(path)
        if kind == "F32"
    }


def additions(path: Path) -> dict[str, Floats]:
    """What llama.cpp adds to each weight: alpha / rank · B·A (src/llama-adapter.h, get_scale)."""
    factors, alpha = arrays(path), np.float32(read_gguf_header(path).keys["adapter.lora.alpha"])
    found = {}
    for name in (name.removesuffix(".lora_a") for name in factors if name.endswith(".lora_a")):
        b = factors[f"{name}.lora_b"]
        found[name] = (b @ factors[f"{name}.lora_a"]) * (alpha / np.float32(b.shape[-1]))
    return found


def in_float32(base: Path, folder: Path) -> Path:
    """A copy whose weights are float32: merging does not round to bfloat16."""
    link_checkpoint(base, folder)
    tensors = {
        name: StoredTensor.of(tensor.values(), "F32")
        for name, tensor in read_tensors(folder / SINGLE).items()
    }
    (folder / SINGLE).unlink()
    write_tensors(folder / SINGLE, tensors)
    change_config(folder, dtype="float32", torch_dtype=None)
    return folder
