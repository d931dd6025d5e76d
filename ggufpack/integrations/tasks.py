"""Tasks that are done one after the other in a thread, and what happens when they come too fast."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
# what a task does that comes while another one runs
WhenBusy = Literal["queue", "latest", "wait"]


class Tasks(Generic[T]):
    """One task runs, others wait.

    - ``"queue"``: up to ``limit`` wait; one more displaces the one that waits longest.
    - ``"latest"``: one waits, the newest.
    - ``"wait"``: none waits; ``put`` blocks until the one that runs is done.

    The thread lives while there is something to do. It is a daemon, so that it never keeps the
    interpreter: whoever owns the tasks ends them (``cancel``).

    Args:
        do: does one task; must not raise.
        when_busy: the policy.
        limit: of ``"queue"``, at least 1.
    """

    def __init__(self, do: Callable[[T], None], when_busy: WhenBusy, limit: int) -> None:
        self._do = do
        self._blocks = when_busy == "wait"
        self._limit = 1 if when_busy == "latest" else limit
        self._waiting: deque[T] = deque()
        self._running: T | None = None
        self._changed = threading.Condition()

    def put(self, task: T) -> list[T]:
        """Hand a task in. Returns those that it displaces, the oldest first."""
        with self._changed:
            if self._blocks:
                self._changed.wait_for(lambda: self._running is None)
            if self._running is None:
                self._running = task
                threading.Thread(target=self._work, name="ggufpack", daemon=True).start()
                return []
            self._waiting.append(task)
            return [self._waiting.popleft() for _ in range(len(self._waiting) - self._limit)]

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs or waits; whether that came true in ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running is None, timeout)

    def cancel(self) -> list[T]:
        """Take away what waits. Returns it; what runs goes on."""
        with self._changed:
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def _work(self) -> None:
        task = self._running
        while task is not None:
            self._do(task)
            with self._changed:
                task = self._running = self._waiting.popleft() if self._waiting else None
                self._changed.notify_all()
