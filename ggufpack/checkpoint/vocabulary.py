"""Token ids and texts, read from the vocabulary files without loading a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.jsonfiles import MAX_TOKENIZER_BYTES, read_bytes, read_object
from ggufpack.errors import CheckpointFileError

MAX_VOCABULARY = 2_000_000  # XLM-V has 901,629


def read_vocabulary(folder: Path, tokenizer_json: Mapping[str, Any] | None) -> dict[str, int] | None:
    """Token text → id, without added tokens; ``None`` when no file is of a kind that is known.

    In order: ``tokenizer.json`` (already read), ``vocab.json``, ``vocab.txt`` (WordPiece: the line
    is the id), ``tokenizer.model`` (SentencePiece). Texts are as the model has them: byte-level BPE
    writes a leading space as ``Ġ``, SentencePiece as ``▁``.

    Raises:
        CheckpointFileError: a file is unreadable, not of its kind, or of more than ``MAX_VOCABULARY``.
    """
    if tokenizer_json is not None:
        return _from_tokenizer_json(tokenizer_json, folder / "tokenizer.json")
    if (folder / "vocab.json").is_file():
        path = folder / "vocab.json"
        return _checked(read_object(path, MAX_TOKENIZER_BYTES), path, "vocab.json")
    if (folder / "vocab.txt").is_file():
        return _from_lines(folder / "vocab.txt")
    if (folder / "tokenizer.model").is_file():
        return _from_sentencepiece(folder / "tokenizer.model")
    return None


def _from_tokenizer_json(content: Mapping[str, Any], path: Path) -> dict[str, int]:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        return _checked(vocabulary, path, "model.vocab")
    # Unigram: [[text, score], …], the position is the id
    if isinstance(vocabulary, list):
        pieces = [item[0] if isinstance(item, list) and item else None for item in vocabulary]
        return _checked({text: token for token, text in enumerate(pieces)}, path, "model.vocab")
    raise CheckpointFileError(
        f"{path} has no vocabulary.",
        action="Copy tokenizer.json from the base model.",
        path=path,
        key="model.vocab",
    )


def _refuse_many(number: int, path: Path) -> None:
    if number > MAX_VOCABULARY:
        raise CheckpointFileError(
            f"{path} has more than {MAX_VOCABULARY:,} tokens, the most that is read.",
            action="Copy the file from the base model.",
            path=path,
        )


def _checked(vocabulary: Mapping[Any, Any], path: Path, key: str) -> dict[str, int]:
    _refuse_many(len(vocabulary), path)
    for text, token in vocabulary.items():
        if not isinstance(text, str) or type(token) is not int or token < 0:
            raise CheckpointFileError(
                f"{path}: {key} has an entry that is not a text with an id: {text!r}: {token!r}.",
                action="Copy the file from the base model.",
                path=path,
                key=key,
            )
    return dict(vocabulary)


def _from_lines(path: Path) -> dict[str, int]:
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    _refuse_many(data.count(b"\n"), path)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointFileError(f"{path} is not UTF-8.", action="Copy it again.", path=path) from error
    if lines and not lines[-1]:
        lines.pop()
    return {line.rstrip("\r"): number for number, line in enumerate(lines)}


def _from_sentencepiece(path: Path) -> dict[str, int] | None:
    """Pieces of a serialised ``ModelProto``: field 1, repeated ``SentencePiece``, whose field 1 is the text.

    ``None`` for a file that is not one (``tokenizer.model`` is tiktoken's text file in some models).
    Source: ``sentencepiece/src/sentencepiece_model.proto``.
    """
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    try:
        pieces = [
            next((bytes(text) for inner, text in _fields(memoryview(piece)) if inner == 1), b"").decode(
                "utf-8"
            )
            # trainer's settings and the like are a few fields more
            for number, piece in islice(_fields(memoryview(data)), MAX_VOCABULARY + 100)
            if number == 1
        ]
    except (IndexError, ValueError):
        return None
    _refuse_many(len(pieces), path)
    return {text: token for token, text in enumerate(pieces)} or None


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """``(field number, content)`` of every field of a protobuf message, in the order of the bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == 0:
            begin = position
            _value, position = _varint(message, position)
        elif wire_type == 2:
            size, begin = _varint(message, position)
            position = begin + size
        elif wire_type in (1, 5):
            begin, position = position, position + (8 if wire_type == 1 else 4)
        else:
            raise ValueError("not a protobuf wire type")
        if position > len(message):
            raise ValueError("a field ends after its message")
        yield tag >> 3, message[begin:position]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")
