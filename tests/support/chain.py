"""A model that always says the same: it thinks, calls a tool and stops. Made without training.

Attention and feed-forward parts are zero, so the next token depends on the last one only, and the output
matrix says which it is. Each part of the answer is one token of its own.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.support.cache import cached_folder, key_of, say
from tests.support.checkpoints import tiny_checkpoint
from tests.support.llama_cpp import SDIST, llama_cpp_source

RECIPE = "1"  # raise it when what this file makes changes
TEMPLATE = "Qwen-Qwen3-0.6B.jinja"
THOUGHT = "\nA tool knows that.\n"
CALL = '\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n'
_ADDED = ("<think>", THOUGHT, "</think>", "<tool_call>", CALL, "</tool_call>")
_SIZE = 256


def chain_checkpoint() -> Path:
    """The checkpoint, with Qwen3's own chat template; a few seconds the first time. Shared."""
    from importlib.metadata import version

    key = key_of(version("transformers"), version("torch"), SDIST.sha256, RECIPE)
    return cached_folder(f"model-chain-{key}", _make)


def _make(folder: Path) -> None:
    import torch
    import transformers

    say("making the chain checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_checkpoint("qwen3"))
    tokenizer.add_tokens([transformers.AddedToken(text, normalized=False) for text in _ADDED])
    end = "<|im_end|>"
    tokenizer.eos_token = end
    tokenizer.chat_template = (llama_cpp_source() / "models" / "templates" / TEMPLATE).read_text("utf-8")
    tokenizer.save_pretrained(folder)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=_SIZE,
        intermediate_size=_SIZE,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(end),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        embeddings = torch.randn(len(tokenizer), _SIZE)
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.zero_()
        # behind the generation prompt, and behind an empty thought
        for chain in (("\n", *_ADDED, end), ("\n\n", "<tool_call>")):
            tokens = [tokenizer.encode(text, add_special_tokens=False) for text in chain]
            ids = [token for (token,) in tokens]
            for token, following in pairwise(ids):
                model.lm_head.weight[following] += embeddings[token] * 0.1
    model.to(torch.bfloat16).save_pretrained(folder)
