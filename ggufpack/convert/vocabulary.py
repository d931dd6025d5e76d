"""Worker side: the vocabulary's key-value pairs, kept as they are written.

Reading a tokenizer and packing its tokens one by one takes seconds, and the same ones for every
checkpoint of a run. ``set_vocab`` is the last step before the files are written (conversion/base.py,
``TextModel.prepare_metadata``), so what it does that counts is the pairs that it adds.

Their key is a digest of every file that could be a tokenizer's, of the converter's class and hyper-
parameters, of what it knows by then, and of the versions of all that reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blake3 import blake3

from ggufpack import __version__
from ggufpack.convert.layout import PackedValue
from ggufpack.tensor_cache import TensorCache

KIND = "VOCABULARY"
_FORMAT = 1  # raise it when the bytes of an entry change
_READERS = ("transformers", "tokenizers", "sentencepiece", "protobuf")
# what lies in a checkpoint's folder and is no tokenizer's: weights, the state of a training, texts
_OTHER_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".md", ".png", ".log", ".onnx", ".msgpack", ".h5"}
)
_OTHER_NAMES = frozenset(
    {"trainer_state.json", "generation_config.json", "all_results.json", "train_results.json"}
)
_SUBFOLDERS = ("additional_chat_templates",)  # transformers, tokenization_utils_base.py
_LENGTHS = struct.Struct("<IQ")


def set_vocabulary(model: Any, set_vocab: Callable[[], None], cache: TensorCache, converter: str) -> None:
    """Call ``set_vocab``, or take what it added to the writer the last time.

    Args:
        model: the converter's object; all but the vocabulary is in its ``gguf_writer``.
        set_vocab: its method.
        cache: where the pairs are kept.
        converter: digest of the vendored tree.
    """
    pairs = model.gguf_writer.kv_data[0]
    key = _key(model, converter)
    kept = cache.read_all(key, KIND)
    if kept is not None:
        pairs.update(_unpacked(kept))
        return
    before = dict(pairs)
    set_vocab()
    added = [name for name in pairs if name not in before]
    if list(pairs)[: len(before)] != list(before) or any(pairs[name] is not before[name] for name in before):
        return  # it changed what was there: more than an entry says
    names = pairs.get("tokenizer.chat_templates")
    if names is not None:
        names.value = sorted(names.value)  # the converter fills this list from a set
    packed = {name: _packed(model.gguf_writer, pairs[name]) for name in added}
    pairs.update(packed)
    cache.store(key, KIND, _entry(packed))


def is_kept(model: Any, *, trust_remote_code: bool) -> bool:
    """Whether an entry's key covers all that ``set_vocab`` reads.

    Not where the checkpoint's own code runs, nor where another folder has the vocabulary (draft models).
    """
    return not trust_remote_code and getattr(model, "target_model_dir", None) is None


def _key(model: Any, converter: str) -> bytes:
    hyperparameters = {name: value for name, value in model.hparams.items() if name != "_name_or_path"}
    known = model.gguf_writer.kv_data[0].items()
    parts = (
        _FORMAT,
        __version__,
        converter,
        [version(name) for name in _READERS],
        type(model).__qualname__,
        hyperparameters,
        # general.* are names and texts for people
        [(name, pair.value) for name, pair in known if not name.startswith("general.")],
        [(path.name, blake3(path.read_bytes()).hexdigest()) for path in _files(model.dir_model)],
    )
    return blake3(repr(parts).encode()).digest()


def _files(folder: Path) -> list[Path]:
    places = [folder, *(folder / name for name in _SUBFOLDERS)]
    return [
        path
        for place in places
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.is_file()
        and path.suffix not in _OTHER_SUFFIXES
        and path.name not in _OTHER_NAMES
        and not path.name.endswith(".index.json")
    ]


def _packed(writer: Any, pair: Any) -> PackedValue:
    return PackedValue(writer._pack_val(pair.value, pair.type, add_vtype=True, sub_type=pair.sub_type))


def _entry(pairs: Mapping[str, PackedValue]) -> bytes:
    entry = bytearray()
    for name, pair in pairs.items():
        entry += _LENGTHS.pack(len(name.encode()), len(pair.packed)) + name.encode() + pair.packed
    return bytes(entry)


def _unpacked(entry: bytes) -> Iterator[tuple[str, PackedValue]]:
    position = 0
    while position < len(entry):
        of_name, of_value = _LENGTHS.unpack_from(entry, position)
        start = position + _LENGTHS.size + of_name
        position = start + of_value
        yield entry[start - of_name : start].decode(), PackedValue(entry[start:position])
