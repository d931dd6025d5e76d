"""Full example records, as JSON data: the real dataclasses through the real ``to_json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggufpack.proofs import (
    EmbeddingFidelity,
    Estimate,
    Fidelity,
    LogprobCheck,
    ParsedCheck,
    PromptCase,
    SmokeResult,
    StopCheck,
    TextCosine,
    TextFidelity,
    TokenChoice,
    TokenizerMiss,
    TokenizerParity,
    Verification,
    WorstToken,
)
from ggufpack.spec import BuildResult, BuildStatus, Finding, GgufFile, Package, Severity, Stage

# mean KL, top-1, perplexity, bytes: SmolLM2-135M's, near enough
FIGURES = {
    "Q8_0": (0.00061, 0.9887, 17.934, 144_811_072),
    "Q6_K": (0.00241, 0.9731, 17.96, 138_351_104),
    "Q4_K_M": (0.0312, 0.9084, 18.45, 105_453_920),
    "Q2_K": (0.2841, 0.7426, 23.87, 88_201_984),
}
SOURCE_PERPLEXITY = 17.921
TEXTS = (
    ("a letter", "English"),
    ("encyclopedia", "English"),
    ("Brief", "German"),
    ("lettre", "French"),
    ("письмо", "Russian"),
    ("手紙", "Japanese"),
    ("sort.py", "code"),
    ("query.sql", "code"),
    ("support chat", "chat"),
    ("two tools", "chat"),
)
_SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)
_NAMES = (
    *("one question", "system and question", "two turns", "three turns with system", "six turns"),
    *(
        "empty user",
        "only spaces",
        "spaces at the edges",
        "newlines at the edges",
        "characters outside ASCII",
    ),
    *("text that looks like markup", "two answers in a row"),
)


def _prompt(content: str) -> str:
    return f"{_SYSTEM}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def prompts(*, wrong: bool = False) -> tuple[PromptCase, ...]:
    """A dozen conversations; with ``wrong`` one is trimmed and one is refused."""
    cases = [
        PromptCase(name, True, _prompt(name), _prompt(name), 34 + index, 34 + index)
        for index, name in enumerate(_NAMES)
    ]
    if wrong:
        cases[7] = PromptCase(
            "spaces at the edges",
            False,
            _prompt("  two before, two after  "),
            _prompt("two before, two\u200b after"),
            41,
            38,
            "at character 117",
        )
        cases[11] = PromptCase(
            "two answers in a row", False, _prompt("Hi"), None, 30, None, "500: roles must alternate"
        )
    return tuple(cases)


def fidelity(quantization: str, *, broken: bool = False) -> Fidelity:
    """Figures of one type; ``broken`` is a conversion that rounding does not explain."""
    kl, top1, perplexity, _size = FIGURES[quantization]
    if broken:
        kl, top1, perplexity = 30 * kl, top1 - 0.3, perplexity * 2.4
    centre = math.log10(kl) - 0.6
    edges = [-8 + 0.5 * index for index in range(21)]
    bins = [round(4096 * math.exp(-(((edge + 0.25 - centre) / 0.8) ** 2))) for edge in edges]
    total = sum(bins)
    by_text = tuple(
        TextFidelity(
            name,
            kind,
            total // len(TEXTS),
            kl * (0.6 + 0.13 * index),
            top1 - 0.002 * index,
            12.0 + index,
            12.0 + index + 4 * kl * (index + 1),
        )
        for index, (name, kind) in enumerate(TEXTS)
    )
    return Fidelity(
        texts="built-in",
        texts_digest="9f" * 32,
        tokens=total,
        reference="torch 2.15.0 float32 on cpu",
        engine="xllamacpp 2026.10.11549",
        kl=Estimate(kl, kl * 0.94, kl * 1.07),
        kl_quantiles={"50": kl * 0.3, "90": kl * 2.4, "99": kl * 11, "100": kl * 61},
        kl_histogram=tuple(zip(edges, bins, strict=True)),
        top1=Estimate(top1, top1 - 0.006, min(top1 + 0.006, 1.0)),
        source_perplexity=SOURCE_PERPLEXITY,
        perplexity=perplexity,
        delta_perplexity=Estimate(
            perplexity - SOURCE_PERPLEXITY,
            (perplexity - SOURCE_PERPLEXITY) * 0.8 - 0.01,
            (perplexity - SOURCE_PERPLEXITY) * 1.2 + 0.01,
        ),
        own_kl=Estimate(0.000021, 0.00002, 0.000022),
        expected_kl=FIGURES[quantization][0] * 0.98,
        error=0.31 if broken else 0.004,
        error_limit=0.05,
        verdict="broken" if broken else "sound",
        detail=(
            "The logits are 0.31 from what the rounded weights give, over the limit of 0.05: it is broken"
            if broken
            else "The logits are what the rounded weights give, within 0.004"
        ),
        by_text=by_text,
        worst=_worst(kl),
    )


def _worst(kl: float) -> tuple[WorstToken, ...]:
    return (
        WorstToken(
            "query.sql",
            "SELECT name, count(*)\n  FROM orders\n GROUP BY name\nHAVING",
            " count",
            kl * 61,
            (
                TokenChoice(" count", 0.61, 0.24),
                TokenChoice(" sum", 0.2, 0.47),
                TokenChoice(" name", 0.05, 0.09),
            ),
        ),
        WorstToken(
            "письмо",
            "Дорогая Анна, спасибо за твоё",
            " письмо",
            kl * 48,
            (TokenChoice(" письмо", 0.44, 0.19), TokenChoice(" внимание", 0.12, 0.31)),
        ),
        WorstToken(
            "sort.py",
            "    if len(items) < 2:\n        return items\n",
            "    ",
            kl * 40,
            (TokenChoice("    ", 0.88, 0.61), TokenChoice("\n", 0.07, 0.3), TokenChoice("def", 0.01, 0.02)),
        ),
    )


def verification(quantization: str, *, wrong: bool = False) -> Verification:
    """One type, everything checked but what a small model never shows."""
    sound = Verification(
        model=f"smollm2-demo:{quantization.lower()}",
        engine="Ollama 0.33.0",
        level="fidelity",
        prompts=prompts(),
        smoke=SmokeResult(True, "The capital of France is Paris.", "stop", 8),
        tokenizer=TokenizerParity(412),
        stops=(
            StopCheck("<|im_end|>", "token", True),
            StopCheck("<|im_end|>", "string", True),
            StopCheck("<|endoftext|>", "token", None, "the model never gave it"),
        ),
        parsed=(ParsedCheck("tool_calls", None, "the model called no tool"),),
        fidelity=fidelity(quantization),
        logprobs=LogprobCheck(3, 0.0008, 0.02),
        quantization=quantization,
    )
    if not wrong:
        return sound
    return replace(
        sound,
        prompts=prompts(wrong=True),
        smoke=SmokeResult(
            False, "Paris<|im_end|>\n<|im_start|>", "length", 128, ("<|im_end|>",), "it did not end by itself"
        ),
        tokenizer=TokenizerParity(
            412, (TokenizerMiss("digits", "1234 ", ("12", "34", " "), ("1", "2", "3", "4", " ")),)
        ),
        stops=(
            StopCheck("<|im_end|>", "token", False, "128 tokens and no end"),
            StopCheck("<|im_end|>", "string", True),
        ),
        parsed=(ParsedCheck("tool_calls", False, "the call stands in the content"),),
        fidelity=fidelity(quantization, broken=True),
        logprobs=LogprobCheck(3, 0.31, 0.02, "conversation 'one question'"),
    )


FINDINGS = (
    Finding(
        "GP424",
        Severity.INFO,
        "The chat template is ChatML, equal in 140 conversations: written as a Go TEMPLATE.",
        Path("smollm2/chat_template.jinja"),
        "chat_template",
    ),
    Finding(
        "GP207",
        Severity.WARNING,
        "lm_head.weight is stored although the embeddings are tied.",
        Path("smollm2/model.safetensors"),
        "lm_head.weight",
        "Remove it, or set tie_word_embeddings to false.",
    ),
    Finding("GP604", Severity.UNCHECKED, "smollm2-demo:q2_k: prompt lengths were not compared"),
)


def record(types: Sequence[str] = tuple(FIGURES), *, wrong: Sequence[str] = ()) -> dict[str, Any]:
    """A record as it is read back from ``ggufpack.json``; the types in ``wrong`` failed every check."""
    proofs = tuple(verification(name, wrong=name in wrong) for name in types)
    return record_of(types, proofs, "failed" if wrong else "verified")


def record_of(
    types: Sequence[str], proofs: Sequence[Verification], status: BuildStatus = "verified"
) -> dict[str, Any]:
    """A record with these verifications."""
    folder = Path("smollm2-demo")
    files = tuple(
        GgufFile(
            name,
            folder / f"smollm2-demo-{name}.gguf",
            FIGURES[name][3],
            f"{index + 10:x}" * 64,
            {"F32": 61, name[:4]: 211},
        )
        for index, name in enumerate(types)
    )
    result = BuildResult(
        package=Package(
            "smollm2-demo", folder, files, {name: folder / f"Modelfile.{name}" for name in types}
        ),
        status=status,
        registered=() if status == "failed" else tuple(f"smollm2-demo:{name.lower()}" for name in types),
        engine="Ollama 0.33.0",
        template_strategy="go",
        verifications=tuple(proofs),
        findings=FINDINGS,
        seconds={
            Stage.CHECKPOINT: 0.222,
            Stage.CONVERSION: 13.798,
            Stage.REGISTRY: 0.8,
            Stage.VERIFICATION: 127.022,
        },
        peak_worker_rss=894_963_712,
        record=folder / "ggufpack.json",
    ).to_json()
    del result["folder"], result["record"]
    for file in result["files"]:
        file["path"] = Path(file["path"]).name
    result["modelfiles"] = {name: f"Modelfile.{name}" for name in types}
    made: dict[str, Any] = {
        "schema": 1,
        "ggufpack": "0.1.0",
        "created": "2026-11-24T07:39:43+00:00",
        "checkpoint": {
            "folder": "/home/anna/runs/smollm2/checkpoint-400",
            "architecture": "LlamaForCausalLM",
            "files": {
                name: f"{index:x}" * 64
                for index, name in enumerate(
                    ("chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json")
                )
            },
            "tensors": {
                "count": 272,
                "bytes": 269_030_016,
                "dtypes": {"BF16": 272},
                "weights_digest": "not computed",
            },
        },
        "request": {
            "quantizations": list(types),
            "template": "auto",
            "system": None,
            "parameters": {"stop": ["<|im_end|>"]},
            "verify": "fidelity",
            "register": True,
            "allow": [],
            "trust_remote_code": False,
        },
        "converter": {
            "state": "ok",
            "package": "llama-cpp-python",
            "version": "0.3.36",
            "commit": "0c1e57098bba43ac29e6e3b677cdceebdd22334f",
            "build": "b11434",
        },
        "chat_template": None,
        "imatrix": None,
        "versions": {"python": "3.11.7", "torch": "2.15.0", "transformers": "5.23.0", "ollama": "0.6.3"},
        "result": result,
    }
    back: dict[str, Any] = json.loads(json.dumps(made))
    return back


EMBEDDING = EmbeddingFidelity(
    texts="built-in 1",
    texts_digest="9f" * 32,
    count=18,
    dimensions=384,
    reference="sentence-transformers 6.2.0, torch 2.15.0 float32 on cpu",
    engine="Ollama 0.33.0",
    cosine_min=0.99896,
    cosine_mean=0.99955,
    expected_min=0.99949,
    expected_mean=0.99976,
    rounding_min=0.99954,
    similarity_difference=0.0113,
    similarity_rank=0.99898,
    limit=0.99667,
    verdict="sound",
    detail="the lowest cosine is 0.99949",
    decoded_min=0.999995,
    decoded_limit=0.999936,
    truncated=0.99955,
    by_text=(
        TextCosine("hindi", "hi", 45, 0.973, 0.974, True),
        TextCosine("letter", "en", 106, 0.9997, 0.9998),
    ),
)
EMBEDDING_PROOF = Verification(
    "minilm:q8_0",
    "Ollama 0.33.0",
    "fidelity",
    smoke=SmokeResult(True, "384 dimensions", "embedding", 0),
    tokenizer=TokenizerParity(169),
    quantization="Q8_0",
    embedding=EMBEDDING,
)
