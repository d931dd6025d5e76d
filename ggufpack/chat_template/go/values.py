"""The values that a Go template computes with, each with its Go type.

A Go string is ``bytes``, because Go slices and compares strings by bytes; ``bool``, ``int`` and
``float`` are Python's. Everything else is one of the classes below. ``INVALID`` is Go's zero
``reflect.Value``: what a pipeline makes of nil. ``NIL`` is a nil interface that has not been through
a pipeline yet; asking it for a field is an error, asking ``INVALID`` is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Union


class Nothing(Enum):
    """The two values without a type; see the module."""

    INVALID = "invalid"
    NIL = "nil"


INVALID = Nothing.INVALID
NIL = Nothing.NIL


@dataclass(frozen=True)
class Byte:
    """A uint8: what ``index`` takes out of a string."""

    value: int


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice. ``items`` is ``None`` for a nil one."""

    type: str
    items: Sequence[Value] | None

    @property
    def elements(self) -> Sequence[Value]:
        """The items; none of a nil slice."""
        return self.items or ()


@dataclass(frozen=True, eq=False)
class Map:
    """A map from strings. ``entries`` is ``None`` for a nil one; ``zero`` stands for a missing key."""

    type: str
    entries: Mapping[bytes, Value] | None
    zero: Value = NIL

    def sorted(self) -> Iterator[tuple[bytes, Value]]:
        """The entries as Go ranges over them and prints them."""
        return iter(sorted((self.entries or {}).items()))


@dataclass(frozen=True)
class Field:
    """A field of a struct: its JSON key, and whether JSON leaves it out when it is empty."""

    name: str
    key: str
    omit_empty: bool = False


@dataclass(frozen=True, eq=False)
class Struct:
    """A struct: one value for each of ``fields``."""

    type: str
    fields: tuple[Field, ...]
    values: tuple[Value, ...]

    def get(self, name: str) -> Value | None:
        """The field ``name``, or ``None`` where there is none."""
        return next(
            (value for field, value in zip(self.fields, self.values, strict=True) if field.name == name), None
        )


@dataclass(frozen=True, eq=False)
class Pointer:
    """A pointer to a struct."""

    to: Struct


@dataclass(frozen=True, eq=False)
class OrderedProperties:
    """``*api.ToolPropertiesMap``: properties in the order given; ``None`` for a nil pointer."""

    entries: Mapping[bytes, Value] | None


@dataclass(frozen=True, eq=False)
class Pairs:
    """``iter.Seq2``, what ``ToolPropertiesMap.All`` returns: it can only be ranged over."""

    entries: Mapping[bytes, Value]


Value = Union[  # noqa: UP007 - forward references
    bytes, bool, int, float, Byte, Slice, Map, Struct, Pointer, OrderedProperties, Pairs, Nothing
]

Kind = Literal[
    "invalid",
    "interface",
    "string",
    "bool",
    "int",
    "uint8",
    "float64",
    "slice",
    "map",
    "struct",
    "ptr",
    "func",
]
_KINDS: dict[type, Kind] = {
    bytes: "string",
    bool: "bool",
    int: "int",
    float: "float64",
    Byte: "uint8",
    Slice: "slice",
    Map: "map",
    Struct: "struct",
    Pointer: "ptr",
    OrderedProperties: "ptr",
    Pairs: "func",
}


def kind(value: Value) -> Kind:
    """Go's reflect.Kind."""
    if isinstance(value, Nothing):
        return "invalid" if value is INVALID else "interface"
    return _KINDS[type(value)]


def type_name(value: Value) -> str:
    """The type as ``%T`` prints it; ``<nil>`` for nil."""
    if isinstance(value, Nothing):
        return "<nil>"
    if isinstance(value, (Slice, Map, Struct)):
        return value.type
    if isinstance(value, Pointer):
        return f"*{value.to.type}"
    if isinstance(value, OrderedProperties):
        return "*api.ToolPropertiesMap"
    if isinstance(value, Pairs):
        return "iter.Seq2[string,github.com/ollama/ollama/api.ToolProperty]"
    return kind(value)


def is_nil(value: Value) -> bool:
    """Whether the value is nil, of whatever type."""
    if isinstance(value, Slice):
        return value.items is None
    if isinstance(value, (Map, OrderedProperties)):
        return value.entries is None
    return isinstance(value, Nothing)


def concrete(value: Value) -> Value:
    """The value in an interface (indirectInterface): a nil interface becomes ``INVALID``."""
    return INVALID if value is NIL else value


def truth(value: Value) -> bool:
    """Go's template.IsTrue: not the zero of its type; a struct is always true."""
    if isinstance(value, Slice):
        return bool(value.items)
    if isinstance(value, Map):
        return bool(value.entries)
    if isinstance(value, Byte):
        return value.value != 0
    if isinstance(value, (bytes, bool, int, float)):
        return bool(value)
    return not is_nil(value)
