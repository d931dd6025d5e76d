"""What examining and learning one chat template may take in all.

A render has limits of its own (``sandbox.py``); learning makes up to some thousands of them, keeps what
they print, and works on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Of 80 real templates the slowest takes 12 s beside other work, and the longest prints 13 million characters.
LEARNING_SECONDS = 120.0
LEARNING_CHARACTERS = 100_000_000


class LearningLimitError(Exception):
    """The budget is spent; says of what. No ``ChatTemplateError``: those are answers of a template."""


class _Left(threading.local):
    deadline: float | None = None
    characters: int = 0


_left = _Left()


@contextmanager
def learning_budget(
    seconds: float = LEARNING_SECONDS, characters: int = LEARNING_CHARACTERS
) -> Iterator[None]:
    """Give the renders and the learning inside so much processor time of this thread, and so much text."""
    before = _left.deadline, _left.characters
    _left.deadline, _left.characters = time.thread_time() + seconds, characters
    try:
        yield
    finally:
        _left.deadline, _left.characters = before


def charge(characters: int = 0) -> None:
    """Count what was rendered, and look at the clock.

    Raises:
        LearningLimitError: the budget is spent. Never outside of one.
    """
    if _left.deadline is None:
        return
    _left.characters -= characters
    if _left.characters < 0:
        raise LearningLimitError(f"its prompts have more than {LEARNING_CHARACTERS:,} characters in all")
    if time.thread_time() > _left.deadline:
        raise LearningLimitError(f"it takes more than {LEARNING_SECONDS:g} s of processor time in all")
