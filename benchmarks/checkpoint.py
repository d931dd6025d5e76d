"""A checkpoint of Llama 3.2 1B's shape with random BF16 weights, written by numpy in chunks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from tests.support.cache import cached_folder, key_of, say
from tests.support.checkpoints import tiny_checkpoint

RECIPE = "1"  # raise it when what this file makes changes
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 2048, 8192, 32, 8
SHARDS = 3
_CHUNK = 1 << 22


def billion_checkpoint(layers: int = 16) -> Path:
    """1.24 billion weights with 16 layers; cached, about 30 s the first time."""
    tokenizer = tiny_checkpoint("llama3")
    key = key_of(RECIPE, tokenizer.name, str(layers))
    return cached_folder(f"model-bench-{layers}-{key}", lambda folder: write_checkpoint(folder, layers))


def write_checkpoint(folder: Path, layers: int) -> None:
    """Llama 3's tokenizer and rope scaling, tied embeddings, ``SHARDS`` files."""
    say(f"writing a checkpoint of {layers} layers")
    source = tiny_checkpoint("llama3")
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy2(file, folder / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.update(
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HIDDEN // HEADS,
        tie_word_embeddings=True,
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shapes = _shapes(layers, config["vocab_size"])
    names, weight_map = list(shapes), {}
    random = np.random.default_rng(0)
    for number in range(SHARDS):
        file_name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = {name: shapes[name] for name in names[number::SHARDS]}
        _write_shard(folder / file_name, part, random)
        weight_map.update(dict.fromkeys(part, file_name))
    size = sum(prod(shape) * 2 for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shapes(layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    narrow = KV_HEADS * HIDDEN // HEADS
    for layer in range(layers):
        own: Mapping[str, tuple[int, ...]] = {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (narrow, HIDDEN),
            "self_attn.v_proj": (narrow, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
            "mlp.up_proj": (FEED_FORWARD, HIDDEN),
            "mlp.down_proj": (HIDDEN, FEED_FORWARD),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in own.items()}
    return shapes


def _write_shard(path: Path, shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator) -> None:
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + prod(shape) * 2
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = prod(shape)
            while left:
                count = min(left, _CHUNK)
                values = random.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                values += np.float32(len(shape) == 1)  # norms are near one
                file.write(((values.view("<u4") + 0x8000) >> 16).astype("<u2").tobytes())
                left -= count
