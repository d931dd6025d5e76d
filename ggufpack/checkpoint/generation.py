"""generation_config.json: how the model is meant to be sampled, and where it stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.jsonfiles import is_finite, read_object
from ggufpack.spec import Finding

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class Generation:
    """Sampling parameters and token ids. ``None`` and ``()`` mean: not given, or not usable.

    transformers applies the sampling parameters only when ``do_sample`` is true; its default is
    false, which is greedy decoding.

    Attributes:
        path: the file the sampling parameters come from; ``config.json`` when there is no
            generation_config.json, as ``GenerationConfig.from_model_config`` has it.
    """

    path: Path
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None


def read_generation(
    folder: Path, config: Mapping[str, Any], config_path: Path, *, generates: bool = True
) -> tuple[Generation, tuple[Finding, ...]]:
    """Read ``generation_config.json``; ``config`` (text part merged in) stands in for what it lacks.

    Args:
        folder: the checkpoint.
        config: config.json.
        config_path: its path.
        generates: whether the model generates text at all; an encoder has no findings here.

    Raises:
        CheckpointFileError: the file is unreadable or not a JSON object.
    """
    path = folder / GENERATION_CONFIG
    findings: list[Finding] = []
    if path.exists() or path.is_symlink():
        values = _Values(read_object(path), path, findings)
    else:
        values = _Values(config, config_path, findings)
        if generates:
            findings.append(
                make_finding(
                    "GP110",
                    f"There is no {GENERATION_CONFIG}; sampling parameters are taken from config.json.",
                    path=folder,
                    key=GENERATION_CONFIG,
                )
            )
    fallback = _Values(config, config_path, findings)
    eos_ids = values.token_ids("eos_token_id")
    if not eos_ids and generates:
        eos_ids = fallback.token_ids("eos_token_id") if values.path != config_path else ()
        taken = "; the one in config.json is taken" if eos_ids else ""
        findings.append(
            make_finding(
                "GP111",
                f"{values.path.name} has no eos_token_id{taken}.",
                path=values.path,
                key="eos_token_id",
                action="Write the id of the token that ends a turn into generation_config.json.",
            )
        )
    bos = values.token_ids("bos_token_id") or fallback.token_ids("bos_token_id")
    pad = values.token_ids("pad_token_id") or fallback.token_ids("pad_token_id")
    generation = Generation(
        path=values.path,
        do_sample=values.boolean("do_sample"),
        temperature=values.number("temperature", 0, math.inf),
        top_k=values.integer("top_k", 0),
        top_p=values.number("top_p", 0, 1),
        min_p=values.number("min_p", 0, 1),
        typical_p=values.number("typical_p", 0, 1),
        repetition_penalty=values.number("repetition_penalty", 0, math.inf),
        max_new_tokens=values.integer("max_new_tokens", 1),
        eos_token_ids=eos_ids,
        bos_token_id=bos[0] if bos else None,
        pad_token_id=pad[0] if pad else None,
    )
    return generation, tuple(dict.fromkeys(findings))


class _Values:
    """Typed access; a value of the wrong type or range becomes a GP112 finding and is left out."""

    def __init__(self, mapping: Mapping[str, Any], path: Path, findings: list[Finding]) -> None:
        self.mapping = mapping
        self.path = path
        self.findings = findings

    def number(self, key: str, low: float, high: float) -> float | None:
        value = self.mapping.get(key)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value):
            if low <= value <= high:
                return float(value)
            span = f"from {low} to {high}" if math.isfinite(high) else f"of at least {low}"
            self._wrong(key, value, f"a number {span}")
            return None
        self._wrong(key, value, "a number")
        return None

    def integer(self, key: str, low: int) -> int | None:
        value = self.mapping.get(key)
        if value is None or (type(value) is int and value >= low):
            return value
        self._wrong(key, value, f"an integer of at least {low}")
        return None

    def boolean(self, key: str) -> bool | None:
        value = self.mapping.get(key)
        if value is None or isinstance(value, bool):
            return value
        self._wrong(key, value, "a boolean")
        return None

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id or a list of them, without repetitions and in order."""
        value = self.mapping.get(key)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        # llama.cpp-style -1 stands for "none" in some published configurations
        if any(type(item) is not int for item in ids):
            self._wrong(key, value, "a token id or a list of token ids")
            return ()
        return tuple(dict.fromkeys(item for item in ids if item >= 0))

    def _wrong(self, key: str, value: object, expected: str) -> None:
        self.findings.append(
            make_finding(
                "GP112",
                f"{self.path.name}: {key} must be {expected} and is {_short(value)}; it is ignored.",
                path=self.path,
                key=key,
                action=f"Correct {key} in {self.path.name}.",
            )
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
