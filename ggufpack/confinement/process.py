"""A forked process for one piece of work: confined, watched, and gone when the work is done.

A confinement can only become narrower, and holds the threads that are started after it. So the process
that has loaded the libraries stays as it is, without threads and without work, and a copy of it is confined
for one piece. A copy that breaks its rules, or is broken, is no danger to the next one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggufpack.confinement.apply import Confined, confine
from ggufpack.confinement.rules import Confinement

LOOK_SECONDS = 0.1
LEAVE_SECONDS = 10.0
MOST_THREADS = 2048
LONGEST_LINE = 64 << 20  # bytes of one answer
_MEMORY_SHARE = 0.95  # of what is free in the beginning
_LEAST_MEMORY = 1 << 30

Work = Callable[[int, Confined], None]


@dataclass(frozen=True)
class Ended:
    """How it ended.

    Attributes:
        status: exit code; negative: the signal that killed it.
        excess: why it was killed from here, as the end of a sentence; ``None`` when it was not.
    """

    status: int
    excess: str | None = None


def can_fork() -> bool:
    """Whether a process that has loaded these libraries can be copied: on Linux; Apple's refuse."""
    return sys.platform == "linux"


def run(
    confinement: Confinement, work: Work, on_line: Callable[[bytes], None], keep_input: bool = False
) -> Ended:
    """Do ``work`` in a confined copy of this process, which has no other threads.

    Args:
        confinement: of the copy.
        work: called in the copy with the descriptor to write lines to, and with what holds it.
        on_line: called here with each line.
        keep_input: the copy goes on reading standard input, instead of finding it empty.
    """
    read, write = os.pipe()
    parent = os.getpid()
    limit = _free_memory()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _be_the_copy(confinement, work, write, parent, keep_input=keep_input)
    os.close(write)
    try:
        excess = _watch(pid, read, on_line, confinement, limit)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(read)
        _, status = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), excess)


def end_like(ended: Ended) -> None:
    """End this process as the copy ended, for whoever waits for this one."""
    if ended.status < 0:
        signal.signal(-ended.status, signal.SIG_DFL) if -ended.status != signal.SIGKILL else None
        os.kill(os.getpid(), -ended.status)
    os._exit(ended.status)


def _be_the_copy(confinement: Confinement, work: Work, write: int, parent: int, *, keep_input: bool) -> None:
    status = 1
    try:
        from ggufpack.confinement.kernel import PR_SET_PDEATHSIG, prctl

        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if not keep_input:
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, sys.stdin.fileno())
            os.close(nothing)
        work(write, confine(confinement))
        status = 0
    except BaseException:  # noqa: BLE001 - the copy must never return into its parent's work
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch(
    pid: int, read: int, on_line: Callable[[bytes], None], confinement: Confinement, memory: int
) -> str | None:
    """Until the copy has closed its end; why it was killed."""
    parent = os.getppid()
    rest = bytearray()
    poll = select.poll()
    poll.register(read, select.POLLIN)
    excess = None
    looked = 0.0
    while True:
        ready = poll.poll(LOOK_SECONDS * 1000)
        now = time.monotonic()
        if excess is None and now - looked >= LOOK_SECONDS:
            looked = now
            excess = _excess(Path(f"/proc/{pid}"), confinement, memory)
            if len(rest) > LONGEST_LINE:
                excess = "its answer had no end"
            if excess is not None or os.getppid() != parent:  # nobody waits for the work any more
                os.kill(pid, signal.SIGKILL)
        if ready:
            data = os.read(read, 1 << 16)
            if not data:
                return excess or _leave(pid)
            *lines, rest_of = (bytes(rest) + data).split(b"\n")
            rest = bytearray(rest_of)
            for line in lines:
                on_line(line)


def _leave(pid: int) -> str | None:
    """Wait for the copy, which has nothing to do any more."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return "it did not end with its work"
        time.sleep(0.002)
    return None


def _excess(process: Path, confinement: Confinement, memory: int) -> str | None:
    """What it takes too much of. Pages of files that it maps are not its own."""
    try:
        status = _fields(process / "status")
        counted = _fields(process / "io") if confinement.written is not None else {}
    except OSError:  # it has ended
        return None
    own = sum(int(status.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem", "VmSwap"))
    if own > memory:
        return f"it took {own / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB were free when it began"
    if int(status.get("Threads", 1)) > MOST_THREADS:
        return f"it started more than {MOST_THREADS} threads"
    written = max(int(counted.get("wchar", 0)), int(counted.get("write_bytes", 0)))
    if confinement.written is not None and written > confinement.written:
        return f"it wrote {written:,} bytes, and the work needs at most {confinement.written:,}"
    return None


def _free_memory() -> int:
    """Bytes that this machine can give now, swap included."""
    fields = _fields(Path("/proc/meminfo"))
    free = sum(int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    return max(int(free * _MEMORY_SHARE), _LEAST_MEMORY)


def _fields(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
