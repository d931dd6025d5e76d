"""Which type each tensor gets, by llama.cpp's own rules.

Source: llama.cpp b11434, src/llama-quant.cpp: ``tensor_allows_quantization``,
``llama_tensor_get_type_impl``, ``tensor_type_fallback``, ``init_quantize_state_counters``; the
tensor order is ``weight_name_comparer`` (src/llama-model-loader.h). Everything here is pure; the
tests compare it with llama.cpp's quantiser itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ggufpack.quantize.types import FILE_TYPES, FileType, TensorType


@dataclass(frozen=True)
class ModelTraits:
    """What the rules ask of a model.

    Attributes:
        architecture: ``general.architecture``.
        block_count: all layers, next-token-prediction layers included (``n_layer_all``).
        prediction_layers: how many of them are next-token-prediction layers.
        expert_count: 0 for a dense model.
        head_count: attention heads of the first layer.
        head_count_kv: key/value heads of the first layer, 0 where it has none.
    """

    architecture: str
    block_count: int
    prediction_layers: int = 0
    expert_count: int = 0
    head_count: int = 0
    head_count_kv: int = 0

    @property
    def heads_per_kv(self) -> int:
        """``llama_hparams::n_gqa``."""
        return self.head_count // self.head_count_kv if self.head_count_kv else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp calls it ``LLM_TYPE_70B`` (src/models/*.cpp)."""
        layers = self.block_count - self.prediction_layers
        if self.architecture == "llama":
            return layers == 80 and self.head_count != self.head_count_kv
        return (self.architecture, layers) in {("qwen2", 80), ("olmo", 80), ("deci", 80), ("jais2", 68)}


@dataclass(frozen=True)
class TensorShape:
    """A tensor as the rules see it: ``dimensions`` without outer ones, ``columns`` per row."""

    name: str
    dimensions: int
    columns: int


class Category(Enum):
    """``tensor_category``: what a tensor is for, told by its name."""

    OUTPUT = "output"
    TOKEN_EMBEDDING = "token_embd"  # noqa: S105 - not a password
    ATTENTION_QKV = "attn_qkv"
    ATTENTION_KV_B = "attn_kv_b"
    ATTENTION_V = "attn_v"
    ATTENTION_K = "attn_k"
    ATTENTION_Q = "attn_q"
    ATTENTION_OUTPUT = "attn_output"
    FFN_UP = "ffn_up"
    FFN_GATE = "ffn_gate"
    FFN_DOWN = "ffn_down"
    OTHER = "other"


VALUE_LIKE = frozenset({Category.ATTENTION_V, Category.ATTENTION_QKV, Category.ATTENTION_KV_B})

_EXACT_NAMES = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.TOKEN_EMBEDDING,
    "per_layer_token_embd.weight": Category.TOKEN_EMBEDDING,
}
# in the order of tensor_get_category: the first match counts
_NAME_PARTS = (
    ("attn_qkv.weight", Category.ATTENTION_QKV),
    ("attn_kv_b.weight", Category.ATTENTION_KV_B),
    ("attn_v.weight", Category.ATTENTION_V),
    ("attn_k.weight", Category.ATTENTION_K),
    ("attn_q.weight", Category.ATTENTION_Q),
    ("attn_output.weight", Category.ATTENTION_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)
_NEVER_QUANTIZED = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(f"time_mix_{part}.weight" for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2")),
    *(f"time_mix_{part}.weight" for part in ("g1", "g2", "decay_w1", "decay_w2", "lerp_fused")),
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_NEVER_QUANTIZED_GLM5_NEXT = (
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
)
_AT_LEAST_Q8_GLM5_NEXT = ("attn_q_a", "attn_q_b", "nextn.eh_proj")
_FALLBACK = {
    TensorType.IQ4_XS: TensorType.IQ4_NL,
    TensorType.Q2_K: TensorType.Q4_0,
    TensorType.Q3_K: TensorType.Q4_0,
    TensorType.Q4_K: TensorType.Q5_0,
    TensorType.Q5_K: TensorType.Q5_1,
    TensorType.Q6_K: TensorType.Q8_0,
}
_LAYER = re.compile(r"blk\.\s*([+-]?\d+)\.?")


def category(name: str) -> Category:
    """The tensor's category (``tensor_get_category``)."""
    exact = _EXACT_NAMES.get(name)
    if exact is not None:
        return exact
    return next((found for part, found in _NAME_PARTS if part in name), Category.OTHER)


def file_order(name: str) -> tuple[int, bytes]:
    """Sort key of the tensors in a file (``weight_name_comparer``): by layer, then by name."""
    match = _LAYER.match(name)
    return (int(match[1]) if match else -1, name.encode())


def allows_quantization(tensor: TensorShape, architecture: str) -> bool:
    """Whether llama.cpp would quantise this tensor at all (``tensor_allows_quantization``)."""
    name = tensor.name
    if tensor.dimensions < 2 or not name.endswith("weight"):
        return False
    if name in ("position_embd.weight", "token_types.weight"):
        return False
    never = _NEVER_QUANTIZED + (_NEVER_QUANTIZED_GLM5_NEXT if architecture == "glm5-next" else ())
    return not any(part in name for part in never)


def choose_types(
    file_type: str, tensors: Sequence[TensorShape], traits: ModelTraits, *, has_imatrix: bool = False
) -> dict[str, TensorType | None]:
    """The type of each tensor in a file of this type; ``None`` keeps the converter's own type.

    Args:
        file_type: canonical name (``"Q4_K_M"``).
        tensors: all tensors, in ``file_order``: some rules count those before.
        traits: of the model.
        has_imatrix: whether there is an importance matrix, for whichever tensors. None of our types
            requires one (``tensor_requires_imatrix``); it changes the early ``ffn_down`` of four.
    """
    chooser = _Chooser(FILE_TYPES[file_type], tensors, traits, has_imatrix)
    return {tensor.name: chooser.choose(tensor) for tensor in tensors}


def use_more_bits(index: int, count: int) -> bool:
    """The first and last eighth of the layers and every third between (``use_more_bits``)."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


class _Chooser:
    """``quantize_state_impl``: the counters that the rules read while they go through a file."""

    def __init__(
        self, file_type: FileType, tensors: Sequence[TensorShape], traits: ModelTraits, has_imatrix: bool
    ) -> None:
        self.file = file_type.name
        self.base = file_type.base
        self.has_imatrix = has_imatrix
        self.traits = traits
        self.falcon = traits.architecture == "falcon"
        self.eight_experts = traits.expert_count == 8
        categories = [category(tensor.name) for tensor in tensors]
        self.tied = Category.OUTPUT not in categories
        self.value_count = sum(found in VALUE_LIKE for found in categories)
        self.values_seen = 0
        self.downs_seen = 0

    def choose(self, tensor: TensorShape) -> TensorType | None:
        if not allows_quantization(tensor, self.traits.architecture):
            return None
        if self.base.is_float:
            return self.base
        return _fall_back(self._by_category(tensor), tensor.columns)

    def _by_category(self, tensor: TensorShape) -> TensorType:
        kind = category(tensor.name)
        if self.traits.architecture == "glm5-next" and any(p in tensor.name for p in _AT_LEAST_Q8_GLM5_NEXT):
            return TensorType.Q8_0
        if kind is Category.OUTPUT or (self.tied and kind is Category.TOKEN_EMBEDDING):
            return self._output(tensor.columns)
        if kind in VALUE_LIKE:
            chosen = self._value(self.values_seen)
            self.values_seen += 1
            return chosen
        if kind is Category.FFN_DOWN:
            chosen = self._down(self._layer(tensor.name))
            self.downs_seen += 1
            return chosen
        if kind is Category.ATTENTION_K and self.eight_experts:
            return TensorType.Q8_0
        if kind is Category.ATTENTION_OUTPUT:
            return self._attention_output()
        return self.base

    def _layer(self, name: str) -> int:
        # experts' tensors are not consecutive in every file: there the name tells the layer
        match = _LAYER.match(name)
        return int(match[1]) if self.traits.expert_count > 1 and match else self.downs_seen

    def _output(self, columns: int) -> TensorType:
        if self.falcon or columns % self.base.block.weights:
            return TensorType.Q8_0
        return self.base if self.base is TensorType.Q8_0 else TensorType.Q6_K

    def _value(self, index: int) -> TensorType:
        if self.eight_experts:
            return TensorType.Q8_0
        chosen = self.base
        many_heads = self.traits.heads_per_kv >= 4
        if self.file == "Q2_K":
            chosen = TensorType.Q4_K if many_heads else TensorType.Q3_K
        elif self.file == "Q3_K_M":
            chosen = TensorType.Q5_K if index < 2 else TensorType.Q4_K
        elif self.file == "Q3_K_L" or (self.file in ("IQ4_NL", "IQ4_XS") and many_heads):
            chosen = TensorType.Q5_K
        elif self.file in ("Q4_K_M", "Q5_K_M") and use_more_bits(index, self.value_count):
            chosen = TensorType.Q6_K
        elif self.file == "Q4_K_S" and index < 4:
            chosen = TensorType.Q5_K
        if self.traits.is_70b and chosen in (TensorType.Q3_K, TensorType.Q4_K):
            return TensorType.Q5_K
        return chosen

    def _down(self, layer: int) -> TensorType:
        layers = self.traits.block_count
        more = use_more_bits(layer, layers)
        if self.file == "Q2_K":
            return TensorType.Q3_K
        if self.file == "Q3_K_M":
            if layer < layers // 16:
                return TensorType.Q5_K
            return TensorType.Q4_K if more or not self.falcon else TensorType.Q3_K
        if self.file == "Q3_K_L":
            return TensorType.Q4_K if self.falcon else TensorType.Q5_K
        if self.file == "Q4_K_M" and self.falcon:
            if layer < layers // 16:
                return TensorType.Q6_K
            return TensorType.Q5_K if more else TensorType.Q4_K
        if self.file in ("Q4_K_M", "Q5_K_M") and more:
            return TensorType.Q6_K
        return self._early_down() if layer < layers // 8 else self.base

    def _early_down(self) -> TensorType:
        if self.file in ("IQ4_NL", "IQ4_XS") and not self.has_imatrix:
            return TensorType.Q5_K
        if self.file == "Q4_K_S" and not self.falcon:
            return TensorType.Q5_K
        guarded = {"Q4_0": TensorType.Q4_1, "Q5_0": TensorType.Q5_1} if self.has_imatrix else {}
        return guarded.get(self.file, self.base)

    def _attention_output(self) -> TensorType:
        if self.falcon:
            return TensorType.Q4_K if self.file == "Q3_K_L" else self.base
        if self.eight_experts:
            raised = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS")
            return TensorType.Q5_K if self.file in raised else self.base
        by_file = {"Q2_K": TensorType.Q3_K, "Q3_K_M": TensorType.Q4_K, "Q3_K_L": TensorType.Q5_K}
        return by_file.get(self.file, self.base)


def _fall_back(chosen: TensorType, columns: int) -> TensorType:
    """The nearest type whose block divides the row (``tensor_type_fallback``)."""
    if columns % chosen.block.weights == 0:
        return chosen
    smaller = _FALLBACK.get(chosen, chosen)
    return smaller if columns % smaller.block.weights == 0 else TensorType.F16
