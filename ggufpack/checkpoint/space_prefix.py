"""Where a SentencePiece tokenizer puts a space in front of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

SpacePrefix = Literal["always", "first", "never"]
_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_SPACE = "\u2581"


def space_prefix(
    config: Mapping[str, Any], fast: Mapping[str, Any] | None, files: Mapping[str, Path]
) -> SpacePrefix | None:
    """As tokenizer.json says; without one as transformers 5's LlamaTokenizer makes it of the settings."""
    if fast is not None:
        for step in _steps(fast.get("normalizer"), "normalizers"):
            if step.get("type") == "Prepend" and step.get("prepend") == _SPACE:
                return "always"
        for step in _steps(fast.get("pre_tokenizer"), "pretokenizers"):
            if step.get("type") == "Metaspace":
                scheme = step.get("prepend_scheme", "always")
                return scheme if scheme in ("always", "first", "never") else None
        return None
    if "tokenizer.model" not in files or config.get("tokenizer_class") not in _LLAMA_CLASSES:
        return None
    if config.get("add_prefix_space") is False:
        return "never"
    return "always" if config.get("legacy") is True else "first"


def _steps(part: object, key: str) -> list[Mapping[str, Any]]:
    """One step of tokenizer.json, or those of a sequence."""
    steps = part.get(key) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
