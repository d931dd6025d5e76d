"""A module of ours in a process of its own, and what both sides say: one JSON object a line.

Parent to child (standard input): requests. Child to parent (a pipe of its own, so that no library's
print can break it): ``{"event": "ready" | "progress" | "done" | "error" | …, …}``, "ready" first. What
the child prints is its log.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ggufpack import errors
from ggufpack.confinement import Confined, Confinement, confine, process
from ggufpack.errors import GgufpackError, VerificationError
from ggufpack.held import held_folder

OnProgress = Callable[[int, int, str], None]
KILL_SECONDS = 5.0
LEAVE_SECONDS = 60.0  # for tearing down torch and the heap on a machine that swaps
LOG_LINES = 40
PROGRESS_SECONDS = 0.1
ORPHAN_SECONDS = 0.5
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # it would say that PyTorch is missing (convert/libraries.py)
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",  # the converter iterates over sets
    "PYTHONUNBUFFERED": "1",
    # glibc gives large buffers back at once: 50 MB less at the peak than with its moving threshold
    "MALLOC_MMAP_THRESHOLD_": "131072",
}
_SECRET = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?|KEY|COOKIE)(?:_|$)", re.IGNORECASE
)
# a training process may hold the GPU: a child must not touch it unless it is told to
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class Child:
    """Parent side. A context manager; leaving it ends the process.

    It runs in an empty folder (no module of the caller's can be imported by accident) and in a process
    group of its own, so that Ctrl-C reaches the parent alone, which then ends the child and cleans up.

    Args:
        module: ``"ggufpack.convert.worker"``; it gets the number of the event pipe, then ``arguments``.
        arguments: of the module.
        error: raised when the process dies; ``what`` names it: ``"conversion worker"``.
        gpu: whether it may see the GPUs.
        secrets: whether it gets environment variables that are named like a token, password or key.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        what: str,
        error: type[GgufpackError],
        gpu: bool = False,
        secrets: bool = False,
    ) -> None:
        self._command = [sys.executable, "-m", module]
        self._arguments = tuple(arguments)
        self._what = what
        self._error_class = error
        self._environment = _ENVIRONMENT if gpu else {**_ENVIRONMENT, **_NO_GPU}
        self._secrets = secrets
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process; ``None`` when there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, unless it runs; its imports take seconds in which the caller has other work.

        Raises:
            GgufpackError: ``error``: there is no room for temporary files.
        """
        if self._process is not None:
            return
        try:
            folder = self._stack.enter_context(held_folder("ggufpack-worker-"))
            self._log = folder / "log"
            cwd = folder / "cwd"
            cwd.mkdir()
            log = self._stack.enter_context(self._log.open("wb"))
        except OSError as error:
            self._stack.close()
            raise self._error_class(
                f"Temporary files of the {self._what} cannot be written: {error.strerror or error}"
                f" ({error.filename}).",
                action="Make room there, or set TMPDIR to another folder.",
            ) from error
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [*self._command, str(write), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env={**self._inherited(), **self._environment},
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        self._events = self._read(self._stack.enter_context(os.fdopen(read, "rb")))

    def _inherited(self) -> dict[str, str]:
        return {name: text for name, text in os.environ.items() if self._secrets or not _SECRET.search(name)}

    def close(self) -> None:
        """End the process (asking first), and remove its folder."""
        process, self._process = self._process, None
        self._ready = False
        if process is not None:
            _end(process)
        self._stack.close()

    def ask(self, request: bytes) -> Iterator[dict[str, Any]]:
        """Send a line; the events that follow. The caller stops after the last that it expects.

        Raises:
            GgufpackError: an error event, as the child raised it; or ``error``, when the child died.
        """
        self.start()
        if not self._ready and next(self._events, {"event": None})["event"] != "ready":
            raise self._died()
        self._ready = True
        assert self._process is not None  # noqa: S101 - it was started
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        for event in self._events:
            if event["event"] == "error":
                raise self._raised(event)
            yield event
        raise self._died()

    def call(self, request: Mapping[str, Any], on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Send an object; the "done" event. Errors as ``ask``."""
        done: dict[str, Any] = {}
        for event in self.ask(json.dumps(request, default=str).encode() + b"\n"):
            if event["event"] == "done":
                done = event
                break
            if event["event"] == "progress" and on_progress is not None:
                on_progress(event["done"], event["total"], event["item"])
        return done

    def _read(self, stream: BinaryIO) -> Iterator[dict[str, Any]]:
        """Its events. It may run code of others, so they are looked at."""
        while line := stream.readline(process.LONGEST_LINE):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if not _is_event(event):
                error = self._error_class(f"The {self._what} said what it never says.")
                error.log = self._log_tail()
                raise error
            yield event

    def _log_tail(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return f"{self._log} is gone: something empties {self._log.parent.parent} meanwhile."
        return "\n".join(lines[-LOG_LINES:])

    def _raised(self, event: Mapping[str, Any]) -> GgufpackError:
        error_class = getattr(errors, event["type"], None)
        if not (isinstance(error_class, type) and issubclass(error_class, GgufpackError)):
            error_class = self._error_class  # the child runs code of others
        error: GgufpackError = error_class(
            event["problem"],
            action=event["action"],
            path=None if event["path"] is None else Path(event["path"]),
            key=event["key"],
            finding=event["finding"],
        )
        error.log = self._log_tail()
        return error

    def _died(self) -> GgufpackError:
        assert self._process is not None  # noqa: S101 - only called once it was started
        try:
            code = self._process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            _end(self._process)
            code = None
        if code is None:
            error = self._error_class(
                f"The {self._what} closed its answers before it was done, and did not end by itself.",
                action="Its log is above this line (with --json: in error.log).",
            )
        elif code == -signal.SIGKILL:
            error = self._error_class(
                f"The {self._what} was killed, most likely because memory ran out.",
                action="Close other programs, or use a machine with more memory.",
            )
        elif code == -signal.SIGBUS:  # how the system says it of a file that is mapped into memory
            error = self._error_class(
                f"The {self._what} lost a file while it used it: one that it read became shorter, or the disk"
                " failed or is full.",
                action="Convert a checkpoint that nothing writes any more, and check the disk.",
            )
        else:
            error = self._error_class(
                f"The {self._what} stopped with status {code} before it was done.",
                action="Its log is above this line (with --json: in error.log).",
            )
        error.log = self._log_tail()
        return error


class Reporter:
    """Child side: writes events to the parent.

    Args:
        descriptor: of the event pipe, the module's first argument.
    """

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._last = 0.0
        # what libraries print is part of the log, not of the protocol
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(self, event: str, **values: Any) -> None:
        """One event, at once."""
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()

    def pass_on(self, line: bytes) -> None:
        """An event that another process wrote."""
        self._stream.write(line.decode() + "\n")
        self._stream.flush()

    def close(self) -> None:
        """In a copy of this process: the events are the other one's."""
        self._stream.close()

    def progress(self, done: int, total: int, item: str) -> None:
        """Progress, at most ten times a second, and the last one always."""
        now = time.monotonic()
        if done == total or now - self._last >= PROGRESS_SECONDS:
            self._last = now
            self.send("progress", done=done, total=total, item=item)

    def error(self, error: GgufpackError) -> None:
        """An error that the parent raises."""
        self.send(
            "error",
            type=type(error).__name__,
            problem=error.problem,
            action=error.action,
            path=None if error.path is None else str(error.path),
            key=error.key,
            finding=error.finding,
        )


Begin = Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]]


def serve(
    reporter: Reporter, begin: Begin, what: str, allow: Callable[[dict[str, Any]], Confinement]
) -> None:
    """Child side: answer requests ``{"do": NAME, …}`` until standard input closes.

    A confined copy of this process answers, where there can be one. This one has no other threads.

    Args:
        reporter: of this process; it has said "ready".
        begin: for the request "open", the first one: the object whose methods answer all other names, and
            the answer, which also gets ``confined``: what holds the process.
        what: of which an unexpected error speaks, ``"trained model"``: libraries raise anything.
        allow: for the first request: what the process may do.
    """
    first = sys.stdin.buffer.readline()
    if not first:
        return
    confinement = allow(json.loads(first))
    if not process.can_fork():
        when_orphaned(lambda: os._exit(1))  # nobody would take an answer
        _answer(reporter, begin, what, first, confine(confinement))
        return
    ended = process.run(
        confinement,
        lambda _descriptor, confined: _answer(reporter, begin, what, first, confined),
        lambda _line: None,
        keep_input=True,
    )
    if ended.excess is not None:
        reporter.error(VerificationError(f"The {what} was stopped: {ended.excess}."))
    elif ended.status:
        process.end_like(ended)


def _answer(reporter: Reporter, begin: Begin, what: str, first: bytes, confined: Confined) -> None:
    served: Any = None
    for line in itertools.chain([first], sys.stdin.buffer):
        request = json.loads(line)
        try:
            if request["do"] == "open":
                served, answer = begin(request)
                answer = {**answer, "confined": confined.to_json()}
            else:
                answer = getattr(served, request["do"])(request)
        except GgufpackError as error:
            reporter.error(error)
        except MemoryError:
            reporter.error(VerificationError(f"There is not enough memory to run the {what}."))
        except Exception as error:
            logging.getLogger("ggufpack").exception("the %s failed", what)
            said = next(iter(str(error).strip().splitlines()), "")[:300]
            reporter.error(
                VerificationError(
                    f"The {what} cannot be run ({type(error).__name__}: {said})",
                    action="Use --verify smoke, which needs no source model.",
                )
            )
        else:
            reporter.send("done", **answer)


def when_orphaned(act: Callable[[], None]) -> None:
    """Child side: call ``act``, in a thread, soon after the parent has died (killed: it closed nothing)."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_SECONDS)
        act()

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def leave() -> None:
    """End a child that is done. Tearing torch down takes half a second, and nothing is open."""
    sys.stderr.flush()
    os._exit(0)


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


_EVENTS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "progress": {"done": (int,), "total": (int, type(None)), "item": (str,)},
    "error": {
        "type": (str,),
        "problem": (str,),
        **dict.fromkeys(("action", "path", "key", "finding"), (str, type(None))),
    },
}


def _is_event(event: object) -> bool:
    """Whether it has a name, and what events of that name have."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return False
    wanted = _EVENTS.get(event["event"], {})
    return all(name in event and isinstance(event[name], kinds) for name, kinds in wanted.items())


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    # a child between requests leaves at once when its input closes; one at work is killed
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.wait(0.2 if sign is signal.SIGTERM else KILL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
    process.wait()
