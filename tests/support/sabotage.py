"""Broken GGUF files, as wrong converters would have written them.

``SABOTAGES`` has writers: each takes a sound GGUF of the llama architecture, of any quantisation, and
writes a copy with one mistake in it. llama.cpp loads all of them. Rows are moved as stored bytes; values
are changed by decoding, changing and encoding again in the same type, so what is not the mistake is as
exact as in the sound file, except for one more rounding of the tensors that were changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

from ggufpack.quantize.kernels import load_kernels
from ggufpack.quantize.types import TensorType
from ggufpack.verification.fidelity.builtin import PLAIN

Floats = npt.NDArray[np.float32]
Edit = Callable[["Content"], None]
Sabotage = Callable[[Path, Path], None]

_SEED = 7
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_NORMAL, _CONTROL = 1, 3  # llama.cpp's token types


class SabotageError(Exception):
    """This file has nothing that the mistake could be made in."""


@dataclass(frozen=True)
class Value:
    """One key: what the file stores, with its type; ``item`` is the type of an array's elements."""

    type: GGUFValueType
    value: Any
    item: GGUFValueType | None = None


@dataclass(frozen=True)
class Tensor:
    """Rows as they are stored: uint8 for a quantised type and BF16, otherwise the floats."""

    type: GGMLQuantizationType
    rows: npt.NDArray[Any]

    def with_rows(self, rows: npt.NDArray[Any]) -> Tensor:
        return Tensor(self.type, np.ascontiguousarray(rows))

    @property
    def values(self) -> Floats:
        """Decoded, float32, in the shape of the weights."""
        return np.array(quants.dequantize(self.rows, self.type), dtype=np.float32)

    def encoded(self, values: Floats) -> Tensor:
        """These values in this tensor's type."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        if self.type in _FLOATS:
            return Tensor(self.type, quants.quantize(values, self.type))
        kind = TensorType(int(self.type))
        out = np.empty(kind.size(values.size), np.uint8)
        load_kernels().encode(values, TensorType.F32, values.shape[-1], [(kind, out)])
        return Tensor(self.type, out.reshape(self.rows.shape))


@dataclass
class Content:
    """All of a GGUF, to be changed."""

    architecture: str
    keys: dict[str, Value]
    tensors: dict[str, Tensor]

    @property
    def layers(self) -> int:
        return int(self.number("block_count"))

    @property
    def middle(self) -> int:
        """A layer that is neither the first nor the last."""
        return self.layers // 2

    def number(self, key: str) -> float:
        """A number of the model's own keys (``block_count``)."""
        return float(self.keys[f"{self.architecture}.{key}"].value)

    def set_number(self, key: str, value: float) -> None:
        """Set one of them; a new one is a float."""
        full = f"{self.architecture}.{key}"
        kind = self.keys[full].type if full in self.keys else GGUFValueType.FLOAT32
        self.keys[full] = Value(kind, value if kind is GGUFValueType.FLOAT32 else int(value))

    def tokenizer(self, key: str) -> list[Any]:
        """A copy of one of the tokenizer's lists; SabotageError where there is none."""
        full = f"tokenizer.ggml.{key}"
        if full not in self.keys:
            raise SabotageError(f"the file has no {full}")
        return list(self.keys[full].value)

    def set_tokenizer(self, key: str, items: list[Any]) -> None:
        old = self.keys[f"tokenizer.ggml.{key}"]
        self.keys[f"tokenizer.ggml.{key}"] = Value(old.type, items, old.item)

    def swap(self, first: str, second: str) -> None:
        tensors = self.tensors
        tensors[first], tensors[second] = tensors[second], tensors[first]

    def change(self, name: str, change: Callable[[Floats], Floats]) -> None:
        """Replace a tensor's values."""
        tensor = self.tensors[name]
        self.tensors[name] = tensor.encoded(change(tensor.values))


def read(path: Path) -> Content:
    """The whole content of a GGUF; tensors are mapped, not loaded."""
    status = path.stat()
    content = _read(path, status.st_mtime_ns, status.st_size)
    return Content(content.architecture, dict(content.keys), dict(content.tensors))


@lru_cache(maxsize=2)  # gguf-py takes seconds for a large vocabulary
def _read(path: Path, _changed: int, _size: int) -> Content:
    reader = GGUFReader(path)
    keys = {
        field.name: Value(
            field.types[0],
            field.contents(),
            field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None,
        )
        for field in reader.fields.values()
        if not field.name.startswith("GGUF.")
    }
    tensors = {tensor.name: Tensor(tensor.tensor_type, tensor.data) for tensor in reader.tensors}
    return Content(str(keys["general.architecture"].value), keys, tensors)


def write(content: Content, path: Path) -> None:
    """A GGUF of this content."""
    writer = GGUFWriter(path, content.architecture)
    for name, value in content.keys.items():
        if name not in ("general.architecture", "general.alignment"):  # the writer has its own
            writer.add_key_value(name, value.value, value.type, value.item)
    for name, tensor in content.tensors.items():
        writer.add_tensor(name, tensor.rows, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _unpermuted(content: Content, name: str, heads: int) -> None:
    """Undo ``LlamaModel.permute`` (conversion/llama.py): rows move as they are stored."""
    rows = content.tensors[name].rows
    size = rows.shape[0] // heads
    back = rows.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
    content.tensors[name] = content.tensors[name].with_rows(back)


def _heads(content: Content) -> int:
    return int(content.number("attention.head_count"))


def _kv_heads(content: Content) -> int:
    return int(content.number("attention.head_count_kv"))


def _q_and_k_not_permuted(content: Content) -> None:
    """The converter treats the model as one whose rope needs no permutation."""
    for layer in range(content.layers):
        _unpermuted(content, f"blk.{layer}.attn_q.weight", _heads(content))
        _unpermuted(content, f"blk.{layer}.attn_k.weight", _kv_heads(content))


def _k_of_one_layer_not_permuted(content: Content) -> None:
    """A shard whose k took another path through the converter than the rest."""
    _unpermuted(content, f"blk.{content.middle}.attn_k.weight", _kv_heads(content))


def _rope_base_tenth(content: Content) -> None:
    """rope_theta is read from a place where it is not, and a default is written."""
    content.set_number("rope.freq_base", content.number("rope.freq_base") / 10)


def _rope_base_half(content: Content) -> None:
    """rope_theta of the base model, not of the fine-tune that changed it."""
    content.set_number("rope.freq_base", content.number("rope.freq_base") / 2)


def _rope_scaled(content: Content) -> None:
    """A rope_scaling that was meant for long contexts only is written as always on."""
    content.keys[f"{content.architecture}.rope.scaling.type"] = Value(GGUFValueType.STRING, "linear")
    content.set_number("rope.scaling.factor", 2.0)


def _llama3_rope_factors(content: Content) -> None:
    """Llama 3's long-context factors are written for a model without them, or left out of one with them."""
    if content.tensors.pop("rope_freqs.weight", None) is not None:
        return
    size = int(content.number("rope.dimension_count")) // 2
    factors = np.ones(size, np.float32)
    factors[size // 2 :] = 8.0
    content.tensors["rope_freqs.weight"] = Tensor(GGMLQuantizationType.F32, factors)


def _heads_of_half_the_size(content: Content) -> None:
    """head_dim is computed, and the config's own is not looked at: twice as many heads of half the size."""
    for key in ("attention.head_count", "attention.head_count_kv"):
        content.set_number(key, content.number(key) * 2)
    size = content.number("rope.dimension_count") / 2
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        content.set_number(key, size)
    content.tensors.pop("rope_freqs.weight", None)  # would be of the old size


def _norm_eps_hundredfold(content: Content) -> None:
    """rms_norm_eps is not read, and the wrong default is written."""
    key = "attention.layer_norm_rms_epsilon"
    content.set_number(key, content.number(key) * 100)


def _norm_missing(content: Content) -> None:
    """A norm's tensor is not found, and ones are put there."""
    content.change(f"blk.{content.middle}.ffn_norm.weight", np.ones_like)


def _norms_swapped(content: Content) -> None:
    """The two norms of a layer are mapped to each other's names."""
    content.swap(f"blk.{content.middle}.attn_norm.weight", f"blk.{content.middle}.ffn_norm.weight")


def _norms_plus_one(content: Content) -> None:
    """Gemma's rule, which stores norms less one, is applied to a model that does not."""
    for name in [name for name in content.tensors if name.endswith("_norm.weight")]:
        content.change(name, lambda values: values + 1)


def _gate_and_up_swapped(content: Content) -> None:
    """A fused gate_up_proj is split in the wrong order."""
    for layer in range(content.layers):
        content.swap(f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.ffn_up.weight")


def _gate_and_up_of_one_layer_swapped(content: Content) -> None:
    """The same in one layer, whose names are different in the checkpoint."""
    content.swap(f"blk.{content.middle}.ffn_gate.weight", f"blk.{content.middle}.ffn_up.weight")


def _layers_swapped(content: Content) -> None:
    """Layers are ordered by name as text: 10 stands before 2."""
    first, second = content.middle, content.middle - 1
    suffixes = [name.split(".", 2)[2] for name in content.tensors if name.startswith(f"blk.{first}.")]
    for suffix in suffixes:
        content.swap(f"blk.{first}.{suffix}", f"blk.{second}.{suffix}")


def _down_negated(content: Content) -> None:
    """The sign of a scale is lost when a tensor is dequantised."""
    content.change(f"blk.{content.middle}.ffn_down.weight", np.negative)


def _down_zero(content: Content) -> None:
    """A tensor's data is never written: the file has a hole there."""
    content.change(f"blk.{content.middle}.ffn_down.weight", np.zeros_like)


def _value_heads_swapped(content: Content) -> None:
    """A fused qkv is split by the wrong head count: two value heads change places, in all layers."""
    heads = _kv_heads(content)
    if heads < 2:
        raise SabotageError("the file has one value head")
    for layer in range(content.layers):
        tensor = content.tensors[f"blk.{layer}.attn_v.weight"]
        rows = tensor.rows.reshape(heads, -1, tensor.rows.shape[-1])
        order = [1, 0, *range(2, heads)]
        content.tensors[f"blk.{layer}.attn_v.weight"] = tensor.with_rows(
            rows[order].reshape(tensor.rows.shape)
        )


def _embeddings_shifted(content: Content) -> None:
    """A padding row is dropped at the front of the vocabulary instead of its end."""
    tensor = content.tensors["token_embd.weight"]
    content.tensors["token_embd.weight"] = tensor.with_rows(np.roll(tensor.rows, 1, axis=0))


def _head_shuffled(content: Content) -> None:
    """The head belongs to another vocabulary; a tied model gets one of its own."""
    tensor = content.tensors.get("output.weight", content.tensors["token_embd.weight"])
    order = np.random.default_rng(_SEED).permutation(tensor.rows.shape[0])
    content.tensors["output.weight"] = tensor.with_rows(tensor.rows[order])


def _head_of_the_base_model(content: Content) -> None:
    """A head from before the training stands beside the tied one that was trained, or instead of it."""
    tensor = content.tensors.get("output.weight", content.tensors["token_embd.weight"])
    values = tensor.values
    noise = np.random.default_rng(_SEED).standard_normal(values.shape, dtype=np.float32)
    content.tensors["output.weight"] = tensor.encoded(values + 0.3 * values.std() * noise)


def _adapter_not_merged(content: Content) -> None:
    """The base model was converted: a low-rank change of q and v in every layer is not there."""
    random = np.random.default_rng(_SEED)
    for layer in range(content.layers):
        for name in (f"blk.{layer}.attn_q.weight", f"blk.{layer}.attn_v.weight"):
            content.change(name, lambda values: values - 0.1 * _low_rank(values, random))


def _low_rank(values: Floats, random: np.random.Generator) -> Floats:
    """Of rank 4, with the norm of ``values``."""
    left = random.standard_normal((values.shape[0], 4), dtype=np.float32)
    right = random.standard_normal((4, values.shape[1]), dtype=np.float32)
    change = left @ right
    return np.asarray(change * (np.linalg.norm(values) / np.linalg.norm(change)), np.float32)


def _scale_of_nine_tenths(content: Content) -> None:
    """One tensor is dequantised with a scale that is not its own."""
    content.change(f"blk.{content.middle}.ffn_up.weight", lambda values: values * np.float32(0.9))


def _damaged_scales(content: Content) -> None:
    """A kernel writes a wrong scale into every eighth block of one tensor."""

    def damage(values: Floats) -> Floats:
        blocks = values.reshape(-1, 32)
        blocks[::8] *= 0.5
        return blocks.reshape(values.shape)

    content.change(f"blk.{content.middle}.attn_output.weight", damage)


def _merges_swapped(content: Content) -> None:
    """Two merges that compete for a piece change places: ``X Y`` and ``Y Z``."""
    merges = content.tokenizer("merges")
    first, second = _competing(merges)
    merges[first], merges[second] = merges[second], merges[first]
    content.set_tokenizer("merges", merges)


def _competing(merges: list[str]) -> tuple[int, int]:
    """Two merges such that a word of the built-in letter is cut otherwise when they change places."""
    ranks = {(first, second): rank for rank, (first, second) in enumerate(m.split(" ") for m in merges)}
    letter = PLAIN[0][2]
    for plain in sorted(set(re.findall("(?<= )[a-z]{4,8}(?= )", letter))):
        word = f"Ġ{plain}"
        cut = _cut(word, ranks)
        inside = [pair for pair in ranks if "".join(pair) in word]
        for first in inside:
            for second in inside:
                if first[1] == second[0] and ranks[first] != ranks[second]:
                    changed = {**ranks, first: ranks[second], second: ranks[first]}
                    if _cut(word, changed) != cut:
                        return ranks[first], ranks[second]
    raise SabotageError("no two merges compete")


def _cut(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: the merge of the lowest rank first."""
    pieces = list(word)
    while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
        best = min(pairs, key=lambda pair: ranks[pair])
        at = list(pairwise(pieces)).index(best)
        pieces[at : at + 2] = ["".join(best)]
    return pieces


def _pre_tokenizer_default(content: Content) -> None:
    """The converter does not know the pre-tokenizer and writes ``default``."""
    content.keys["tokenizer.ggml.pre"] = Value(GGUFValueType.STRING, "default")


def _tokens_swapped(content: Content) -> None:
    """Two ids exchange their texts: the vocabulary is sorted otherwise than the embeddings."""
    tokens, types = content.tokenizer("tokens"), content.tokenizer("token_type")
    words = (token for marks in "Ġ▁" for token in (f"{marks}the", f"{marks}of", f"{marks}to", f"{marks}in"))
    found = [tokens.index(word) for word in words if word in tokens]
    ordinary = [index for index in found if types[index] == _NORMAL]
    if len(ordinary) < 2:
        raise SabotageError("the file has no two of the words that are looked for")
    first, second = ordinary[:2]
    tokens[first], tokens[second] = tokens[second], tokens[first]
    content.set_tokenizer("tokens", tokens)


def _bos_flipped(content: Content) -> None:
    """add_bos_token is not what the tokenizer does."""
    key = "tokenizer.ggml.add_bos_token"
    default = content.keys["tokenizer.ggml.model"].value == "llama"
    old = content.keys[key].value if key in content.keys else default
    content.keys[key] = Value(GGUFValueType.BOOL, not old)


def _special_token_is_text(content: Content) -> None:
    """An added token is not marked as special: the last of them is cut like other text."""
    types = content.tokenizer("token_type")
    special = [index for index, kind in enumerate(types) if kind == _CONTROL]
    if not special:
        raise SabotageError("the file has no special token")
    used = [index for index in special if content.tokenizer("tokens")[index] == "<|im_start|>"]
    types[(used or special)[-1]] = _NORMAL
    content.set_tokenizer("token_type", types)


def _writer(edit: Edit) -> Sabotage:
    def sabotage(source: Path, target: Path) -> None:
        content = read(source)
        edit(content)
        write(content, target)

    sabotage.__doc__ = edit.__doc__
    return sabotage


def _named() -> Iterator[tuple[str, Edit]]:
    for edit in (*IN_WEIGHTS, *IN_KEYS, *IN_TOKENIZER):
        yield edit.__name__.strip("_").replace("_", " "), edit


IN_WEIGHTS: tuple[Edit, ...] = (
    _q_and_k_not_permuted,
    _k_of_one_layer_not_permuted,
    _norm_missing,
    _norms_swapped,
    _norms_plus_one,
    _gate_and_up_swapped,
    _gate_and_up_of_one_layer_swapped,
    _layers_swapped,
    _down_negated,
    _down_zero,
    _value_heads_swapped,
    _embeddings_shifted,
    _head_shuffled,
    _head_of_the_base_model,
    _adapter_not_merged,
    _scale_of_nine_tenths,
    _damaged_scales,
    _llama3_rope_factors,
)
IN_KEYS: tuple[Edit, ...] = (
    _rope_base_tenth,
    _rope_base_half,
    _rope_scaled,
    _heads_of_half_the_size,
    _norm_eps_hundredfold,
)
# what the logits for given token ids do not show: only the cut of a text does
IN_TOKENIZER: tuple[Edit, ...] = (
    _merges_swapped,
    _pre_tokenizer_default,
    _tokens_swapped,
    _bos_flipped,
    _special_token_is_text,
)

#: name: writes a broken copy of a sound llama GGUF; its docstring says which mistake it stands for
SABOTAGES: Mapping[str, Sabotage] = {name: _writer(edit) for name, edit in _named()}
#: the names of those that only the tokenizer shows
TOKENIZER_SABOTAGES = frozenset(edit.__name__.strip("_").replace("_", " ") for edit in IN_TOKENIZER)
