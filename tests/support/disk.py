"""A disk of a stated size: what tests see instead of the machine's own, which may be nearly full."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest


class Usage(NamedTuple):
    """As ``shutil.disk_usage`` returns it."""

    total: int
    used: int
    free: int


def state_disk(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    """From now on every disk has ``total`` bytes, ``free`` of them free."""
    usage = Usage(total, total - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
