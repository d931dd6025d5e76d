"""Small checkpoint folders, written by hand so that every byte can be made wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.header import DTYPE_BITS

VOCABULARY = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "c": 5}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 8,
    "hidden_size": 4,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
GENERATION: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "do_sample": True, "eos_token_id": [2, 7]}
TOKENIZER_CONFIG: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": {"content": "<unk>"},
}
TOKENIZER: dict[str, Any] = {
    "added_tokens": [
        {"id": 0, "content": "<unk>", "special": True},
        {"id": 1, "content": "<s>", "special": True},
        {"id": 2, "content": "</s>", "special": True},
        {"id": 6, "content": "<tool>", "special": False},
        {"id": 7, "content": "<|im_end|>", "special": True},
    ],
    "post_processor": None,
    "model": {"type": "BPE", "vocab": VOCABULARY, "merges": []},
}

Edit = Callable[[dict[str, Any]], None]
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def layer_tensors(count: int = 4, prefix: str = "model.layers") -> dict[str, tuple[str, tuple[int, ...]]]:
    names = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")
    return {f"{prefix}.{n}.{name}.weight": ("BF16", (4, 4)) for n in range(count) for name in names}


def model_tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    ends = ("model.embed_tokens.weight", "lm_head.weight")
    return {
        **dict.fromkeys(ends, ("BF16", (8, 4))),
        "model.norm.weight": ("BF16", (4,)),
        **layer_tensors(),
    }


def header_of(tensors: Tensors) -> tuple[dict[str, Any], int]:
    """Header entries, data packed in the given order, and the number of data bytes."""
    header: dict[str, Any] = {}
    position = 0
    for name, (dtype, shape) in tensors.items():
        elements = 1
        for size in shape:
            elements *= size
        end = position + elements * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return header, position


def write_raw(path: Path, header: str | bytes, data: bytes = b"") -> Path:
    raw = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def write_safetensors(path: Path, tensors: Tensors) -> Path:
    header, size = header_of(tensors)
    return write_raw(path, json.dumps(header), bytes(size))


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_index(folder: Path, shards: Mapping[str, Iterable[str]]) -> Path:
    weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    return write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def make_checkpoint(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Tensors | None = None,
    generation: Mapping[str, Any] | None = GENERATION,
    tokenizer: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
) -> Path:
    """A complete checkpoint without a finding; ``config`` and its like are merged over the defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {**CONFIG, **(config or {})})
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    write_json(folder / "tokenizer.json", {**TOKENIZER, **(tokenizer or {})})
    write_json(folder / "tokenizer_config.json", {**TOKENIZER_CONFIG, **(tokenizer_config or {})})
    write_safetensors(folder / "model.safetensors", model_tensors() if tensors is None else tensors)
    return folder


def shard(folder: Path, count: int = 2) -> list[str]:
    """Split ``model.safetensors`` of a made checkpoint into shards with an index."""
    tensors = model_tensors()
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    parts = {name: dict(list(tensors.items())[number::count]) for number, name in enumerate(names)}
    for name, part in parts.items():
        write_safetensors(folder / name, part)
    write_index(folder, parts)
    return names
