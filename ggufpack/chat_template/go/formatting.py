"""Go's fmt, as far as templates need it: Sprint, Sprintln and Sprintf with ``%v %s %q %d %t %T %f %x``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ggufpack.chat_template.go.encoding_json import marshal, plain, shortest
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.quoting import quote
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
    type_name,
)

#: types whose String() is their JSON; the maps print ``{}`` where they are nil
_JSON_STRINGERS = {
    "template.templateTools",
    "template.templateTool",
    "template.templateArgs",
    "template.templateProperties",
}
_WIDEST = 10_000  # Go's limit is a million, which no prompt has a use for
_VERB = re.compile(rb"%(?P<flags>[-+# 0]*)(?P<width>\d*)(?P<precision>\.\d*)?(?P<verb>[^%]|%|$)", re.DOTALL)


def stringer(value: Value) -> bytes | None:
    """What the value's ``String()`` returns, or ``None`` where its type has none."""
    if isinstance(value, Slice) and value.type == "api.PropertyType":
        if len(value.elements) == 1 and isinstance(value.elements[0], bytes):
            return value.elements[0]
        return formatted(Slice("[]string", value.items)) if value.elements else b""
    if isinstance(value, (Slice, Map, Struct)) and value.type in _JSON_STRINGERS:
        return b"{}" if isinstance(value, Map) and value.entries is None else marshal(value).encode()
    return None


def printable(value: Value) -> Value:
    """What is printed of a value: behind a pointer, and ``<no value>`` for nothing (printableValue)."""
    if value is Nothing.INVALID:
        return b"<no value>"
    if isinstance(value, Pairs):
        raise GoTemplateError("a function cannot be printed")
    return value.to if isinstance(value, Pointer) else value


def sprint(values: Sequence[Value]) -> bytes:
    """fmt.Sprint: a blank between two operands when neither is a string."""
    text = b""
    for index, value in enumerate(values):
        if index and not isinstance(value, bytes) and not isinstance(values[index - 1], bytes):
            text += b" "
        text += formatted(value)
    return text


def sprintln(values: Sequence[Value]) -> bytes:
    """fmt.Sprintln: a blank between all operands, and a line break."""
    return b" ".join(map(formatted, values)) + b"\n"


def formatted(value: Value, verb: str = "v", *, nested: bool = False) -> bytes:
    """``value`` by one verb without flags, as fmt prints it.

    Raises:
        GoTemplateError: Go would print an address in memory.
    """
    if isinstance(value, Nothing):
        return b"<nil>" if verb == "v" or nested else f"%!{verb}(<nil>)".encode()
    if verb in "vsqx":
        own = stringer(value)
        if own is not None:
            value = own
    if isinstance(value, (OrderedProperties, Pairs)) or (nested and isinstance(value, Pointer)):
        if is_nil(value) and verb == "v":
            return b"<nil>"
        raise GoTemplateError("Go would print an address in memory")
    if isinstance(value, Slice):
        return b"[" + b" ".join(formatted(item, verb, nested=True) for item in value.elements) + b"]"
    if isinstance(value, Map):
        entries = (
            formatted(key, verb, nested=True) + b":" + formatted(item, verb, nested=True)
            for key, item in value.sorted()
        )
        return b"map[" + b" ".join(entries) + b"]"
    if isinstance(value, Pointer):
        return b"&" + formatted(value.to, verb)
    if isinstance(value, Struct):
        return b"{" + b" ".join(formatted(item, verb, nested=True) for item in value.values) + b"}"
    return _scalar(value, verb)


def _scalar(value: bytes | bool | int | float | Byte, verb: str) -> bytes:
    if isinstance(value, bytes):
        if verb in "vs":
            return value
        if verb == "q":
            return quote(value).encode()
        if verb == "x":
            return value.hex().encode()
    elif isinstance(value, bool):
        if verb in "vt":
            return b"true" if value else b"false"
    elif isinstance(value, float):
        if verb == "v":
            return _float(value).encode()
        if verb == "f":
            return f"{value:f}".encode()
        if verb == "x":
            raise GoTemplateError("%x of a float is not supported here")
    else:
        number = value.value if isinstance(value, Byte) else value
        if verb in "vd":
            return str(number).encode()
        if verb == "x":
            return f"{number:x}".encode()
        if verb in "qcUobXO":
            raise GoTemplateError(f"%{verb} of a number is not supported here")
    if verb in "eEgGFXbopUcO":
        raise GoTemplateError(f"%{verb} is not supported here")
    return f"%!{verb}({type_name(value)}=".encode() + formatted(value) + b")"


def _float(value: float) -> str:
    """%v: the shortest text, with an exponent below 1e-4 and from 1e6 on (strconv, ``%g``)."""
    mantissa, exponent = shortest(value)
    if value != 0 and not -4 <= exponent < 6:
        return f"{mantissa}e{exponent:+03d}"
    return plain(value)


def sprintf(template: bytes, values: Sequence[Value]) -> bytes:
    """fmt.Sprintf.

    Raises:
        GoTemplateError: a verb or flag that is not supported here.
    """
    rest = list(values)

    def put(found: re.Match[bytes]) -> bytes:
        verb = found["verb"].decode("utf-8", "surrogateescape")
        if verb == "%":
            return b"%"
        if not verb:
            return b"%!(NOVERB)"
        if not verb.isascii():
            raise GoTemplateError("a verb that is no ASCII character is not supported here")
        if verb in "*[":
            raise GoTemplateError(f"%{verb} is not supported here")
        if not rest:
            return f"%!{verb}(MISSING)".encode()
        value = rest.pop(0)
        if verb == "T":
            return _padded(type_name(value).encode(), found)
        if verb not in "vsqdtTfx" and not verb.isalpha():
            raise GoTemplateError(f"%{verb} is not supported here")
        if (found["flags"] or found["width"]) and not isinstance(value, (bytes, int)):
            raise GoTemplateError("flags are supported for strings and integers only")
        return _padded(formatted(value, verb), found)

    text = _VERB.sub(put, template)
    if rest:
        extra = (
            b"<nil>" if isinstance(value, Nothing) else type_name(value).encode() + b"=" + formatted(value)
            for value in rest
        )
        text += b"%!(EXTRA " + b", ".join(extra) + b")"
    return text


def _padded(text: bytes, found: re.Match[bytes]) -> bytes:
    digits = found["width"].lstrip(b"0") or b"0"
    if len(digits) > len(str(_WIDEST)) or int(digits) > _WIDEST:
        raise GoTemplateError(f"a width of more than {_WIDEST:,} is not supported here")
    flags, width = found["flags"], int(digits)
    if found["precision"] is not None or flags.strip(b"-0") or (b"0" in flags and found["verb"] != b"d"):
        raise GoTemplateError(f"{found[0].decode('utf-8', 'replace')} is not supported here")
    missing = width - len(text.decode("utf-8", "surrogateescape"))
    if missing <= 0:
        return text
    if b"-" in flags:
        return text + b" " * missing
    if b"0" in flags:
        sign = text[:1] if text[:1] == b"-" else b""
        return sign + b"0" * missing + text[len(sign) :]
    return b" " * missing + text
