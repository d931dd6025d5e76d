"""JSON files of a checkpoint: bounded, strict where a mistake could hide, errors that name the place.

Symbolic links to files are followed: a snapshot in the Hugging Face cache is made of links into
``blobs/``. Names that come out of a file (shards) are checked where they are used.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ggufpack.errors import CheckpointFileError

MIB = 1024 * 1024
MAX_CONFIG_BYTES = 16 * MIB
MAX_INDEX_BYTES = 128 * MIB  # some 100 bytes a tensor; large mixture-of-experts models have 100,000
MAX_TOKENIZER_BYTES = 128 * MIB  # Gemma 3's tokenizer.json is 33 MB
# of 128 MiB without a limit, parsed, come 5 GB; Gemma 3's tokenizer.json has 2 million, that of a
# vocabulary of a million (XLM-V) 3 million, a header of half a million tensors 5 million
MAX_JSON_VALUES = 8_000_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class DuplicateKeyError(ValueError):
    """A JSON object names one key twice."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"the key {key!r} is there twice")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """``object_pairs_hook`` for :func:`json.loads` that refuses a key given twice.

    Readers differ in which of the two they keep, so a package could follow another value than
    the training did. Raises :class:`DuplicateKeyError`.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _value in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return result


def refuse_many_values(data: bytes) -> None:
    """Before it is parsed: each value of JSON costs some 100 bytes of memory, and 2 of a file.

    What is counted are the signs that stand before values, in texts too, so it is never less.

    Raises:
        ValueError: ``data`` could hold more than ``MAX_JSON_VALUES``.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise ValueError(f"it has more than {MAX_JSON_VALUES:,} values")


def refuse_half_characters(value: object, text: str) -> None:
    """Python's JSON lets half a surrogate pair pass (``"\\ud800"``), which nothing can write as UTF-8.

    Args:
        value: what was read.
        text: what it was read from.

    Raises:
        ValueError: a key or value has such a half.
    """
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise ValueError(f"a text in it is no UTF-8: half a character, U+{half:04X}") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole of a regular file of at most ``limit`` bytes.

    Raises:
        CheckpointFileError: not a regular file, larger than ``limit``, or not readable.
    """
    try:
        status = path.stat()
        # a FIFO or a device under this name would block the program for ever
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointFileError(f"{path} is not a regular file.", path=path)
        if status.st_size > limit:
            raise CheckpointFileError(
                f"{path} has {status.st_size:,} bytes, more than the {limit:,} that such a file may have.",
                action="Check that it is the file it is named after.",
                path=path,
            )
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CheckpointFileError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    if len(data) > limit:
        raise CheckpointFileError(f"{path} grew over {limit:,} bytes while it was read.", path=path)
    return data


def read_text(path: Path, limit: int) -> str:
    """A UTF-8 file as Python's text mode reads it: ``\\r\\n`` and ``\\r`` become ``\\n``.

    Raises:
        CheckpointFileError: as :func:`read_bytes`, or not UTF-8.
    """
    text = _decode(read_bytes(path, limit), path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_object(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A file that holds one JSON object.

    ``NaN`` and ``Infinity`` are accepted, because transformers writes them (Mamba's
    ``time_step_limit``); who uses a number checks that it is finite.

    Raises:
        CheckpointFileError: unreadable, too large, not UTF-8, not JSON, a key given twice, or not
            an object at the top. The message has line and column.
    """
    data = read_bytes(path, limit)
    text = _decode(data, path)
    if text.startswith("\ufeff"):
        raise CheckpointFileError(
            f"{path} begins with a byte order mark, which transformers refuses.",
            action="Save it again as UTF-8 without a byte order mark.",
            path=path,
        )
    try:
        refuse_many_values(data)
        with _collection_paused():
            value = json.loads(text, object_pairs_hook=unique_keys)
            refuse_half_characters(value, text)
    except json.JSONDecodeError as error:
        raise CheckpointFileError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            action="Save the checkpoint again, or repair this line.",
            path=path,
        ) from error
    except DuplicateKeyError as error:
        raise CheckpointFileError(
            f"{path} gives the key {error.key!r} twice.",
            action="Remove the one that is not meant.",
            path=path,
            key=error.key,
        ) from error
    except (RecursionError, ValueError) as error:
        # ValueError: an integer of more than 4,300 digits, half a character, or too many values
        raise CheckpointFileError(
            f"{path} is not a JSON file that can be meant: {error}.", path=path
        ) from error
    if not isinstance(value, dict):
        raise CheckpointFileError(f"{path} must hold a JSON object, and holds {type_name(value)}.", path=path)
    return value


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """A tokenizer is a million objects and no cycle: looking for some takes as long as parsing it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_finite(value: float) -> bool:
    """``math.isfinite``, and false for an integer that no float holds, on which that one fails."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def type_name(value: object) -> str:
    """The JSON name of a value's type, with its article, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    return "an object"


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointFileError(
            f"{path} is not UTF-8 (byte {error.start}).", action="Save it again as UTF-8.", path=path
        ) from error
