"""Checks between files: does the tokenizer fit the tensors, do the tensors fit config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ggufpack.checkpoint.config import ModelConfig
from ggufpack.checkpoint.experts import check_experts
from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.generation import Generation
from ggufpack.checkpoint.header import TensorInfo
from ggufpack.checkpoint.tensors import TensorTable
from ggufpack.checkpoint.tokenizer import TOKENIZER_CONFIG, Tokenizer
from ggufpack.checkpoint.wording import some
from ggufpack.spec import Finding

_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|tokens_embed|embed_in)\.weight$"
    r"|^(?:backbone|rwkv|model)\.embeddings?\.weight$"
)
# per-layer and tower embeddings have their own number of rows
_OTHER_EMBEDDING = re.compile(
    r"vision|visual|image|audio|speech|mtp|talker|layers\.\d|decoder\.embed_tokens_per"
)
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|predictions\.decoder)\.weight$|^(?:output|head)\.weight$")
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_CONFIG_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "half": "F16", "bfloat16": "BF16"}


def cross_checks(
    config: ModelConfig, generation: Generation, tensors: TensorTable, tokenizer: Tokenizer
) -> tuple[Finding, ...]:
    """Everything that needs more than one file."""
    return (
        *check_experts(config),
        *_check_dtypes(config, tensors),
        *_check_embedding(config, tensors, tokenizer),
        *_check_head(config, tensors),
        *_check_vocabulary(config, generation, tensors, tokenizer),
        *_check_eos(config, generation, tokenizer),
    )


def find_embedding(tensors: Iterable[TensorInfo]) -> TensorInfo | None:
    """The token embedding, ``[rows, width]``; ``None`` when no name is known or more than one fits."""
    found = [
        tensor
        for tensor in tensors
        if _EMBEDDING.search(tensor.name)
        and not _OTHER_EMBEDDING.search(tensor.name)
        and len(tensor.shape) == 2
    ]
    return found[0] if len(found) == 1 else None


def _check_dtypes(config: ModelConfig, tensors: TensorTable) -> list[Finding]:
    counts = {dtype: number for dtype, number in tensors.dtypes.items() if dtype in _FLOATS}
    findings: list[Finding] = []
    if len(counts) > 1 and config.quantization is None:
        listed = ", ".join(f"{number} {dtype}" for dtype, number in counts.items())
        findings.append(
            make_finding("GP201", f"Tensors of several dtypes: {listed}.", path=config.path.parent)
        )
    expected = _CONFIG_DTYPES.get(config.dtype or "")
    if expected and counts and expected not in counts:
        findings.append(
            make_finding(
                "GP202",
                f"config.json says {config.dtype}, and the tensors are {some(counts)}, which counts.",
                path=config.path,
                key="dtype",
            )
        )
    return findings


def _check_embedding(config: ModelConfig, tensors: TensorTable, tokenizer: Tokenizer) -> list[Finding]:
    embedding = find_embedding(tensors.values())
    if embedding is None or config.vocab_size is None or embedding.shape[0] == config.vocab_size:
        return []
    return [
        make_finding(
            "GP206",
            f"{embedding.name} has {embedding.shape[0]:,} rows, and vocab_size in config.json is "
            f"{config.vocab_size:,} (the tokenizer has {_size(tokenizer)}).",
            path=config.path,
            key="vocab_size",
            action="Save the model again after resize_token_embeddings, or correct vocab_size.",
        )
    ]


def _size(tokenizer: Tokenizer) -> str:
    return "an unknown size" if tokenizer.size is None else f"{tokenizer.size:,} ids"


def _check_head(config: ModelConfig, tensors: TensorTable) -> list[Finding]:
    heads = [name for name in tensors if _HEAD.search(name) and not _OTHER_EMBEDDING.search(name)]
    if config.tied is True and heads:
        return [
            make_finding(
                "GP207",
                f"tie_word_embeddings is true, and {heads[0]} is stored. transformers ignores it "
                "and uses the embedding; llama.cpp's converter writes it as output.weight for most "
                "architectures, and the packaged model then answers with it.",
                path=tensors[heads[0]].file,
                key=heads[0],
                action="Save the model again with transformers, which leaves the tied head out.",
            )
        ]
    generates = config.architecture.endswith(("ForCausalLM", "LMHeadModel"))
    if config.tied is False and not heads and generates and find_embedding(tensors.values()) is not None:
        return [
            make_finding(
                "GP208",
                "tie_word_embeddings is false, and there is no lm_head.weight: transformers would fill it "
                "with random numbers, llama.cpp would use the embedding.",
                path=config.path,
                key="tie_word_embeddings",
                action="Save the model again, or set tie_word_embeddings to true if it was trained tied.",
            )
        ]
    return []


def _check_vocabulary(
    config: ModelConfig, generation: Generation, tensors: TensorTable, tokenizer: Tokenizer
) -> list[Finding]:
    size = config.vocab_size
    if size is None:
        embedding = find_embedding(tensors.values())
        size = None if embedding is None else embedding.shape[0]
    if size is None:
        return []
    outside = sorted(token for token in tokenizer.texts if token >= size)
    outside = outside or sorted(token.id for token in tokenizer.added_tokens if token.id >= size)
    if not outside:
        return []
    added = {token.id: token.text for token in tokenizer.added_tokens}
    listed = some(f"{number} {tokenizer.texts.get(number, added.get(number, ''))!r}" for number in outside)
    # With tokenizer.model the converter skips ids that are out of range (conversion/base.py,
    # _create_vocab_sentencepiece); otherwise it stops. Gemma 3 1B has its image token there.
    needed = {tokenizer.id(text) for text in (tokenizer.bos, tokenizer.eos, tokenizer.pad) if text}
    needed |= set(generation.eos_token_ids)
    if "tokenizer.model" in tokenizer.files and added.keys() >= set(outside) and needed.isdisjoint(outside):
        return [
            make_finding(
                "GP309",
                f"The model has {size:,} tokens; added tokens outside are left out: {listed}.",
                path=tokenizer.files["tokenizer.model"],
                key="added_tokens",
                action="Make sure that no prompt uses them.",
            )
        ]
    return [
        make_finding(
            "GP301",
            f"The model has {size:,} tokens, and {len(outside)} ids of the tokenizer are outside: {listed}.",
            path=tokenizer.files.get("tokenizer.json", config.path.parent),
            key="added_tokens",
            action="Call resize_token_embeddings(len(tokenizer)) before saving, or remove these tokens.",
        )
    ]


def _check_eos(config: ModelConfig, generation: Generation, tokenizer: Tokenizer) -> list[Finding]:
    if config.embeds:
        return []
    findings: list[Finding] = []
    known = {*tokenizer.texts, *(token.id for token in tokenizer.added_tokens)}
    unknown = [token for token in generation.eos_token_ids if token not in known]
    if tokenizer.texts and unknown:
        findings.append(
            make_finding(
                "GP308",
                f"eos_token_id names ids that the tokenizer does not have: {some(map(str, unknown))}.",
                path=generation.path,
                key="eos_token_id",
                action="Correct eos_token_id.",
            )
        )
    eos = None if tokenizer.eos is None else tokenizer.id(tokenizer.eos)
    if eos is not None and generation.eos_token_ids and eos not in generation.eos_token_ids:
        stops = some(repr(tokenizer.text(token) or token) for token in generation.eos_token_ids)
        findings.append(
            make_finding(
                "GP305",
                f"The tokenizer ends a text with {tokenizer.eos!r}, and generation stops at {stops} only.",
                path=tokenizer.files.get(TOKENIZER_CONFIG, generation.path),
                key="eos_token",
                action="Add its id to eos_token_id in generation_config.json if it ends the model's turn.",
            )
        )
    return findings
