"""Small pieces of messages."""

from __future__ import annotations

from collections.abc import Iterable


def some(names: Iterable[str], limit: int = 6, *, of: int | None = None) -> str:
    """The first ``limit`` names, and how many more there are: ``of`` in all, unless ``names`` are all."""
    listed = list(names)
    more = (len(listed) if of is None else of) - limit
    shown = ", ".join(listed[:limit])
    return shown if more <= 0 else f"{shown} and {more} more"
