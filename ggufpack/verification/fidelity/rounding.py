"""Child side: the source model as the GGUF's types round it, computed by torch.

Quantisation works on rows of a weight, and conversion moves rows but never mixes them, so rounding the
source's own rows by the type that the file gives to that tensor makes the model that the file has to be.
What the engine computes may differ from it by its arithmetic alone: llama.cpp rounds what goes into each
product to the partner type of the weights (``vec_dot_type`` in ggml-cpu.c), which is done here as well, on
some texts, to see how much that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ggufpack.errors import VerificationError
from ggufpack.gguf_header import GgufFileError, read_gguf_header
from ggufpack.quantize.kernels import Kernels, load_kernels
from ggufpack.quantize.types import TensorType

_CHUNK = 1 << 22  # weights rounded at a time
_SUPER = frozenset(kind for kind in TensorType if kind.block.weights == 256)
_LEVELS = 127.0  # of Q8_0, Q8_1 and Q8_K
# one tensor of the model, two of the file: they have one type
_FUSED = (("gate_up_proj", "gate_proj"), ("experts.w13", "experts.w1"))

Shape = tuple[int, ...]


@dataclass
class RoundedModel:
    """What was done to the model.

    Attributes:
        types: tensor type of the weight of each module that multiplies.
        unknown: weights whose tensor is not in the file under a name that gguf knows.
    """

    types: dict[str, TensorType] = field(default_factory=dict)
    unknown: int = 0


class GgufTypes:
    """Types and shapes of a GGUF's tensors, by the names of the source's.

    Args:
        path: the GGUF.
        gguf: the vendored module.

    Raises:
        VerificationError: not a whole GGUF.
    """

    def __init__(self, path: Path, gguf: Any) -> None:
        try:
            header = read_gguf_header(path)
        except GgufFileError as error:
            raise VerificationError(f"{path}: {error.problem}", action=error.action, path=path) from error
        self.imatrix = "quantize.imatrix.file" in header.keys
        self.tensors = {tensor.name: (tensor.type_number, tensor.shape) for tensor in header.tensors}
        architecture = header.text("general.architecture")
        numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        self.routed = bool(header.integer(f"{architecture}.expert_count"))
        blocks = header.integer(f"{architecture}.block_count")
        self._map = None
        if architecture in numbers and blocks is not None:
            self._map = gguf.get_tensor_name_map(numbers[architecture], blocks)

    def find(self, parameter: str) -> tuple[TensorType, Shape] | None:
        """Type and shape (the row length first) of a parameter's tensor, ``None`` when it is not found."""
        if self._map is None:
            return None
        for name in _names(parameter):
            known = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
            for tensor in (known, f"{known}.weight"):
                if tensor in self.tensors:
                    return self._of(tensor)
        return None

    def find_halves(self, parameter: str) -> tuple[tuple[TensorType, Shape], tuple[TensorType, Shape]] | None:
        """Types and shapes (ggml's) of MLA's keys and values, where ``parameter`` is of both together."""
        if self._map is None or not parameter.endswith(".kv_b_proj.weight"):
            return None
        for name in _names(parameter):
            known = self._map.get_name(name, try_suffixes=(".weight",)) or ""
            keys, values = (known.replace("attn_kv_b", f"attn_{part}_b") for part in "kv")
            if known not in self.tensors and keys in self.tensors and values in self.tensors:
                halves = self._of(keys), self._of(values)
                return None if halves[0] is None or halves[1] is None else (halves[0], halves[1])
        return None

    def _of(self, tensor: str) -> tuple[TensorType, Shape] | None:
        number, shape = self.tensors[tensor]
        return (TensorType(number), shape) if number in set(TensorType) else None

    def usual(self) -> TensorType:
        """The most frequent quantised type; F32 when there is none."""
        kinds = Counter(number for number, _ in self.tensors.values() if number in set(TensorType))
        del kinds[TensorType.F32]
        return TensorType(kinds.most_common(1)[0][0]) if kinds else TensorType.F32


def round_weights(model: Any, types: GgufTypes, gguf: Any) -> RoundedModel:
    """Round every matrix of ``model`` in place."""
    kernels = load_kernels()
    done = RoundedModel()
    transposed = {name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith("bias"):  # experts have matrices of biases, in F32
            continue
        module = name.rpartition(".")[0]
        halves = types.find_halves(name)
        if halves is not None:
            done.types[module] = halves[0][0]
            _round_halves(parameter, halves, kernels, gguf)
            continue
        found = types.find(name)
        if found is None:
            done.unknown += parameter.numel()
            found = types.usual(), (parameter.shape[-1],)
        kind, (columns, *_) = found
        done.types[module] = kind
        if kind is TensorType.F32:
            continue
        turned = module in transposed or columns != parameter.shape[-1]
        if turned and columns != parameter.shape[-2]:
            done.unknown += parameter.numel()
            continue
        with torch.no_grad():
            values = parameter.detach().float().cpu()
            values = values.transpose(-1, -2).contiguous() if turned else values.contiguous()
            rounded = torch.from_numpy(_rounded(values.numpy(), columns, kind, kernels, gguf))
            rounded = rounded.reshape(values.shape)
            parameter.copy_(rounded.transpose(-1, -2) if turned else rounded)
    return done


def _round_halves(
    parameter: Any,
    halves: tuple[tuple[TensorType, Shape], tuple[TensorType, Shape]],
    kernels: Kernels,
    gguf: Any,
) -> None:
    """MLA's ``kv_b_proj``: the file has its keys turned, head by head, and its values as they are."""
    (key_kind, key_shape), (value_kind, value_shape) = halves
    key_size, heads, value_size = key_shape[0], key_shape[2], value_shape[1]
    with torch.no_grad():
        by_head = parameter.detach().float().cpu().reshape(heads, key_size + value_size, -1)
        keys = by_head[:, :key_size].transpose(1, 2).contiguous()
        values = by_head[:, key_size:].contiguous()
        if key_kind is not TensorType.F32:
            keys = torch.from_numpy(_rounded(keys.numpy(), key_size, key_kind, kernels, gguf)).reshape(
                keys.shape
            )
        if value_kind is not TensorType.F32:
            rounded = _rounded(values.numpy(), values.shape[-1], value_kind, kernels, gguf)
            values = torch.from_numpy(rounded).reshape(values.shape)
        parameter.copy_(torch.cat([keys.transpose(1, 2), values], 1).reshape(parameter.shape))


@contextmanager
def rounded_inputs(model: Any, types: Mapping[str, TensorType]) -> Iterator[None]:
    """Meanwhile, what goes into each product is rounded as llama.cpp rounds it."""

    def hook(kind: TensorType) -> Any:
        def pre(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            # a module that gets its input by name rounds nothing: the limit is only lower for it
            return (_rounded_input(inputs[0], kind), *inputs[1:]) if inputs else inputs

        return pre

    multiplies = {
        name: module
        for name, module in model.named_modules()
        if name in types and not isinstance(module, torch.nn.Embedding)
    }
    head = model.get_output_embeddings()
    handles = [module.register_forward_pre_hook(hook(types[name])) for name, module in multiplies.items()]
    if head is not None and all(head is not module for module in multiplies.values()):
        # tied to the embeddings: the parameter has their name
        embeddings = next(
            name for name, module in model.named_modules() if module is model.get_input_embeddings()
        )
        if embeddings in types:
            handles.append(head.register_forward_pre_hook(hook(types[embeddings])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _names(parameter: str) -> Iterator[str]:
    """The names under which gguf may know a parameter: checkpoints and transformers differ in prefixes."""
    fused = [parameter.replace(joint, first) for joint, first in _FUSED if joint in parameter]
    elsewhere = [name.replace("block_sparse_moe", "mlp") for name in (parameter, *fused)]
    for name in dict.fromkeys((parameter, *fused, *elsewhere)):
        yield name
        yield name.replace("language_model.", "")
        yield name.removeprefix("model.")


def _rounded(
    values: NDArray[np.float32], columns: int, kind: TensorType, kernels: Kernels, gguf: Any
) -> NDArray[np.float32]:
    rows = values.reshape(-1, columns)
    result = np.empty_like(rows)
    step = max(1, _CHUNK // columns)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        encoded = np.empty(kind.size(part.size), np.uint8)
        kernels.encode(part, TensorType.F32, columns, [(kind, encoded)])
        by_row = encoded.reshape(len(part), -1)
        result[start : start + step] = gguf.quants.dequantize(by_row, gguf.GGMLQuantizationType(int(kind)))
    return result


def _rounded_input(values: Any, kind: TensorType) -> Any:
    if kind is TensorType.F32:
        return values
    if kind.is_float:
        return values.to(torch.float16 if kind is TensorType.F16 else torch.bfloat16).to(values.dtype)
    width = 256 if kind in _SUPER else 32
    if values.shape[-1] % width:
        return values
    blocks = values.unflatten(-1, (-1, width))
    step = blocks.abs().amax(-1, keepdim=True) / _LEVELS
    step = torch.where(step > 0, step, torch.ones_like(step))
    return ((blocks / step).round() * step).flatten(-2)
