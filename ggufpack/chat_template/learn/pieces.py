"""What a render is made of: the template's own text, values of the conversation, loops over them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
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
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        elif piece != "":
            found.append(piece)
    return found


def label(pieces: Iterable[Piece]) -> Label:
    """Without places."""
    return tuple(piece if isinstance(piece, str) else piece.mark for piece in pieces)


def common_prefix(texts: Collection[str]) -> str:
    """The longest beginning that all ``texts`` have."""
    if not texts:
        return ""
    first, last = min(texts), max(texts)  # whatever these two share, all between them do
    size = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:size]


def common_suffix(texts: Collection[str]) -> str:
    """The longest ending that all ``texts`` have."""
    return common_prefix([text[::-1] for text in texts])[::-1]


def whole_tokens(opening: str) -> str:
    """Without a beginning that is the end of a token."""
    if not opening or opening[0] in "\"'":
        return opening
    whole = re.search(r"[\s<\[{(]", opening)
    return opening[whole.start() :] if whole else ""


def without_half_token(text: str) -> str:
    """Without an ending that is the beginning of a token."""
    return re.sub(r"<[^<>\s]*$", "", text)
