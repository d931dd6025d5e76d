"""Connects to a Ray cluster, or starts one of this machine alone."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ggufpack.batch.scratch import own_scratch
from ggufpack.errors import UsageError

_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 12.0


def connect(address: str | None, stack: contextlib.ExitStack) -> None:
    """Connect to a cluster that answers, or start one; leaving ``stack`` undoes it.

    Raises:
        UsageError: no cluster answers at the address.
    """
    import ray

    if ray.is_initialized():
        return  # the caller's
    with _own_handler(stack):
        _init(address, stack)


def _init(address: str | None, stack: contextlib.ExitStack) -> None:
    import ray

    if address is None:
        scratch = str(stack.enter_context(own_scratch()).scratch)
        stack.callback(ray.shutdown)
        ray.init(_temp_dir=scratch, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return
    if address != "auto":
        _require_answer(address)
    stack.callback(ray.shutdown)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise _unreachable(address, str(error).strip().splitlines()[0]) from error


@contextlib.contextmanager
def _own_handler(stack: contextlib.ExitStack) -> Iterator[None]:
    """Keep this process's handler of SIGTERM: ``ray.init`` sets one that exits with 15, and leaves it.

    Where there was none Ray's stays until ``stack`` is left: it unwinds, the default would leave processes.
    """
    before: Any = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # Ray sets none in a thread; None was set in C, and cannot be set again
        return
    stack.callback(signal.signal, signal.SIGTERM, before)
    yield
    if before is not signal.SIG_DFL:
        signal.signal(signal.SIGTERM, before)


def _require_answer(address: str) -> None:
    """Ray itself tries for minutes."""
    client = address.startswith("ray://")
    parts = urlsplit(address if client else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or (10001 if client else 6379)
    except ValueError as error:
        raise UsageError(f"{address!r} is no address: {error}.", action='Give "host:port".') from error
    try:
        socket.create_connection((host or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error
    if not client:
        command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", f"{host}:{port}"]
        started = time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=_HEALTH_SECONDS, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise _unreachable(address, f"no answer in {time.monotonic() - started:.0f} s") from error
        if done.returncode != 0:
            raise _unreachable(address, "what answers is no Ray cluster, or another version of Ray")


def _unreachable(address: str, reason: str) -> UsageError:
    return UsageError(
        f"No Ray cluster can be reached at {address}: {reason}.",
        action="Check --address; leave it out to start a cluster on this machine.",
        key="address",
    )
