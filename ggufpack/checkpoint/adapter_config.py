"""``adapter_config.json`` of PEFT: what it asks for, and what of it can be merged.

The rules are those of ``peft/tuners/lora`` (0.21: ``config.py``, ``layer.py``, ``model.py``). Whatever
PEFT would compute in another way than ``convert.lora`` is refused by name: a key that is not known
here may change the arithmetic, so it must have a value that says "not used".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.jsonfiles import is_finite, read_object, type_name
from ggufpack.checkpoint.layout import ADAPTER_CONFIG
from ggufpack.checkpoint.module_patterns import compile_pattern
from ggufpack.errors import AdapterError

# with values that change nothing in the merged weights
_WITHOUT_EFFECT = frozenset(
    {
        *("task_type", "auto_mapping", "base_model_class", "revision", "inference_mode", "peft_version"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
        *("bias", "megatron_config", "megatron_core", "runtime_config", "qalora_group_size"),
        *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "velora_config"),
        *("modules_to_save", "trainable_token_indices", "ensure_weight_tying", "lora_bias"),
        # read below
        *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "use_dora"),
        *("rank_pattern", "alpha_pattern", "fan_in_fan_out", "init_lora_weights"),
    }
)
_REFUSED = {
    "target_parameters": "LoRA on parameters without a module of their own (fused experts)",
    "layer_replication": "a model made longer by repeated layers",
    "use_qalora": "QALoRA, whose factors see pooled inputs of a quantised base",
    "alora_invocation_tokens": "Activated LoRA, which applies to some tokens only and cannot be merged",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing between adapters, which cannot be merged",
    "kasa_config": "KaSA, which changes the base weights",
    "monteclora_config": "MonteCLoRA",
}
# PEFT 0.21, tuners/lora/layer.py: pissa_init, olora_init, corda_init, loftq_init, lora_ga_init
_LARGEST_RANK = 1 << 31
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_HARMLESS_INIT = ("gaussian", "eva", "orthogonal")

MAX_NAME = 4096  # the longest path


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA's configuration.

    Attributes:
        path: of ``adapter_config.json``.
        base: ``base_model_name_or_path``, a folder or a name; empty when it is not there.
        rank, alpha: of modules that no pattern matches.
        ranks, alphas: regular expression → its modules' own.
        rank_stabilized: scaling alpha/√r (rsLoRA) in place of alpha/r.
        magnitudes: DoRA.
        transposed: ``fan_in_fan_out``: base weights are stored [inputs, outputs] (GPT-2's Conv1D).
        modules_to_save: names of modules that were trained whole.
        token_rows: module name → the rows of it that were trained (``trainable_token_indices``); the
            name is empty for "the input embedding".
        keeps_tying: PEFT kept tied embeddings tied in training (``ensure_weight_tying``).
    """

    path: Path
    base: str
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool
    magnitudes: bool
    transposed: bool
    modules_to_save: tuple[str, ...]
    token_rows: Mapping[str, tuple[int, ...]]
    keeps_tying: bool

    def rank_of(self, module: str) -> int:
        """r of a module (``model.layers.0.self_attn.q_proj``)."""
        return self.ranks.get(_pattern(self.ranks, module), self.rank)

    def scaling(self, module: str) -> float:
        """What B·A of a module is multiplied with (PEFT, ``LoraLayer.update_layer``)."""
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check an adapter folder's configuration.

    Raises:
        CheckpointFileError: no JSON object, or unreadable.
        AdapterError: not a LoRA, or one that cannot be merged exactly.
    """
    path = folder / ADAPTER_CONFIG
    reader = _Reader(path, read_object(path))
    _refuse_other_methods(reader)
    return AdapterConfig(
        path=path,
        base=reader.name("base_model_name_or_path"),
        rank=reader.rank("r", reader.values.get("r", 8)),
        alpha=reader.number("lora_alpha", reader.values.get("lora_alpha", 8)),
        ranks={key: reader.rank("rank_pattern", value) for key, value in reader.patterns("rank_pattern")},
        alphas={
            key: reader.number("alpha_pattern", value) for key, value in reader.patterns("alpha_pattern")
        },
        rank_stabilized=reader.flag("use_rslora"),
        magnitudes=reader.flag("use_dora"),
        transposed=reader.flag("fan_in_fan_out"),
        modules_to_save=reader.names("modules_to_save"),
        token_rows=reader.token_rows(),
        keeps_tying=reader.flag("ensure_weight_tying"),
    )


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """PEFT's ``get_pattern_key``: the first pattern that matches the end of the name."""
    return next((key for key in patterns if compile_pattern(key).match(module)), module)


def _refuse_other_methods(reader: _Reader) -> None:
    values = reader.values
    kind = values.get("peft_type")
    if kind != "LORA":
        raise reader.error(
            "peft_type",
            f"is {kind!r}; ggufpack merges LoRA only",
            "Merge the adapter with PEFT (merge_and_unload), and give the merged folder.",
        )
    for key, what in _REFUSED.items():
        if values.get(key):
            raise reader.error(
                key,
                f"asks for {what}, which ggufpack does not merge",
                "Merge the adapter with PEFT, if it can.",
            )
    init = str(values.get("init_lora_weights", True)).lower()
    if init.startswith(_CHANGES_BASE):
        raise reader.error(
            "init_lora_weights",
            f"is {init!r}, which changed the base weights before training, so the adapter does not fit the"
            " base model as it is published",
            "Save the adapter again with path_initial_model_for_weight_conversion, which converts it, or"
            " merge it in the training process.",
        )
    if init not in (*_HARMLESS_INIT, "true", "false", "none"):
        raise reader.error(
            "init_lora_weights", f"is {init!r}, which ggufpack does not know", "Merge the adapter with PEFT."
        )
    unknown = sorted(
        key for key, value in values.items() if key not in _WITHOUT_EFFECT | _REFUSED.keys() and value
    )
    if unknown:
        raise reader.error(
            unknown[0],
            "is a setting that ggufpack does not know, and it may change what the adapter computes",
            "Merge the adapter with PEFT, or remove the key if it changes nothing.",
        )


@dataclass(frozen=True)
class _Reader:
    """Values of ``adapter_config.json`` by their type."""

    path: Path
    values: Mapping[str, Any]

    def error(self, key: str, problem: str, action: str) -> AdapterError:
        return AdapterError(f"{self.path}: {key} {problem}.", action=action, path=self.path, key=key)

    def wrong(self, key: str, value: object, wanted: str) -> AdapterError:
        return self.error(key, f"must be {wanted}, and is {type_name(value)}", "Save the adapter again.")

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, (bool, type(None))):
            raise self.wrong(key, value, "true or false")
        return bool(value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, (str, type(None))):
            raise self.wrong(key, value, "a string")
        return value or ""

    def name(self, key: str) -> str:
        value = self.text(key)
        if len(value) > MAX_NAME or "\0" in value:
            raise self.error(key, "is neither a folder nor a name", "Save the adapter again.")
        return value

    def rank(self, key: str, value: object) -> int:
        if type(value) is not int or not 0 < value < _LARGEST_RANK:
            raise self.error(
                key, f"has {value!r:.40}, no positive integer of a rank's size", "Save the adapter again."
            )
        return value

    def number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
            raise self.error(key, f"has {value!r}, which is no number", "Save the adapter again.")
        return value

    def patterns(self, key: str) -> list[tuple[str, Any]]:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        for pattern in value:
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise self.error(
                    key,
                    f"has {pattern!r:.200}, which is not used: {error}",
                    "Name the modules in full, or save the adapter again.",
                ) from error
        return list(value.items())

    def names(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(key, value, "an array of names")
        return tuple(value)

    def token_rows(self) -> dict[str, tuple[int, ...]]:
        key = "trainable_token_indices"
        value = self.values.get(key) or {}
        by_module = {"": value} if isinstance(value, list) else value
        if not isinstance(by_module, dict):
            raise self.wrong(key, value, "an array of token ids")
        for rows in by_module.values():
            if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
                raise self.error(key, "has something else than token ids", "Save the adapter again.")
            if len(set(rows)) != len(rows):
                raise self.error(key, "names a token twice", "Save the adapter again.")
        return {name: tuple(rows) for name, rows in by_module.items()}
