"""Inputs changed at random: bytes as bytes, JSON as JSON. The same seed gives the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

LARGEST = 4096  # bytes of an input
_NUMBERS = (0, 1, -1, 7, 8, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "../a", "/etc/passwd", "a\0b", "\ud800", "\u202e", "model.safetensors", "(a*)*", "x" * 300),
    *([], {}, [0], [[]], {"": ""}, [1, 2, 3]),
    *_NUMBERS,
)


def changed(data: bytes, words: Sequence[bytes], others: Sequence[bytes], random: Random) -> bytes:
    """``data`` with one to four pieces changed, repeated, moved, or exchanged with those of other inputs."""
    for _ in range(random.randint(1, 4)):
        data = random.choice(_CHANGES)(data, words, others, random)
    return data[:LARGEST]


def changed_json(data: bytes, random: Random) -> bytes:
    """``data`` with one to three values or keys of its JSON changed; as it is where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(random.randint(1, 3)):
        value = _changed_value(value, random)
    try:
        return json.dumps(value, ensure_ascii=random.random() < 0.8).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return data


def _changed_value(value: Any, random: Random) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        match random.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, str(random.choice(_VALUES)): value[key]}
            case _:
                return {**value, key: _changed_value(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        match random.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value + value[at:]
            case _:
                return [*value[:at], _changed_value(value[at], random), *value[at + 1 :]]
    if isinstance(value, int) and random.random() < 0.3:
        return value + random.choice((-1, 1, *_NUMBERS))
    return random.choice(_VALUES)


# --- bytes --------------------------------------------------------------------

_Change = Callable[[bytes, Sequence[bytes], Sequence[bytes], Random], bytes]


def _flip(data: bytes, _words: Sequence[bytes], _others: Sequence[bytes], random: Random) -> bytes:
    return _spliced(data, bytes([random.randrange(256)]), 1, random)


def _number(data: bytes, _words: Sequence[bytes], _others: Sequence[bytes], random: Random) -> bytes:
    size = random.choice((1, 2, 4, 8))
    number = random.choice(_NUMBERS) % (1 << 8 * size)
    return _spliced(data, number.to_bytes(size, "little"), size, random)


def _remove(data: bytes, _words: Sequence[bytes], _others: Sequence[bytes], random: Random) -> bytes:
    return _spliced(data, b"", random.choice((1, 2, 8, 64)), random)


def _repeat(data: bytes, _words: Sequence[bytes], _others: Sequence[bytes], random: Random) -> bytes:
    at = random.randint(0, len(data))
    piece = data[at : at + random.choice((1, 4, 16, 64))]
    return data[:at] + piece * random.choice((2, 3, 30)) + data[at:]


def _insert(data: bytes, words: Sequence[bytes], _others: Sequence[bytes], random: Random) -> bytes:
    return _spliced(data, random.choice(words) if words else b"\0", 0, random)


def _cross(data: bytes, _words: Sequence[bytes], others: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(others)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


_CHANGES: tuple[_Change, ...] = (_flip, _flip, _number, _remove, _repeat, _insert, _insert, _cross)


def _spliced(data: bytes, piece: bytes, removed: int, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + piece + data[at + removed :]
