"""Are all layers there, and complete? llama.cpp's converter does not ask when there is no index.

A layer's tensors are compared by pattern: the name with the layer's number taken out. Layers of
hybrid and mixture-of-experts models differ on purpose, so a lacking tensor counts only when the
layer has nothing that another layer does not have too: a layer of another kind (a dense first
layer, a convolution) has tensors of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.wording import some
from ggufpack.errors import TensorFileError
from ggufpack.spec import Finding

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|h)\.(\d{1,6})(?=\.)")
# towers beside the language model have their own number of layers in their own sub-configuration
_TOWER = re.compile(
    r"vision|visual|image|audio|speech|whisper|resampler|qformer|projector|connector|mtp|talker|vit|draft"
)
# pruned models (DeciLM, Nemotron-NAS) describe each layer, and a layer may be empty
_PRUNED_KEYS = ("block_configs", "_heads_config")
# other models whose layers differ on purpose
_MIXED_KEYS = ("layers_block_type", "hybrid_override_pattern", "num_kv_shared_layers")
# kinds of layer_types that have the same tensors; transformers 5 writes them for most models
_SAME_TENSORS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_LAYER_COUNT_KEYS = ("n_layers", "num_hidden_layers", "n_layer", "num_layers")  # the converter's order
# ModernBERT normalises its embedding instead
_NOT_IN_FIRST_LAYER = {"attn_norm.weight"}
_PER_LAYER_KEYS = ("layer_types", "layers_block_type", "hybrid_override_pattern")
_EXTRA_LAYER_KEYS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")

_NAMED_LAYERS = 6  # in a message
# The converter makes a table of every name that a layer could have, for each layer. The deepest models
# have some hundred; DeepNet was tried with a thousand.
MAX_LAYERS = 10_000

Layers = dict[int, set[str]]


def check_layers(tensor_names: Iterable[str], config: Mapping[str, Any], folder: Path) -> tuple[Finding, ...]:
    """Compare the layers in the tensor names with each other and with ``config`` (text part merged in).

    Raises:
        TensorFileError: more than ``MAX_LAYERS``; a layer that the configuration names has no tensor at
            all; or one layer of a model of equal layers, not the first, lacks tensors that every other
            layer has.
    """
    groups = group_by_layer(tensor_names)
    text = {prefix: layers for prefix, layers in groups.items() if not _TOWER.search(prefix)}
    count = _layer_count(config)
    if type(count) is int and count > MAX_LAYERS:
        raise TensorFileError(
            f"{folder / 'config.json'} names more than {MAX_LAYERS:,} layers.",
            action="Correct num_hidden_layers.",
            path=folder / "config.json",
            key="num_hidden_layers",
        )
    if not text or type(count) is not int or count < 1:
        reason = "config.json gives no number of layers" if text else "no tensor name has a layer number"
        return (make_finding("GP211", f"Whether layers are missing was not checked: {reason}.", path=folder),)
    findings: list[Finding] = []
    main = max(text, key=lambda prefix: len(text[prefix]))
    pruned = any(config.get(key) for key in _PRUNED_KEYS)
    variable = pruned or _layers_differ(config)
    two_stacks = bool(config.get("is_encoder_decoder"))
    for prefix, layers in groups.items():
        # an encoder-decoder has two stacks and one num_hidden_layers, which is one of the two
        expected = count if prefix == main and not two_stacks else max(layers) + 1
        # "projector.layers.0" and ".2" with an activation between them is complete
        if prefix == main or (two_stacks and prefix in text):
            findings += _check_absent(prefix, layers, expected, folder, may_be_empty=pruned)
        findings += _check_equal(prefix, layers, expected, folder, variable=variable or prefix != main)
    if not two_stacks:
        findings += _check_surplus(main, text[main], count, config, folder)
    return tuple(findings)


def group_by_layer(tensor_names: Iterable[str]) -> dict[str, Layers]:
    """Stack prefix (``"model.layers"``) → layer number → patterns of its tensors.

    Only the first number in a name counts, so experts stay apart in the pattern.
    """
    groups: dict[str, Layers] = {}
    for name in tensor_names:
        match = _LAYER.search(name)
        if match:
            prefix, rest = name[: match.start(1) - 1], name[match.end(1) + 1 :]
            groups.setdefault(prefix, {}).setdefault(int(match.group(1)), set()).add(rest)
    return groups


def _layer_count(config: Mapping[str, Any]) -> object:
    number = next((config[key] for key in _LAYER_COUNT_KEYS if key in config), None)
    # Nemotron-H and its like have one entry a layer instead of a number
    entries = next((config[key] for key in _PER_LAYER_KEYS if isinstance(config.get(key), (list, str))), None)
    return len(entries) if number is None and entries else number


def _layers_differ(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types")
    named = {kind for kind in kinds if isinstance(kind, str)} if isinstance(kinds, list) else set()
    return any(config.get(key) for key in _MIXED_KEYS) or (len(named) > 1 and not named <= _SAME_TENSORS)


def _check_absent(
    prefix: str, layers: Layers, expected: int, folder: Path, *, may_be_empty: bool
) -> list[Finding]:
    count = expected - sum(number < expected for number in layers)
    if not count:
        return []
    # config.json may name any number
    absent = list(islice((number for number in range(expected) if number not in layers), _NAMED_LAYERS))
    message = (
        f"{folder}: {count} of {expected} layers have no tensor: "
        f"{some((f'{prefix}.{number}' for number in absent), _NAMED_LAYERS, of=count)}."
    )
    if may_be_empty:
        return [make_finding("GP209", message, path=folder, key=f"{prefix}.{absent[0]}")]
    raise TensorFileError(
        message,
        action="Copy the missing shards, or correct num_hidden_layers in config.json.",
        path=folder,
        key=f"{prefix}.{absent[0]}",
    )


def _check_equal(
    prefix: str, layers: Layers, expected: int, folder: Path, *, variable: bool
) -> list[Finding]:
    numbers = [number for number in layers if number < expected]
    if len(numbers) < 3:
        return []  # of two layers, neither says which of them is right
    counts = Counter(pattern for number in numbers for pattern in layers[number])
    common = {pattern for pattern, times in counts.items() if times > len(numbers) / 2}
    lacking: dict[int, set[str]] = {
        number: common - layers[number]
        for number in numbers
        # nothing of its own, so it is not a layer of another kind
        if common - layers[number] and layers[number] <= common
    }
    if lacking.get(0) == _NOT_IN_FIRST_LAYER:
        del lacking[0]
    if not lacking:
        return []
    names = [f"{prefix}.{number}.{rest}" for number in sorted(lacking) for rest in sorted(lacking[number])]
    message = f"{folder}: {len(lacking)} of {len(numbers)} layers lack tensors: {some(names)}."
    others_equal = all(layers[number] == common for number in numbers if number not in lacking)
    # a first layer without what later ones get from the layer before is a design (Zaya, Inkling)
    by_design = variable or 0 in lacking
    if len(lacking) == 1 and others_equal and not by_design:
        raise TensorFileError(
            message, action="Copy the shards again, or save the checkpoint again.", path=folder, key=names[0]
        )
    return [
        make_finding(
            "GP209",
            message,
            path=folder,
            key=names[0],
            action="Check that the model is made this way; otherwise save the checkpoint again.",
        )
    ]


def _check_surplus(
    prefix: str, layers: Layers, count: int, config: Mapping[str, Any], folder: Path
) -> list[Finding]:
    extra = sum(config[key] for key in _EXTRA_LAYER_KEYS if type(config.get(key)) is int)
    surplus = sorted(number for number in layers if number >= count + extra)
    if not surplus:
        return []
    return [
        make_finding(
            "GP210",
            f"config.json names {count} layers, and there are tensors of more: "
            f"{some(f'{prefix}.{number}' for number in surplus)}.",
            path=folder / "config.json",
            key="num_hidden_layers",
            action="Correct num_hidden_layers; transformers ignores these tensors.",
        )
    ]
