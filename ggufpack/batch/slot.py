"""A process of ``LocalExecutor``: takes items, sends their events and outcomes.

It ends when its parent does, however that ends: a build under way is interrupted like by Ctrl-C, so that
its temporary files and models go.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ggufpack.batch.errands import run_errand
from ggufpack.batch.items import Item, Outcome
from ggufpack.batch.lease import Lease
from ggufpack.errors import WorkerError
from ggufpack.pipeline import open_worker


def serve(connection: Connection, lease: tuple[Path, str] | None) -> None:
    """The process: items from ``connection`` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    held = None if lease is None else Lease(*lease)
    if held is not None:  # temporary files of this process and its children are found if they are killed
        tempfile.tempdir = os.environ["TMPDIR"] = str(held.scratch)
    try:
        _serve(connection)
    except (BrokenPipeError, ConnectionResetError):  # the parent has gone
        sys.exit(1)
    finally:
        if held is not None:
            held.close()


def _serve(connection: Connection) -> None:
    worker = None
    try:
        while True:
            try:
                item: Item = connection.recv()
            except EOFError:
                return
            try:
                if worker is None:
                    worker = open_worker()
                outcome = run_errand(item, worker, connection.send)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - a bug: this item's, not the batch's
                outcome = _bug(item, error)
            connection.send(outcome)
    finally:
        if worker is not None:
            worker.close()


def _bug(item: Item, error: Exception) -> Outcome:
    said = WorkerError(f"Unexpected {type(error).__name__}: {error}", action="Please report this.")
    said.log = traceback.format_exc()
    return Outcome(item.key, "error", None, {**said.to_json(), "exit_code": 1}, 0.0)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows cleans up
    sys.exit(128 + signal.SIGTERM)


def _leave_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
