"""JSON as Go's ``encoding/json`` writes it: a digest is one of bytes, so blanks and escapes count.

Source: Go 1.26, encoding/json/encode.go (``appendString``, ``floatEncoder``), and ``Encoder.Encode``,
which ends with a line feed and escapes HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | Mapping[str, Value] | Sequence[Value]"

# what HTML and JavaScript would trip over
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_PLAIN_FROM, _PLAIN_TO = 1e-6, 1e21


def encode(value: Value) -> bytes:
    """One value and a line feed. An object's keys stay in their order, as those of a Go struct do.

    A float is written as Go writes a ``float64``: ``4096.0`` is ``4096``.

    Raises:
        ValueError: infinity or not a number, which JSON lacks.
    """
    return f"{_text(value)}\n".encode()


def decoded(value: Value) -> Value:
    """``value`` as Go has it after decoding into ``any``: every number a float64, keys sorted."""
    if isinstance(value, Mapping):
        return {key: decoded(value[key]) for key in sorted(value, key=str.encode)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [decoded(item) for item in value]
    if isinstance(value, (bool, str)):
        return value
    return float(value)


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(map(_text, value)) + "]"


def _float(value: float) -> str:
    """The fewest digits that read back as ``value``, which ``repr`` gives too; in Go's notation."""
    if value - value != 0:
        raise ValueError(f"{value} is not a number of JSON")
    if value != 0 and not _PLAIN_FROM <= abs(value) < _PLAIN_TO:
        return repr(value).replace("e-0", "e-")
    return format(Decimal(repr(value)), "f").removesuffix(".0")
