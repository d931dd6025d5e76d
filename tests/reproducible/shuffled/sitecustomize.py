"""On PYTHONPATH: every folder is listed from Z to A, as no file system that we have does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

_listdir, _scandir = os.listdir, os.scandir


def _listed(*arguments: Any) -> list[Any]:
    return sorted(_listdir(*arguments), reverse=True)


class _Scanned:
    def __init__(self, *arguments: Any) -> None:
        with _scandir(*arguments) as found:
            self._entries = iter(sorted(found, key=lambda entry: entry.name, reverse=True))

    def __enter__(self) -> _Scanned:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def close(self) -> None:
        """It holds nothing."""


for _name, _ours in (("listdir", _listed), ("scandir", _Scanned)):
    setattr(os, _name, _ours)
