"""Items on this machine: each slot is a process of its own that keeps its conversion worker.

A process can die (no memory, a kill) without the others; its item then has an error, and the next item gets
a new process. Processes are started by ``multiprocessing`` with "spawn": nothing of the parent is in them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack.batch.budget import Budget, Needs, needs_of
from ggufpack.batch.items import Item, ItemHandler, Outcome
from ggufpack.batch.slot import serve
from ggufpack.child import usable_cpus
from ggufpack.errors import GgufpackError, WorkerError
from ggufpack.spec import BuildSpec

# a build that is interrupted waits for the server, which must not be left in the middle of a create
_END_SECONDS = 60.0


def default_jobs() -> int:
    """Half as many as CPUs: a build's stages are only partly parallel, and each has threads of its own."""
    return max(1, usable_cpus() // 2)


class LocalExecutor:
    """An ``Executor``; a context manager. Its processes stay for further runs until it is left.

    Args:
        jobs: items at once, at most; memory and disk may allow fewer (``budget``).
        lease: path of the journal, and name of the lease that the processes hold together with it.
        needs: of an item, estimated.
        budget: that items share.
    """

    def __init__(
        self,
        jobs: int | None = None,
        *,
        lease: tuple[Path, str] | None = None,
        needs: Callable[[BuildSpec], Needs] = needs_of,
        budget: Budget | None = None,
    ) -> None:
        self._jobs = jobs or default_jobs()
        self._lease = lease
        self._needs = needs
        # processes with a lease have their temporary files beside the journal (``slot``)
        self._budget = budget or Budget(scratch=None if lease is None else lease[0].parent)
        self._idle: list[_Slot] = []
        self._busy: dict[_Slot, _Running] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; builds under way are interrupted and clean up."""
        slots = [*self._busy, *self._idle]
        self._busy.clear()
        self._idle.clear()
        try:
            for slot in slots:
                slot.end()
            for slot in slots:
                slot.join(_END_SECONDS)
        finally:  # a second Ctrl-C
            for slot in slots:
                slot.kill()

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        """Outcomes in the order in which items end (``Executor.run``)."""
        waiting = [self._with_threads(item) for item in items]
        waiting.reverse()
        try:
            while waiting or self._busy:
                yield from self._start(waiting)
                yield from self._collect(on_event)
        except BaseException:
            self.close()
            raise

    def _with_threads(self, item: Item) -> Item:
        """CPUs are shared out, unless the item says how many it takes."""
        if item.spec.threads is not None:
            return item
        return replace(item, spec=replace(item.spec, threads=max(1, usable_cpus() // self._jobs)))

    def _start(self, waiting: list[Item]) -> Iterator[Outcome]:
        """Start what there is room for, in order; an item that could never run is an error."""
        while waiting and len(self._busy) < self._jobs:
            item = waiting[-1]
            try:
                needs = self._needs(item.spec)
                if not self._budget.admits(needs, [running.needs for running in self._busy.values()]):
                    return
            except GgufpackError as error:
                waiting.pop()
                yield Outcome(item.key, "error", None, error.to_json(), 0.0)
                continue
            waiting.pop()
            slot = self._idle.pop() if self._idle else _Slot(self._lease)
            self._busy[slot] = _Running(item, needs)
            slot.send(item)

    def _collect(self, on_event: ItemHandler) -> Iterator[Outcome]:
        """What the slots say next."""
        if not self._busy:
            return
        by_handle = {handle: slot for slot in self._busy for handle in slot.handles}
        for handle in wait(list(by_handle)):
            slot = by_handle[handle]  # type: ignore[index]
            running = self._busy.get(slot)
            if running is None:  # its other handle was ready as well
                continue
            said = slot.receive()
            if isinstance(said, Outcome):
                del self._busy[slot]
                self._idle.append(slot)
                yield said
            elif said is None:
                del self._busy[slot]
                yield _died(running.item, slot)
            else:
                on_event(running.item.key, said)


@dataclass(frozen=True)
class _Running:
    item: Item
    needs: Needs


class _Slot:
    """Parent side of a process."""

    def __init__(self, lease: tuple[Path, str] | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=serve, args=(theirs, lease), name="ggufpack-batch", daemon=True
        )
        with _interrupts_ignored():  # the child ignores Ctrl-C from its first instruction on
            self._process.start()
        theirs.close()

    @property
    def handles(self) -> tuple[Connection, int]:
        """Ready when there is something to receive."""
        return self._connection, self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        """Of an ended process; a signal's number is negative."""
        self._process.join(1.0)
        return self._process.exitcode

    def send(self, item: Item) -> None:
        """Give it an item."""
        with contextlib.suppress(OSError):  # it died while it was idle: that shows where it is read from
            self._connection.send(item)

    def receive(self) -> Any:
        """An event, an outcome, or ``None`` when the process has ended."""
        try:
            if self._connection.poll():
                return self._connection.recv()
        except (EOFError, OSError):
            return None
        return None

    def end(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        self._process.join(seconds)

    def kill(self) -> None:
        """End it at once."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def _died(item: Item, slot: _Slot) -> Outcome:
    code = slot.exit_code
    slot.kill()
    if code == -signal.SIGKILL:
        error = WorkerError(
            f"The process that built {item.key} was killed, most likely because memory ran out.",
            action="Use fewer --jobs, or a machine with more memory.",
        )
    else:
        error = WorkerError(f"The process that built {item.key} ended with status {code} before it was done.")
    return Outcome(item.key, "error", None, error.to_json(), 0.0)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignored signals stay ignored in a child. In another thread than the main one signals cannot be set."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
