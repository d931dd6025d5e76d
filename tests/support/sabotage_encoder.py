"""Broken GGUF files of a BERT encoder, as wrong converters would have written them; see ``sabotage``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tests.support import sabotage
from tests.support.sabotage import Content

_MEAN, _CLS = 1, 2  # llama.cpp's pooling types


def _pooled_by_cls(content: Content) -> None:
    """pooling_mode is not read, and BERT's default is written."""
    assert content.number("pooling_type") == _MEAN
    content.set_number("pooling_type", _CLS)


def _token_types_zero(content: Content) -> None:
    """The embedding of the first segment, which every text gets, is left out."""
    content.change("token_types.weight", np.zeros_like)


def _q_and_v_swapped(content: Content) -> None:
    """Two tensors of a layer are mapped to each other's names."""
    for part in ("weight", "bias"):
        content.swap(f"blk.{content.middle}.attn_q.{part}", f"blk.{content.middle}.attn_v.{part}")


def _positions_shifted(content: Content) -> None:
    """RoBERTa's rule, whose positions begin behind the padding token, is applied to BERT."""
    content.change("position_embd.weight", lambda values: np.roll(values, -2, axis=0))


def _bias_missing(content: Content) -> None:
    """A bias is not found, and zeros are put there."""
    content.change(f"blk.{content.middle}.ffn_down.bias", np.zeros_like)


def _layers_swapped(content: Content) -> None:
    """Layers are ordered by name as text."""
    first, second = content.middle, content.middle - 1
    for name in [name for name in content.tensors if name.startswith(f"blk.{first}.")]:
        content.swap(name, name.replace(f"blk.{first}.", f"blk.{second}."))


def _scale_of_nineteen_twentieths(content: Content) -> None:
    """One tensor is dequantised with a scale that is not its own."""

    content.change(f"blk.{content.middle}.ffn_up.weight", lambda values: values * np.float32(0.95))


def _writer(edit: Callable[[Content], None]) -> sabotage.Sabotage:
    def write(source: Path, target: Path) -> None:
        content = sabotage.read(source)
        edit(content)
        sabotage.write(content, target)

    return write


def words_swapped(source: Path, target: Path) -> None:
    """Two words of the vocabulary have each other's ids."""
    content = sabotage.read(source)
    tokens = content.tokenizer("tokens")
    first, second = tokens.index("▁river"), tokens.index("▁boats")
    tokens[first], tokens[second] = tokens[second], tokens[first]
    content.set_tokenizer("tokens", tokens)
    sabotage.write(content, target)


def pooling_missing(source: Path, target: Path) -> None:
    """modules.json was not there, and nobody noticed."""
    content = sabotage.read(source)
    del content.keys[f"{content.architecture}.pooling_type"]
    sabotage.write(content, target)


#: name: writes a broken copy of a sound BERT GGUF, which still makes vectors
ENCODER_SABOTAGES: Mapping[str, sabotage.Sabotage] = {
    edit.__name__.strip("_").replace("_", " "): _writer(edit)
    for edit in (
        _pooled_by_cls,
        _token_types_zero,
        _q_and_v_swapped,
        _positions_shifted,
        _bias_missing,
        _layers_swapped,
        _scale_of_nineteen_twentieths,
    )
}
