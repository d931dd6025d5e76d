"""Go's encoding/json.Marshal."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.values import (
    Byte,
    Map,
    Nothing,
    OrderedProperties,
    Pairs,
    Pointer,
    Slice,
    Struct,
    Value,
    is_nil,
)

_ESCAPED = re.compile('[\x00-\x1f"\\\\<>&\u2028\u2029\udc80-\udcff]')
_SHORT = {'"': r"\"", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def marshal(value: Value) -> str:
    """``value`` as Go writes it: compact, keys of maps sorted, ``< > &`` as ``\\u003c`` and so on."""
    if isinstance(value, Nothing) or (not isinstance(value, (bytes, bool, int, float)) and is_nil(value)):
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return _string(value)
    if isinstance(value, (int, Byte)):
        return str(value.value if isinstance(value, Byte) else value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Slice):
        return _slice(value)
    if isinstance(value, (Map, OrderedProperties)):
        entries = value.sorted() if isinstance(value, Map) else iter((value.entries or {}).items())
        return "{" + ",".join(f"{_string(key)}:{marshal(item)}" for key, item in entries) + "}"
    if isinstance(value, Pairs):
        raise GoTemplateError("json of a function")
    return _struct(value.to if isinstance(value, Pointer) else value)


def _slice(value: Slice) -> str:
    items = [marshal(item) for item in value.elements]
    if value.type == "api.PropertyType" and len(items) == 1:  # PropertyType.MarshalJSON
        return items[0]
    return "[" + ",".join(items) + "]"


def _struct(value: Struct) -> str:
    fields = (
        f"{_string(field.key.encode())}:{marshal(item)}"
        for field, item in zip(value.fields, value.values, strict=True)
        if not (field.omit_empty and _is_empty(item))
    )
    return "{" + ",".join(fields) + "}"


def _is_empty(value: Value) -> bool:
    if isinstance(value, OrderedProperties):
        return value.entries is None  # a pointer
    if isinstance(value, Slice):
        return not value.items
    return isinstance(value, Nothing) or (isinstance(value, bytes) and not value)


def _string(text: bytes) -> str:
    characters = text.decode("utf-8", "surrogateescape")
    return '"' + _ESCAPED.sub(lambda found: _escape(found[0]), characters) + '"'


def _escape(character: str) -> str:
    if character >= "\udc80":  # a byte that is not UTF-8
        return r"\ufffd"
    return _SHORT.get(character, f"\\u{ord(character):04x}")


def _number(value: float) -> str:
    """encode.go, floatEncoder: no exponent between 1e-6 and 1e21."""
    if not math.isfinite(value):
        raise GoTemplateError("json of a number that is not finite")
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        mantissa, exponent = shortest(value)
        return f"{mantissa}e{exponent:+03d}".replace("e-0", "e-")
    return plain(value)


def shortest(value: float) -> tuple[str, int]:
    """Mantissa (``1.5``, ``-2``) and decimal exponent of the shortest text that means ``value``."""
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).lstrip("0") or "0"
    power = int(exponent) + len(text) - 1 if text != "0" else 0
    text = text.rstrip("0") or "0"
    mantissa = text[0] + (f".{text[1:]}" if len(text) > 1 else "")
    return ("-" if sign else "") + mantissa, power


def plain(value: float) -> str:
    """The shortest text without an exponent."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").removesuffix(".") if "." in text else text
