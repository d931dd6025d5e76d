"""Adapters merged while converting, against PEFT's ``merge_and_unload`` and a build of its result."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpack import vendoring
from ggufpack.checkpoint.adapted import open_model
from ggufpack.convert.job import intermediate_precision
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import AdapterError, ConversionError
from ggufpack.spec import AdapterSpec
from tests.support.lora import gguf_tensors, merge_with_peft, tensor_differences, train_adapter
from tests.support.tensor_files import StoredTensor, read_tensors, write_tensors

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


def test_adapters_with_weights_add_up(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    base = tiny_model("llama")
    one = train_adapter(base, tmp_path / "one", target_modules=ATTENTION)
    two = train_adapter(base, tmp_path / "two", target_modules=LINEAR, r=6, use_rslora=True, seed=8)
    merged = merge_with_peft(base, [(one, 0.75), (two, -0.5)], tmp_path / "merged")
    specs = (AdapterSpec(one, 0.75), AdapterSpec(two, -0.5))
    ours = convert(worker, tmp_path / "ours", base, adapters=specs)
    theirs = convert(worker, tmp_path / "theirs", merged)
    for quantization, path in ours.items():
        assert tensor_differences(path, theirs[quantization]) == [], quantization


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_resized_vocabulary(
    architecture: str, tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    """llama has a head of its own; qwen2's is tied to the embedding, and PEFT saves it twice."""
    base = tiny_model(architecture)
    with open_model(base) as opened:
        vocabulary = opened.tensors["model.embed_tokens.weight"].shape[0] + 64
    save = {"save_embedding_layers": True}
    modules = ["embed_tokens", "lm_head"] if architecture == "llama" else None
    adapter = train_adapter(
        base,
        tmp_path / "adapter",
        vocabulary=vocabulary,
        options=save,
        target_modules=ATTENTION,
        modules_to_save=modules,
    )
    merged = merge_with_peft(base, [(adapter, 1.0)], tmp_path / "merged", vocabulary=vocabulary)
    ours = convert(worker, tmp_path / "ours", adapter, base=base)
    theirs = convert(worker, tmp_path / "theirs", merged)
    for quantization, path in ours.items():
        assert tensor_differences(path, theirs[quantization]) == [], quantization


def test_a_merge_in_bfloat16_is_the_same(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    """As PEFT loads by default: its factors are float32, and torch adds in float32 and rounds once."""
    base = tiny_model("llama")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=LINEAR)
    merged = merge_with_peft(base, [(adapter, 1.0)], tmp_path / "merged", arithmetic="bfloat16")
    ours = convert(worker, tmp_path / "ours", adapter, base=base)
    assert tensor_differences(ours["BF16"], convert(worker, tmp_path / "theirs", merged)["BF16"]) == []


def test_a_merge_of_bfloat16_factors_is_within_one_ulp(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    """Without its autocast PEFT rounds the change, then the sum: an ulp of the largest of W, change, sum."""
    base = tiny_model("llama")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=LINEAR)
    weights = adapter / "adapter_model.safetensors"
    stored = read_tensors(weights)
    cut = {name: (tensor.items.view("<u4") >> 16).astype("<u2") for name, tensor in stored.items()}
    write_tensors(weights, {name: StoredTensor("BF16", items) for name, items in cut.items()})
    merged = merge_with_peft(
        base, [(adapter, 1.0)], tmp_path / "merged", arithmetic="bfloat16", autocast_adapter_dtype=False
    )
    ours = values_of(convert(worker, tmp_path / "ours", adapter, base=base)["BF16"])
    theirs = values_of(convert(worker, tmp_path / "theirs", merged)["BF16"])
    plain = values_of(convert(worker, tmp_path / "plain", base)["BF16"])
    assert ours.keys() == theirs.keys() == plain.keys()
    different = 0
    for name, values in ours.items():
        change = values - plain[name]
        largest = np.maximum.reduce([np.abs(values), np.abs(plain[name]), np.abs(change)])
        ulp = np.exp2(np.floor(np.log2(np.maximum(largest, np.finfo(np.float32).tiny))) - 7)
        assert np.all(np.abs(values - theirs[name]) <= ulp), name
        different += int(np.count_nonzero(values != theirs[name]))
    assert different  # otherwise this test says nothing


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_adapter_is_refused(
    bad: float, tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    base = tiny_model("llama")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], steps=1)
    weights = adapter / "adapter_model.safetensors"
    tensors = read_tensors(weights)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name].items.reshape(-1)[3] = bad
    write_tensors(weights, tensors)
    with pytest.raises(AdapterError) as caught:
        convert(worker, tmp_path / "ours", adapter, base=base)
    assert caught.value.key == name
    assert caught.value.exit_code == 3
    assert list((tmp_path / "ours").iterdir()) == []


def test_a_head_trained_apart_from_a_tied_embedding(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    """The package holds what was trained: the embedding as it was, and the head with its change."""
    base = tiny_model("qwen2")
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    ours = values_of(convert(worker, tmp_path / "ours", adapter, base=base)["F32"])
    plain = values_of(convert(worker, tmp_path / "plain", base)["F32"])
    assert np.array_equal(ours["token_embd.weight"], plain["token_embd.weight"])
    parts = read_tensors(adapter / "adapter_model.safetensors")
    a, b = (parts[f"base_model.model.lm_head.lora_{x}.weight"].values() for x in "AB")
    expected = plain["token_embd.weight"] + 2.0 * (b @ a).reshape(-1)
    assert np.abs(ours["output.weight"] - expected).max() <= np.abs(expected).max() * 2**-8
    assert np.abs(ours["output.weight"] - plain["token_embd.weight"]).max() > 0.01


def test_a_change_that_the_converter_leaves_out_is_an_error(
    tiny_model: Callable[[str], Path], worker: Worker, tmp_path: Path
) -> None:
    base = tiny_model("gemma2")  # llama.cpp has no head of its own for it
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(ConversionError, match="leaves out 1 tensors") as caught:
        convert(worker, tmp_path / "ours", adapter, base=base)
    assert caught.value.key == "lm_head.weight"


def values_of(path: Path) -> dict[str, Any]:
    """float32 values of the tensors of an F32 or BF16 file."""
    found = {}
    for name, kind, data in gguf_tensors(path):
        if kind == "F32":
            found[name] = np.frombuffer(data, "<f4")
        else:
            assert kind == "BF16"
            found[name] = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return found


def test_smollm2_from_the_command_line(smollm2: Path, tmp_path: Path) -> None:
    """A chat model, its tokenizer saved beside the adapter: build, its record, and the proof by PEFT."""
    texts = [[1, 4093, 198, 19556, 2, 198]]
    adapter = train_adapter(
        smollm2, tmp_path / "adapter", target_modules="all-linear", texts=texts, rate=0.001
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2 / name, adapter)
    options = ("--base", str(smollm2), "-q", "F16", "--no-register", "--verify", "fidelity", "--json")
    calibration = tmp_path / "texts.txt"
    calibration.write_text("The capital of France is Paris. " * 12, encoding="utf-8")
    done = run_cli(
        "build", str(adapter), *options, "--calibration", str(calibration), "--output", str(tmp_path / "out")
    )
    assert done["status"] == "verified"
    assert done["verifications"][0]["fidelity"]["verdict"] == "sound"
    ids = {finding["id"] for finding in done["findings"]}
    assert {"GP120", "GP121"} <= ids
    record = json.loads(Path(done["record"]).read_text(encoding="utf-8"))["checkpoint"]
    assert record["folder"] == str(smollm2.resolve())
    (recorded,) = record["adapters"]
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert recorded["files"]["adapter_model.safetensors"] == hashlib.sha256(weights).hexdigest()
    plain = run_cli(
        "plan", str(smollm2), "--adapter", f"{adapter}=0.5", "-q", "F16", "--no-register", "--json"
    )
    assert plain["files"][0]["tensor_types"] == done["files"][0]["tensor_types"]


def run_cli(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "ggufpack", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
