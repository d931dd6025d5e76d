"""How a mixture of experts chooses: what config.json leaves open, and what llama.cpp cannot do as it says.

Read in llama.cpp b11434 (``build_moe_ffn`` calls and ``load_arch_hparams`` in src/models) and in
transformers 5 (``route_tokens_to_experts`` and the routers of each model).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.checkpoint.config import ModelConfig
from ggufpack.checkpoint.findings import make_finding
from ggufpack.spec import Finding

_NORM = "norm_topk_prob"
_SCORES = "scoring_func"


@dataclass(frozen=True)
class _Norm:
    """Whether the chosen experts' weights are made to sum to 1.

    Attributes:
        engine: llama.cpp does, whatever a file says.
        default: transformers does when config.json does not say.
    """

    engine: bool
    default: bool


# by model_type; only those where transformers follows config.json and llama.cpp does not
_NORMS: Mapping[str, _Norm] = {
    "qwen3_moe": _Norm(engine=True, default=False),
    "qwen3_next": _Norm(engine=True, default=True),
    "lfm2_moe": _Norm(engine=True, default=True),
    "mellum": _Norm(engine=True, default=True),
    "qwen2_moe": _Norm(engine=False, default=False),
    "olmoe": _Norm(engine=False, default=False),
}
# transformers always takes the sigmoid and writes no key; llama.cpp takes softmax, or refuses the file
_SIGMOID = frozenset(["deepseek_v3", "deepseek_v32", "glm4_moe_lite"])


def unwritten_keys(config: ModelConfig) -> dict[str, Any]:
    """Keys that transformers leaves out of config.json, with the values that the model's code has."""
    if config.model_type in _SIGMOID and _SCORES not in config.text:
        return {_SCORES: "sigmoid"}
    return {}


def check_experts(config: ModelConfig) -> list[Finding]:
    """GP118 for a key that is added, GP119 for a choice that llama.cpp does not make."""
    findings = [
        make_finding(
            "GP118",
            f"config.json has no {key}; the conversion takes {value!r}, as {config.model_type}'s code does.",
            path=config.path,
            key=key,
        )
        for key, value in unwritten_keys(config).items()
    ]
    norm = _NORMS.get(config.model_type)
    wanted = config.text.get(_NORM)
    if norm is not None and (norm.default if wanted is None else bool(wanted)) is not norm.engine:
        said = "is not there, which means" if wanted is None else "says"
        does = "always makes" if norm.engine else "never makes"
        findings.append(
            make_finding(
                "GP119",
                f"{_NORM} in config.json {said} {str(not norm.engine).lower()}, and llama.cpp {does} the "
                f"weights of the chosen experts of {config.model_type} sum to 1: it answers otherwise than "
                "the trained model.",
                path=config.path,
                key=_NORM,
                action="Correct it if the model was not trained so; if it was, llama.cpp cannot run it.",
            )
        )
    return findings
