"""The functions a TEMPLATE can call: text/template's (funcs.go) and Ollama's (template/template.go)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta

from ggufpack.chat_template.go.encoding_json import marshal
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.formatting import printable, sprint, sprintf, sprintln
from ggufpack.chat_template.go.methods import typescript_type
from ggufpack.chat_template.go.values import (
    INVALID,
    NIL,
    Byte,
    Kind,
    Map,
    OrderedProperties,
    Pointer,
    Slice,
    Value,
    concrete,
    is_nil,
    kind,
    truth,
    type_name,
)

Function = Callable[[Sequence[Value]], Value]

_BASIC: tuple[Kind, ...] = ("string", "bool", "int", "uint8", "float64")
_HTML = {0: b"\xef\xbf\xbd", 34: b"&#34;", 39: b"&#39;", 38: b"&amp;", 60: b"&lt;", 62: b"&gt;"}

#: functions with their own rules of evaluation; see evaluate.py
SHORT_CIRCUIT = ("and", "or")
#: Go has them and we do not
UNSUPPORTED = ("call", "js", "urlquery")


def functions(today: date) -> Mapping[str, Function]:
    """By name; ``today`` is what ``currentDate`` returns."""
    return {
        "eq": _at_least(1, _eq),
        "ne": _exactly(2, lambda args: not _eq(args)),
        "lt": _exactly(2, lambda args: _less(*args)),
        "le": _exactly(2, lambda args: _less(*args) or _eq(args)),
        "gt": _exactly(2, lambda args: not (_less(*args) or _eq(args))),
        "ge": _exactly(2, lambda args: not _less(*args)),
        "not": _exactly(1, lambda args: not truth(args[0])),
        "len": _exactly(1, lambda args: _length(args[0])),
        "index": _at_least(1, _index),
        "slice": _at_least(1, _slice),
        "print": lambda args: sprint(list(map(_argument, args))),
        "println": lambda args: sprintln(list(map(_argument, args))),
        "printf": _at_least(1, _printf),
        "html": _html,
        "json": _exactly(1, lambda args: marshal(_argument(args[0])).encode()),
        "currentDate": _dates(today),
        "yesterdayDate": _dates(today - timedelta(days=1)),
        "toTypeScriptType": _exactly(1, lambda args: typescript_type(args[0])),
    }


def _exactly(count: int, function: Function) -> Function:
    def checked(args: Sequence[Value]) -> Value:
        if len(args) != count:
            raise GoTemplateError(f"wrong number of args: want {count} got {len(args)}")
        return function(args)

    return checked


def _at_least(count: int, function: Function) -> Function:
    def checked(args: Sequence[Value]) -> Value:
        if len(args) < count:
            raise GoTemplateError(f"wrong number of args: want at least {count} got {len(args)}")
        return function(args)

    return checked


def _argument(value: Value) -> Value:
    """A value as an argument of type any: nothing is a nil interface."""
    return NIL if value is INVALID else value


def _dates(day: date) -> Function:
    def formatted(args: Sequence[Value]) -> Value:
        if not all(isinstance(arg, bytes) for arg in args):
            raise GoTemplateError("wrong type for value; expected string")
        return day.isoformat().encode()  # the format is ignored

    return formatted


def _eq(args: Sequence[Value]) -> bool:
    if len(args) == 1:
        raise GoTemplateError("missing argument for comparison")
    first = concrete(args[0])
    return any(_equal(first, concrete(other)) for other in args[1:])


def _equal(one: Value, two: Value) -> bool:
    kinds = kind(one), kind(two)
    if {*kinds} == {"int", "uint8"}:
        return _number(one) == _number(two)
    if any(each in _BASIC for each in kinds):
        if kinds[0] != kinds[1]:
            if "invalid" in kinds:
                return False
            raise GoTemplateError(f"incompatible types for comparison: {type_name(one)} and {type_name(two)}")
        return one == two
    if kinds[0] != kinds[1] and "invalid" not in kinds:
        raise GoTemplateError(f"non-comparable types {type_name(one)} and {type_name(two)}")
    if is_nil(one) or is_nil(two):
        return is_nil(one) == is_nil(two)
    if isinstance(one, Pointer) and isinstance(two, Pointer):
        return one.to is two.to
    if isinstance(one, OrderedProperties) and isinstance(two, OrderedProperties):
        return one.entries is two.entries
    raise GoTemplateError(f"non-comparable type {type_name(two)}")


def _number(value: Value) -> int:
    return value.value if isinstance(value, Byte) else value if isinstance(value, int) else 0


def _less(one: Value, two: Value) -> bool:
    one, two = concrete(one), concrete(two)
    for value in (one, two):
        if kind(value) not in _BASIC:
            raise GoTemplateError("invalid type for comparison")
    if {kind(one), kind(two)} <= {"int", "uint8"}:
        return _number(one) < _number(two)
    if kind(one) != kind(two):
        raise GoTemplateError(f"incompatible types for comparison: {type_name(one)} and {type_name(two)}")
    if isinstance(one, bool):
        raise GoTemplateError("invalid type for comparison")
    if isinstance(one, bytes) and isinstance(two, bytes):
        return one < two
    return isinstance(one, float) and isinstance(two, float) and one < two


def _length(value: Value) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Slice):
        return len(value.elements)
    if isinstance(value, Map):
        return len(value.entries or {})
    raise GoTemplateError(f"len of type {type_name(value)}")


def _position(value: Value, end: int) -> int:
    value = concrete(value)
    if isinstance(value, bool) or not isinstance(value, (int, Byte)):
        raise GoTemplateError(f"cannot index slice/array with type {type_name(value)}")
    position = _number(value)
    if not 0 <= position <= end:
        raise GoTemplateError(f"index out of range: {position}")
    return position


def _index(args: Sequence[Value]) -> Value:
    item = args[0]
    if concrete(item) is INVALID:
        raise GoTemplateError("index of untyped nil")
    for place in args[1:]:
        if item is NIL:
            raise GoTemplateError("index of nil pointer")
        if isinstance(item, Map):
            key = concrete(place)
            if not isinstance(key, bytes):
                raise GoTemplateError(f"value has type {type_name(key)}; should be string")
            item = (item.entries or {}).get(key, item.zero)
        elif isinstance(item, (Slice, bytes)):
            length = _length(item)
            position = _position(place, length)
            if position == length:
                raise GoTemplateError("index out of range")
            item = Byte(item[position]) if isinstance(item, bytes) else item.elements[position]
        else:
            raise GoTemplateError(f"can't index item of type {type_name(item)}")
    return item


def _slice(args: Sequence[Value]) -> Value:
    item = args[0]
    if not isinstance(item, (Slice, bytes)):
        raise GoTemplateError(f"can't slice item of type {type_name(item)}")
    if len(args) > 3:
        raise GoTemplateError("slice with three indexes is not supported here")
    # Go allows a slice to grow into its capacity, which is an accident of how the value was made
    places = [_position(place, _length(item)) for place in args[1:]]
    start, end = (*places, *(0, _length(item))[len(places) :])
    if start > end:
        raise GoTemplateError(f"invalid slice index: {start} > {end}")
    if isinstance(item, bytes):
        return item[start:end]
    return Slice(item.type, None if item.items is None else item.items[start:end])


def _printf(args: Sequence[Value]) -> Value:
    if not isinstance(args[0], bytes):
        raise GoTemplateError(f"wrong type for value; expected string; got {type_name(args[0])}")
    return sprintf(args[0], list(map(_argument, args[1:])))


def _html(args: Sequence[Value]) -> Value:
    text = sprint([printable(concrete(arg)) for arg in args])
    return b"".join(_HTML.get(byte) or bytes([byte]) for byte in text)


FUNCTION_NAMES = frozenset(functions(date.min + timedelta(days=1))) | {*SHORT_CIRCUIT, *UNSUPPORTED}
#: without Ollama's own, as the last turn of the legacy path sees them
BUILTIN_NAMES = FUNCTION_NAMES - {"json", "currentDate", "yesterdayDate", "toTypeScriptType"}
