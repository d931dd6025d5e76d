"""What adapters do to each tensor of their base model, as data. Pure: no tensor is read.

A merged tensor is, in this order: another one that replaces it, plus the weighted products of the
adapters, in their order, then rows that replace its own. The arithmetic is in ``convert.lora``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file."""

    file: Path
    name: str


@dataclass(frozen=True)
class Replace:
    """Another tensor takes the place of the base model's (``modules_to_save``, resized embeddings)."""

    by: Stored


@dataclass(frozen=True)
class AddProduct:
    """W + scale · B·A, or with magnitudes m (DoRA) m / ‖W + scale · B·A‖ · (W + scale · B·A).

    Attributes:
        a, b: factors [rank, inputs] and [outputs, rank].
        transposed: W is stored [inputs, outputs]: Conv1D, and an embedding with its rows as inputs.
        magnitude: [outputs].
    """

    a: Stored
    b: Stored
    scale: float
    transposed: bool
    magnitude: Stored | None = None


@dataclass(frozen=True)
class AddVector:
    """b + scale · v (``lora_bias``)."""

    vector: Stored
    scale: float


@dataclass(frozen=True)
class ReplaceRows:
    """Rows that take the place of the base model's (``trainable_token_indices``)."""

    by: Stored
    rows: tuple[int, ...]


Change: TypeAlias = Replace | AddProduct | AddVector | ReplaceRows
_KINDS: Mapping[str, type[Change]] = {
    kind.__name__: kind for kind in (Replace, AddProduct, AddVector, ReplaceRows)
}
_ORDER = (Replace, AddProduct, AddVector, ReplaceRows)


@dataclass(frozen=True)
class Merge:
    """All changes of a base model.

    Attributes:
        changes: tensor name → its changes, in the order in which they are made.
        shapes: tensors that get another shape (a resized vocabulary).
        copies: tensor that the base model does not store → the one that it begins as (a head that was
            tied to the embedding, and is its own after training).
    """

    changes: Mapping[str, Sequence[Change]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it goes to the worker."""
        return {
            "changes": {
                name: [{"kind": type(change).__name__, **asdict(change)} for change in changes]
                for name, changes in self.changes.items()
            },
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "copies": dict(self.copies),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Merge:
        """Back from the pipe."""
        return cls(
            {name: tuple(map(_change, changes)) for name, changes in data["changes"].items()},
            {name: tuple(shape) for name, shape in data["shapes"].items()},
            data["copies"],
        )


def in_order(changes: Sequence[Change]) -> tuple[Change, ...]:
    """In the order in which they are made; products stay in the order of their adapters."""
    return tuple(sorted(changes, key=lambda change: _ORDER.index(type(change))))


def files_of(changes: Sequence[Change]) -> Iterator[Path]:
    """The files that changes are read from."""
    for change in changes:
        for value in vars(change).values():
            if isinstance(value, Stored):
                yield value.file


def _change(data: Mapping[str, Any]) -> Change:
    values: dict[str, Any] = {
        key: _stored(value) if isinstance(value, dict) else value for key, value in data.items()
    }
    kind = _KINDS[values.pop("kind")]
    if kind is ReplaceRows:
        values["rows"] = tuple(values["rows"])
    return kind(**values)


def _stored(data: Mapping[str, str]) -> Stored:
    return Stored(Path(data["file"]), data["name"])
