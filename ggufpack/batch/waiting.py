"""Calls of fsspec's drivers that come to an end: most of them wait for a server for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")
# for an answer of any size (a bucket of a million names), and between two pieces of a file
MOST_SECONDS = 600.0
_LOOK_SECONDS = 0.25


class TooManyBytesError(Exception):
    """A file has more bytes than were listed."""


def waited(call: Callable[[], Answer], progress: Callable[[], object] = lambda: None) -> Answer:
    """What ``call`` returns or raises.

    Its thread is left behind when it takes too long; it ends with the process.

    Args:
        call: carried out in a thread of its own.
        progress: something else each time that ``call`` came further.

    Raises:
        TimeoutError: ``MOST_SECONDS`` without progress.
    """
    returned: list[Answer] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            raised.append(error)

    thread = threading.Thread(target=work, name="ggufpack-storage", daemon=True)
    thread.start()
    seen, changed = progress(), time.monotonic()
    while True:
        thread.join(_LOOK_SECONDS)
        if not thread.is_alive():
            break
        if (now := progress()) != seen:
            seen, changed = now, time.monotonic()
        elif time.monotonic() - changed > MOST_SECONDS:
            raise TimeoutError(f"nothing came for {MOST_SECONDS:g} seconds")
    if raised:
        raise raised[0]
    return returned[0]


def get_file(handle: Any, remote: str, local: Path, size: int) -> None:
    """Copy a file to this machine, as far as ``size`` bytes.

    Raises:
        TimeoutError: nothing came for too long.
        TooManyBytesError: it has more bytes, or a part of it: then there is at least one more.
    """
    from fsspec.callbacks import Callback

    came = 0

    class Counted(Callback):  # type: ignore[misc] # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            nonlocal came
            came += inc
            self._check(came)

        def absolute_update(self, value: int) -> None:
            nonlocal came
            came = value
            self._check(value)

        def _check(self, value: int) -> None:
            if value > size:
                raise TooManyBytesError

    def on_disk() -> object:
        return came, local.stat().st_size if local.exists() else 0

    waited(lambda: handle.get_file(remote, str(local), callback=Counted()), on_disk)
