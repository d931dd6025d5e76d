"""A PEFT adapter folder: its configuration, and which of its tensors does what to which module.

Only headers are read. The names are those of PEFT's ``get_peft_model_state_dict``
(``peft/utils/save_and_load.py``), which leaves the adapter's own name out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ggufpack.checkpoint.adapter_config import AdapterConfig, read_adapter_config
from ggufpack.checkpoint.header import TensorInfo, read_header
from ggufpack.checkpoint.layout import ADAPTER_WEIGHTS
from ggufpack.checkpoint.links import refuse_hostile_entries
from ggufpack.checkpoint.merge import Merge
from ggufpack.checkpoint.wording import some
from ggufpack.errors import AdapterError

_PICKLED_WEIGHTS = "adapter_model.bin"
_FLOATS = frozenset({"F32", "F16", "BF16"})
_PREFIX = "base_model.model."


class Role(str, Enum):
    """What an adapter's tensor is to its module."""

    FACTOR_A = "lora_A"
    FACTOR_B = "lora_B"
    BIAS_OF_B = "lora_B.bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    TOKEN_ROWS = "trainable_tokens_delta"  # noqa: S105 - tokens of a vocabulary
    WHOLE = "a trained parameter"


# the end of a name, after the module's
_ROLES = (
    (re.compile(r"\.lora_A\.weight$"), Role.FACTOR_A),
    (re.compile(r"\.lora_B\.weight$"), Role.FACTOR_B),
    (re.compile(r"\.lora_B\.bias$"), Role.BIAS_OF_B),
    (re.compile(r"\.lora_embedding_A$"), Role.EMBEDDING_A),
    (re.compile(r"\.lora_embedding_B$"), Role.EMBEDDING_B),
    (re.compile(r"\.lora_magnitude_vector(\.weight)?$"), Role.MAGNITUDE),
    (re.compile(r"\.token_adapter\.trainable_tokens_delta$"), Role.TOKEN_ROWS),
)
# wrappers of PEFT around a module whose own parameters are saved
_WRAPPERS = re.compile(r"\.(?:token_adapter\.base_layer|base_layer|modules_to_save)(?=\.[^.]+$)")
_UNTRAINED = re.compile(r"\.original_module\.[^.]+$")


@dataclass(frozen=True)
class Adapter:
    """An opened adapter.

    Attributes:
        folder: where it lies.
        weight: what its change of the base model is multiplied with.
        config: ``adapter_config.json``.
        modules: module name → role → tensor, for all roles but ``WHOLE``.
        whole: parameter name (``lm_head.weight``) → the tensor that replaces it.
    """

    folder: Path
    weight: float
    config: AdapterConfig
    modules: Mapping[str, Mapping[Role, TensorInfo]]
    whole: Mapping[str, TensorInfo]

    @property
    def weights_file(self) -> Path:
        """``adapter_model.safetensors``."""
        return self.folder / ADAPTER_WEIGHTS


@dataclass(frozen=True)
class Adaptation:
    """What makes a checkpoint of a base model.

    Attributes:
        base: the base model's folder.
        adapters: in the order in which they are added.
        merge: what they do to its tensors.
        vocabulary: number of rows of the embedding when it was resized.
    """

    base: Path
    adapters: tuple[Adapter, ...]
    merge: Merge
    vocabulary: int | None


def open_adapter(folder: Path, weight: float = 1.0) -> Adapter:
    """Read an adapter folder.

    Raises:
        CheckpointLayoutError: a pipe, a device, or a link to a file that is not a model's.
        CheckpointFileError: ``adapter_config.json`` cannot be read.
        TensorFileError: the weights are damaged.
        AdapterError: not a LoRA that can be merged, or its weights are not complete.
    """
    refuse_hostile_entries(folder)
    config = read_adapter_config(folder)
    path = folder / ADAPTER_WEIGHTS
    if not path.exists():
        raise _no_weights(folder)
    modules: dict[str, dict[Role, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    for tensor in read_header(path):
        if tensor.dtype not in _FLOATS:
            raise AdapterError(
                f"{path}: {tensor.name} is stored as {tensor.dtype}, and an adapter has F32, F16 or BF16.",
                action="Save the adapter again with PEFT.",
                path=path,
                key=tensor.name,
            )
        _sort_in(tensor, modules, whole)
    if not modules and not whole:
        raise AdapterError(f"{path} holds no tensor.", action="Save the adapter again.", path=path)
    adapter = Adapter(folder, weight, config, modules, whole)
    for module, parts in modules.items():
        _check_complete(adapter, module, parts)
    return adapter


def _sort_in(
    tensor: TensorInfo, modules: dict[str, dict[Role, TensorInfo]], whole: dict[str, TensorInfo]
) -> None:
    name = tensor.name.removeprefix(_PREFIX)
    for pattern, role in _ROLES:
        if pattern.search(name):
            modules.setdefault(pattern.sub("", name), {})[role] = tensor
            return
    if _UNTRAINED.search(name):
        return
    parameter = _WRAPPERS.sub("", name)
    if ".lora_" in parameter or ".token_adapter." in parameter:
        raise AdapterError(
            f"{tensor.file}: {tensor.name} is none of the tensors that PEFT saves of a LoRA.",
            action="Save the adapter with PEFT's save_pretrained, which leaves the adapter's name out.",
            path=tensor.file,
            key=tensor.name,
        )
    if parameter == name or parameter not in whole:
        whole[parameter] = tensor


def _check_complete(adapter: Adapter, module: str, parts: Mapping[Role, TensorInfo]) -> None:
    for one, other in (
        (Role.FACTOR_A, Role.FACTOR_B),
        (Role.FACTOR_B, Role.FACTOR_A),
        (Role.EMBEDDING_A, Role.EMBEDDING_B),
        (Role.EMBEDDING_B, Role.EMBEDDING_A),
        (Role.BIAS_OF_B, Role.FACTOR_B),
    ):
        if one in parts and other not in parts:
            raise _incomplete(adapter, parts[one], f"{module} has {one.value} and no {other.value}")
    factors = parts.get(Role.FACTOR_A) or parts.get(Role.EMBEDDING_A)
    magnitude = parts.get(Role.MAGNITUDE)
    if magnitude is not None and not (factors and adapter.config.magnitudes):
        why = "use_dora is not true" if factors else "there are no factors"
        raise _incomplete(adapter, magnitude, f"{module} has a magnitude vector, and {why}")
    if factors and adapter.config.magnitudes and magnitude is None:
        raise _incomplete(adapter, factors, f"use_dora is true, and {module} has no lora_magnitude_vector")


def _incomplete(adapter: Adapter, tensor: TensorInfo, what: str) -> AdapterError:
    return AdapterError(
        f"{adapter.weights_file}: {what}.",
        action="Save the adapter again, completely.",
        path=adapter.weights_file,
        key=tensor.name,
    )


def _no_weights(folder: Path) -> AdapterError:
    if (folder / _PICKLED_WEIGHTS).exists():
        return AdapterError(
            f"{folder} has its weights in {_PICKLED_WEIGHTS} only, a pickle, which can run code when it is"
            " loaded and is never opened here.",
            action="If you trust it, load it with PEFT and call save_pretrained, which writes safetensors.",
            path=folder / _PICKLED_WEIGHTS,
        )
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return AdapterError(
        f"{folder} has no {ADAPTER_WEIGHTS}: {some(names) or 'it is empty'}.",
        action="Copy the file into it, or save the adapter again.",
        path=folder / ADAPTER_WEIGHTS,
    )
