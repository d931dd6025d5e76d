"""JSON data as frozen dataclasses: strict, and a sentence that names the key when it does not fit.

Keys that a dataclass does not know are left (a newer ggufpack may add some); a key that is missing
takes the field's default (an older one did not write it), and is an error where there is none.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class DecodeError(ValueError):
    """A value that does not fit. ``key`` is its place (``result.files[0].size``)."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        self.problem = problem
        super().__init__(f"{key}: {problem}")


def decode(into: type[T], value: object, key: str = "") -> T:
    """``value`` as the dataclass ``into``, with everything in it.

    Raises:
        DecodeError: a key is missing, or its value is of another kind.
    """
    if not isinstance(value, Mapping):
        raise DecodeError(key or "the whole", f"must be an object, and is {_kind(value)}")
    hints = get_type_hints(into)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(into):  # type: ignore[arg-type]
        place = f"{key}.{field.name}" if key else field.name
        if field.name in value:
            found[field.name] = _value(hints[field.name], value[field.name], place)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(place, "is missing")
    return into(**found)


def _value(hint: Any, value: object, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (only,) = (argument for argument in arguments if argument is not type(None))
        return _value(only, value, key)
    if origin is Literal:
        return _literal(arguments, value, key)
    if origin is tuple:
        return _sequence(arguments, value, key)
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, Mapping):
            raise DecodeError(key, f"must be an object, and is {_kind(value)}")
        return {str(name): _value(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return decode(hint, value, key)
    return _plain(hint, value, key)


def _literal(allowed: tuple[object, ...], value: object, key: str) -> object:
    if not isinstance(value, str) or value not in allowed:
        raise DecodeError(key, f"must be one of {', '.join(map(str, allowed))}, and is {value!r:.60}")
    return value


def _sequence(arguments: tuple[Any, ...], value: object, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise DecodeError(key, f"must be an array, and is {_kind(value)}")
    if arguments[-1] is Ellipsis:
        return tuple(_value(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(value))
    if len(value) != len(arguments):
        raise DecodeError(key, f"must have {len(arguments)} elements, and has {len(value)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(_value(hint, item, f"{key}[{index}]") for index, (hint, item) in enumerate(pairs))


def _plain(hint: type, value: object, key: str) -> object:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise DecodeError(key, "is a number that no float holds") from None
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise DecodeError(key, f"must be {_KINDS[hint]}, and is {_kind(value)}")
    if hint is int and isinstance(value, int) and abs(value) > _LARGEST:
        raise DecodeError(key, "is larger than any count or size")
    return value


_LARGEST = 2**63
_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    tuple: "an array",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "an object")
