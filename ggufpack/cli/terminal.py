"""Text for a terminal: what a checkpoint or a server says must not steer it.

A token, a file name or an error message may hold escape sequences: they would colour and hide text, set
the window's title, or on some terminals type commands.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

# joiners, without which some scripts and emoji are not what was written
_KEPT = frozenset("\n\t\u200c\u200d")
_UNSAFE = frozenset({"Cc", "Cf", "Cs"})


def printable(text: str) -> str:
    """``text`` with each control, direction mark and half surrogate pair shown as its number."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"<U+{ord(c):04X}>" if _is_unsafe(c) else c for c in text)


def _is_unsafe(character: str) -> bool:
    return character not in _KEPT and unicodedata.category(character) in _UNSAFE


def echo(text: object, *, err: bool = False, nl: bool = True, lead: str = "") -> None:
    """As ``click.echo``, of safe text; ``lead`` goes before it as it is: our own, with colours."""
    click.echo(f"{lead}{printable(str(text))}", err=err, nl=nl)


def echo_text(text: str, *, nl: bool = True) -> None:
    """Print a text on stdout that somebody may want to the byte: on a terminal it is made safe."""
    click.echo(printable(text) if sys.stdout.isatty() else text, nl=nl)


def stderr_console() -> Console:
    """rich's console on stderr; it prints what :func:`printable` makes of texts."""
    from rich.console import Console

    class SafeConsole(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            shown = (printable(one) if isinstance(one, str) else one for one in objects)
            super().print(*shown, **options)

    return SafeConsole(stderr=True, highlight=False, soft_wrap=True)
