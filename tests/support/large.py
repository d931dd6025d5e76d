"""Checkpoints as large as the largest models, in sparse files: real headers, and holes for weights.

Only headers, the index, the configuration and a tokenizer take disk. Every weight reads as zero.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.layout import INDEX

Shapes = Mapping[str, tuple[int, ...]]
_BF16_BYTES = 2


@dataclass(frozen=True)
class Large:
    """A model that exists on paper.

    Attributes:
        config: ``config.json``.
        tensors: name → shape, all BF16, in the order in which they are saved.
        shards: number of files, of nearly equal size.
    """

    config: Mapping[str, Any]
    tensors: Shapes
    shards: int

    @property
    def parameters(self) -> int:
        """Weights of all tensors."""
        return sum(map(prod, self.tensors.values()))


def llama_405b(shards: int = 400) -> Large:
    """Llama-3.1-405B: 126 layers of 16,384, 8 key/value heads of 128 (its own config.json).

    With 128,320 tokens instead of 128,256: the tests' tokenizer has one more than its own.
    """
    hidden, middle, layers, vocabulary = 16_384, 53_248, 126, 128_320
    config = {
        **_common("LlamaForCausalLM", "llama", hidden, middle, layers, vocabulary),
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    layer = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (1024, hidden),
        "self_attn.v_proj.weight": (1024, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        **_feed_forward("mlp", hidden, middle),
        **_norms(hidden),
    }
    return Large(config, _stack([layer] * layers, hidden, vocabulary), shards)


def deepseek_v3(experts: int = 256, shards: int = 163) -> Large:
    """DeepSeek-V3 in BF16: 61 layers of 7,168, the first three dense (its own config.json)."""
    hidden, middle, expert_middle, layers, vocabulary, heads = 7168, 18_432, 2048, 61, 129_280, 128
    query, latent, rope, nope, value = 1536, 512, 64, 128, 128
    config = {
        **_common("DeepseekV3ForCausalLM", "deepseek_v3", hidden, middle, layers, vocabulary),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 163_840,
        "rope_theta": 10_000.0,
        "q_lora_rank": query,
        "kv_lora_rank": latent,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": nope,
        "v_head_dim": value,
        "moe_intermediate_size": expert_middle,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
    attention = {
        "self_attn.q_a_proj.weight": (query, hidden),
        "self_attn.q_a_layernorm.weight": (query,),
        "self_attn.q_b_proj.weight": (heads * (nope + rope), query),
        "self_attn.kv_a_proj_with_mqa.weight": (latent + rope, hidden),
        "self_attn.kv_a_layernorm.weight": (latent,),
        "self_attn.kv_b_proj.weight": (heads * (nope + value), latent),
        "self_attn.o_proj.weight": (hidden, heads * value),
        **_norms(hidden),
    }
    dense = {**attention, **_feed_forward("mlp", hidden, middle)}
    sparse: dict[str, tuple[int, ...]] = {
        **attention,
        "mlp.gate.weight": (experts, hidden),
        "mlp.gate.e_score_correction_bias": (experts,),
        **_feed_forward("mlp.shared_experts", hidden, expert_middle),
    }
    for expert in range(experts):
        sparse |= _feed_forward(f"mlp.experts.{expert}", hidden, expert_middle)
    return Large(config, _stack([dense] * 3 + [sparse] * (layers - 3), hidden, vocabulary), shards)


def write_large(model: Large, folder: Path, tokenizer: Path) -> Path:
    """Write ``model`` to ``folder``, with the tokenizer of the checkpoint ``tokenizer``; the folder."""
    folder.mkdir(parents=True)
    for file in tokenizer.iterdir():
        if file.name.startswith("tokenizer") or file.name in (
            "special_tokens_map.json",
            "chat_template.jinja",
        ):
            shutil.copyfile(file, folder / file.name)
    given = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))
    ids = {key: given.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "config.json").write_text(json.dumps({**model.config, **ids}, indent=2), encoding="utf-8")
    weight_map: dict[str, str] = {}
    for number, names in enumerate(_shards(model), 1):
        file_name = f"model-{number:05d}-of-{model.shards:05d}.safetensors"
        _write_shard(folder / file_name, {name: model.tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file_name)
    index = {"metadata": {"total_size": model.parameters * _BF16_BYTES}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return folder


def _common(
    architecture: str, model_type: str, hidden: int, middle: int, layers: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def _feed_forward(prefix: str, hidden: int, middle: int) -> Shapes:
    return {
        f"{prefix}.gate_proj.weight": (middle, hidden),
        f"{prefix}.up_proj.weight": (middle, hidden),
        f"{prefix}.down_proj.weight": (hidden, middle),
    }


def _norms(hidden: int) -> Shapes:
    return {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}


def _stack(layers: Sequence[Shapes], hidden: int, vocabulary: int) -> Shapes:
    return {
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{
            f"model.layers.{number}.{name}": shape
            for number, layer in enumerate(layers)
            for name, shape in layer.items()
        },
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }


def _shards(model: Large) -> Iterator[list[str]]:
    """Names of each shard: as many bytes in each as whole tensors allow, and no shard empty."""
    names = list(model.tensors)
    weights, done, start = model.parameters, 0, 0
    for shard in range(1, model.shards + 1):
        end, last = start, len(names) - (model.shards - shard)
        while end < last and (
            end == start or shard == model.shards or done < weights * shard // model.shards
        ):
            done += prod(model.tensors[names[end]])
            end += 1
        yield names[start:end]
        start = end


def _write_shard(path: Path, tensors: Shapes) -> None:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        end = offset + prod(shape) * _BF16_BYTES
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + offset)
