"""Small adapter folders, written by hand so that every key and tensor can be made wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .builders import Tensors, write_json, write_safetensors

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "",
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": ["q_proj"],
    "init_lora_weights": True,
}
FACTORS: Tensors = {f"{PREFIX}.lora_A.weight": ("F32", (2, 4)), f"{PREFIX}.lora_B.weight": ("F32", (4, 2))}


def make_adapter(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Tensors | None = None,
    more: Tensors | None = None,
) -> Path:
    """An adapter of ``builders.make_checkpoint``; ``config`` and ``more`` are merged over the defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", {**CONFIG, **(config or {})})
    written = {**(FACTORS if tensors is None else tensors), **(more or {})}
    write_safetensors(folder / "adapter_model.safetensors", written)
    return folder
