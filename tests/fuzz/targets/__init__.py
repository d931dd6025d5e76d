"""What is fuzzed. Every module here is a target and has

one_input(data)   raises nothing but what it should let nobody see: any exception is a fault
seeds()           small valid inputs, made by a program
WORDS             optional: pieces that the format knows, for the engine's dictionary
IS_JSON           optional: inputs are JSON objects, and are changed as such half of the time
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Target:
    """One module of this package."""

    name: str
    one_input: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...]
    is_json: bool


def names() -> tuple[str, ...]:
    """All targets, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Target:
    """A target by its name; imports what it tests."""
    module = import_module(f"{__name__}.{name}")
    return Target(
        name, module.one_input, module.seeds, getattr(module, "WORDS", ()), getattr(module, "IS_JSON", False)
    )
