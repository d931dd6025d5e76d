"""What a render is made of: the template's own text, values of the conversation, loops over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Union

Path = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Value:
    """A value of the conversation, as it is spelled.

    Attributes:
        kind: which one: ``content``, ``thinking``, ``arguments``, …
        spelling: ``raw``, ``quoted`` (a JSON string), or the style of a JSON object; see ``spans``.
        left, right: what is trimmed there: nothing, ``newlines`` or ``all`` white space.
    """

    kind: str
    spelling: str = "raw"
    left: str = ""
    right: str = ""


@dataclass(frozen=True)
class Loop:
    """A loop; its items are rows of the slot of this name."""

    name: str


Mark = Union[Value, Loop]  # noqa: UP007  isinstance on 3.10 reads it too
Label = tuple[Union[str, Value, Loop], ...]  # noqa: UP007


@dataclass(frozen=True)
class Atom:
    """A value or loop at a place: its message (``None`` for none) and the loops it stands in."""

    owner: int | None
    path: Path
    mark: Mark

    def outside(self, loop: str) -> Atom:
        """The atom as an item of ``loop`` sees it."""
        return replace(self, path=tuple(step for step in self.path if step[0] != loop))


Piece = Union[str, Atom]  # noqa: UP007
Pieces = list[Piece]


def joined(pieces: Iterable[Piece]) -> Pieces:
    """Without empty texts, and neighbouring texts as one."""
    found: Pieces = []
    for is_text, group in groupby((piece for piece in pieces if piece != ""), lambda p: isinstance(p, str)):
        found += ["".join(str(piece) for piece in group)] if is_text else list(group)
    return found


def label(pieces: Iterable[Piece]) -> Label:
    """Without places."""
    return tuple(piece if isinstance(piece, str) else piece.mark for piece in pieces)
