"""Small pieces of messages."""

from __future__ import annotations

from collections.abc import Iterable


def some(names: Iterable[str], limit: int = 6) -> str:
    """The first ``limit`` names, and how many more there are."""
    listed = list(names)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"
