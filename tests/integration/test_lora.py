"""Adapters merged while converting, against PEFT's ``merge_and_unload`` and a build of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ggufpack import vendoring
from ggufpack.checkpoint.adapted import open_model
from ggufpack.convert.job import intermediate_precision
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.spec import AdapterSpec
from tests.support.lora import merge_with_peft, tensor_differences, train_adapter

TYPES = ("F32", "F16", "BF16", "Q4_K_M")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Variant:
    """An architecture, and how its adapter is trained."""

    base: str
    config: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    "all linear layers": Variant("llama", {"target_modules": LINEAR}),
    "rsLoRA": Variant("llama", {"target_modules": ATTENTION, "use_rslora": True}),
    "DoRA": Variant("llama", {"target_modules": LINEAR, "use_dora": True}),
    "patterns": Variant(
        "llama",
        {
            "target_modules": ATTENTION,
            "rank_pattern": {"q_proj": 2, r"layers\.[12]\.self_attn\.v_proj": 6},
            "alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.o_proj": 5},
        },
    ),
    "a head and an embedding saved": Variant(
        "llama", {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "embed_tokens"]}
    ),
    "factors of an embedding": Variant("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "DoRA of an embedding": Variant("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "tied embeddings": Variant("qwen2", {"target_modules": ATTENTION}),
    "biases of q, k and v": Variant("qwen2", {"target_modules": ATTENTION, "bias": "all"}),
    "biases of factors": Variant("starcoder2", {"target_modules": ["c_fc", "c_proj"], "lora_bias": True}),
    "Conv1D": Variant("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "DoRA of Conv1D": Variant("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "trained tokens": Variant("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 17, 5]}),
    "trained tokens of tied embeddings": Variant(
        "qwen2", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 17]}
    ),
    "some layers": Variant("gemma3", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.mark.parametrize("name", VARIANTS)
def test_an_adapter_equals_pefts_merge(
    name: str, tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    base = tiny_model(variant.base)
    adapter = train_adapter(base, tmp_path / "adapter", options=variant.options, **variant.config)
    merged = merge_with_peft(base, [(adapter, 1.0)], tmp_path / "merged")
    ours = convert(worker, tmp_path / "ours", adapter, base=base)
    theirs = convert(worker, tmp_path / "theirs", merged)
    plain = convert(worker, tmp_path / "plain", base)
    for quantization, path in ours.items():
        assert tensor_differences(path, theirs[quantization]) == [], quantization
        assert tensor_differences(path, plain[quantization]) != [], quantization


def convert(
    worker: Worker,
    folder: Path,
    checkpoint: Path,
    *,
    base: Path | None = None,
    adapters: tuple[AdapterSpec, ...] = (),
) -> dict[str, Path]:
    """The files of all ``TYPES``, from one pass."""
    folder.mkdir()
    outputs = {quantization: folder / f"{quantization}.gguf" for quantization in TYPES}
    with open_model(checkpoint, base, adapters) as opened:
        adaptation = opened.adaptation
        job = Job(
            opened.folder,
            tuple(outputs.items()),
            intermediate_precision(opened.tensors.dtypes),
            threads=1,
            merge=None if adaptation is None else adaptation.merge.to_json(),
        )
        worker.convert(job)
    return outputs
