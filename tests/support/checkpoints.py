"""Tiny checkpoints of many architectures: random BF16 weights, tokenizers that the converter accepts.

Nothing but the locked sdist is fetched for them. BPE tokenizers come from the vocabulary files in
llama.cpp's own ``models/`` (the converter knows a BPE tokenizer by a hash, so an invented one is
refused); sentencepiece ones are trained here on llama.cpp's documentation. Rows are multiples of 256,
so that K-quants apply. Weights have a fixed seed; the cache key holds the versions that shape the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ggufpack import demo
from tests.support.cache import cached_folder, key_of, say
from tests.support.llama_cpp import SDIST, llama_cpp_source

RECIPE = "2"  # raise it when what this file makes changes
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
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class _Tiny:
    """How to make one: transformers' config class, a tokenizer maker, and what differs from ``_SIZES``.

    ``None`` leaves a key out.
    """

    config: str
    tokenizer: Callable[[Path], int]
    changes: Mapping[str, Any] = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"


def tiny_checkpoint(arch: str) -> Path:
    """The tiny checkpoint of one of ``TINY``'s names; a few seconds the first time.

    Raises:
        KeyError: an unknown name.
    """
    recipe = TINY[arch]
    versions = [version(name) for name in ("transformers", "torch", "sentencepiece")]
    key = key_of(*versions, SDIST.sha256, RECIPE, recipe.config, json.dumps(recipe.changes, sort_keys=True))
    return cached_folder(f"model-tiny-{arch}-{key}", lambda folder: _make(arch, recipe, folder))


def link_checkpoint(source: Path, target: Path) -> Path:
    """A copy of a checkpoint to change: symbolic links, so unlink a file before you write it."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    return target


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
    vocabulary = recipe.tokenizer(folder)
    sizes = {key: value for key, value in {**_SIZES, **recipe.changes}.items() if value is not None}
    config = getattr(transformers, recipe.config)(**sizes, vocab_size=vocabulary, **_token_ids(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = getattr(transformers, recipe.auto).from_config(config).to(torch.bfloat16)
    model.save_pretrained(folder, safe_serialization=True)


def _token_ids(folder: Path) -> dict[str, int | None]:
    """The ids that ``config.json`` names, from the tokenizer that was just written."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


# --- tokenizers ---------------------------------------------------------------


def _from_vocabulary_file(name: str) -> Callable[[Path], int]:
    """A Hugging Face tokenizer out of llama.cpp's ``models/ggml-vocab-NAME.gguf``."""

    def make(folder: Path) -> int:
        import transformers

        source = llama_cpp_source() / "models"
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=f"ggml-vocab-{name}.gguf")
        tokenizer.chat_template = _CHATML
        tokenizer.save_pretrained(folder)
        return len(tokenizer)

    return make


def _sentencepiece(folder: Path) -> int:
    """A ``tokenizer.model`` of 2,000 pieces with byte fallback, and the files that go with it."""
    import sentencepiece

    texts = sorted((llama_cpp_source() / "docs").rglob("*.md"))
    lines = [line for text in texts for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    size = 2000
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        pad_id=3,
        user_defined_symbols=["<|im_start|>", "<|im_end|>"],
        minloglevel=2,
        num_threads=1,  # more threads may order equal pieces differently
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "chat_template": _CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return size


def _wordpiece(folder: Path) -> int:
    """BERT's vocabulary, out of llama.cpp's ``models/ggml-vocab-bert-bge.gguf``, and a mean pooling.

    Without the pooling (sentence-transformers' files) llama-server stops at the first embedding.
    """
    import transformers
    from gguf import GGUFReader

    reader = GGUFReader(llama_cpp_source() / "models" / "ggml-vocab-bert-bge.gguf")
    # phantom space: llama.cpp stores word starts with U+2581 and continuations without "##"
    stored = [str(token) for token in reader.get_field("tokenizer.ggml.tokens").contents()]
    tokens = [_bert_token(token) for token in stored]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    modules = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}', encoding="utf-8")
    return len(tokens)


def _bert_token(stored: str) -> str:
    if stored.startswith("\u2581"):
        return stored[1:]
    return stored if stored.startswith("[") and stored.endswith("]") else f"##{stored}"


_QWEN = _from_vocabulary_file("qwen2")
_LLAMA3 = _from_vocabulary_file("llama-bpe")
_STARCODER = _from_vocabulary_file("starcoder")
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
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}

TINY: Mapping[str, _Tiny] = {
    "llama": _Tiny("LlamaConfig", _STARCODER),
    "llama3": _Tiny("LlamaConfig", _LLAMA3, {"tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE}),
    "llama-spm": _Tiny("LlamaConfig", _sentencepiece),
    "qwen2": _Tiny("Qwen2Config", _QWEN, {"tie_word_embeddings": True}),
    "qwen3": _Tiny("Qwen3Config", _QWEN, {"head_dim": 64}),
    "gemma2": _Tiny("Gemma2Config", _sentencepiece, {**_GEMMA, "query_pre_attn_scalar": 64}),
    "gemma3": _Tiny("Gemma3TextConfig", _sentencepiece, {**_GEMMA, "query_pre_attn_scalar": 64}),
    "phi3": _Tiny("Phi3Config", _sentencepiece, {"original_max_position_embeddings": 512}),
    "mistral": _Tiny("MistralConfig", _sentencepiece, {"head_dim": 64}),
    "mixtral": _Tiny("MixtralConfig", _sentencepiece, _MOE),
    # keeps all experts of a layer in one tensor
    "granitemoe": _Tiny("GraniteMoeConfig", _sentencepiece, _MOE),
    "starcoder2": _Tiny("Starcoder2Config", _STARCODER),
    "olmo2": _Tiny("Olmo2Config", _STARCODER),
    "granite": _Tiny("GraniteConfig", _STARCODER),
    "bert": _Tiny("BertConfig", _wordpiece, {"num_key_value_heads": None}, auto="AutoModel"),
}
