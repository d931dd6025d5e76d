"""Parent side: starts the worker, gives it jobs, reads its events, ends it.

The worker is long-lived: one ``Worker`` converts many checkpoints and loads torch once. It runs in
an empty folder (no module of the caller's can be imported by accident) and in a process group of
its own, so that Ctrl-C reaches the parent alone, which then ends the worker and cleans up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import platformdirs

from ggufpack import errors
from ggufpack.convert.libraries import Imports
from ggufpack.convert.protocol import Job
from ggufpack.errors import GgufpackError, WorkerError
from ggufpack.resources import sync
from ggufpack.spec import GgufFile

OnProgress = Callable[[int, int, str], None]
KILL_SECONDS = 5.0
LOG_LINES = 40
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # it would say that PyTorch is missing (libraries.py)
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",  # a training process may hold the GPU: the worker must not touch it
    "PYTHONHASHSEED": "0",  # the converter iterates over sets
    "PYTHONUNBUFFERED": "1",
    # glibc gives large buffers back at once: 50 MB less at the peak than with its moving threshold
    "MALLOC_MMAP_THRESHOLD_": "131072",
}


def _ignore_progress(_done: int, _total: int, _item: str) -> None:
    """For those who do not watch."""


@dataclass(frozen=True)
class Converted:
    """What one job wrote, under the final names. ``peak_rss`` is the worker's, in bytes, so far."""

    files: tuple[GgufFile, ...]
    peak_rss: int


class Worker:
    """A conversion worker. Use as a context manager; leaving it ends the process.

    Its process starts with the first job or with ``start``, and serves many jobs. It begins with as
    little of transformers as most checkpoints need; where that fails, it starts again with all of it.

    Args:
        vendor: the verified folder of the vendored converter.
    """

    def __init__(self, vendor: Path) -> None:
        self._vendor = vendor
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._imports = Imports.LIGHT
        self._ready = False
        self._lock = threading.Lock()  # one job at a time

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process; its imports take seconds in which the caller has other work."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._process is None:
            self._launch()

    def close(self) -> None:
        """End the process (asking first), and remove its folder."""
        process, self._process = self._process, None
        self._ready = False
        if process is not None:
            _end(process)
        self._stack.close()

    def convert(self, job: Job, on_progress: OnProgress = _ignore_progress) -> Converted:
        """Convert one checkpoint to its files, in one read.

        Args:
            job: ``outputs`` are final paths; each is written under a temporary name beside it.
            on_progress: called with (weights done, of all, tensor name).

        Raises:
            ConversionError: or one of its subclasses, as the worker found it.
            WorkerError: the worker died; the end of its log is the error's ``log``.
        """
        # the worker has another current folder
        final = {name: path.absolute() for name, path in job.outputs}
        temporary = {name: _temporary(path) for name, path in final.items()}
        try:
            with self._lock:
                done = self._run(replace(job, outputs=tuple(temporary.items())), on_progress)
            files = [GgufFile(**{**file, "path": final[file["quantization"]]}) for file in done["files"]]
            if not job.plan_only:
                for file in files:
                    temporary[file.quantization].replace(file.path)
                    sync(file.path.parent)
            return Converted(tuple(files), done["peak_rss"])
        except BaseException:
            self.close()  # a worker that failed or was interrupted may still be writing
            raise
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)

    def _run(self, job: Job, on_progress: OnProgress) -> dict[str, Any]:
        if job.trust_remote_code:
            self._use_all_of_transformers()  # the checkpoint's own code may ask for anything
        while True:
            self._send(job)
            for event in self._events:
                if event["event"] == "progress":
                    on_progress(event["done"], event["total"], event["item"])
                elif event["event"] == "error":
                    raise self._error(event)
                elif event["event"] == "done":
                    return event
                elif event["event"] == "restart":
                    break
            else:
                raise self._died()
            self._use_all_of_transformers()

    def _use_all_of_transformers(self) -> None:
        if self._imports is not Imports.ALL:
            self.close()
            self._imports = Imports.ALL

    def _send(self, job: Job) -> None:
        self._start()
        if not self._ready and next(self._events, {"event": None})["event"] != "ready":
            raise self._died()
        self._ready = True
        assert self._process is not None  # noqa: S101 - it was started
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        try:
            self._process.stdin.write(job.to_line())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _launch(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ggufpack-worker-")))
        self._log = folder / "log"
        cwd = folder / "cwd"
        cwd.mkdir()
        bytecode = Path(platformdirs.user_cache_dir("ggufpack")) / "bytecode"
        read, write = os.pipe()
        log = self._stack.enter_context(self._log.open("wb"))
        arguments = (str(self._vendor), str(bytecode), str(write), self._imports.value)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ggufpack.convert.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env={**os.environ, **_OFFLINE},
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        self._events = _lines(self._stack.enter_context(os.fdopen(read, "rb")))

    def _log_tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def _error(self, event: Mapping[str, Any]) -> GgufpackError:
        error_class = getattr(errors, event["type"])
        error: GgufpackError = error_class(
            event["problem"],
            action=event["action"],
            path=None if event["path"] is None else Path(event["path"]),
            key=event["key"],
            finding=event["finding"],
        )
        error.log = self._log_tail()
        return error

    def _died(self) -> WorkerError:
        assert self._process is not None  # noqa: S101 - only called once it was started
        code = self._process.wait(KILL_SECONDS)
        if code == -signal.SIGKILL:
            error = WorkerError(
                "The conversion worker was killed, most likely because memory ran out.",
                action="Close other programs, or use a machine with more memory.",
            )
        else:
            error = WorkerError(
                f"The conversion worker stopped with status {code} before it was done.",
                action="Its log is above this line (with --json: in error.log).",
            )
        error.log = self._log_tail()
        return error


def _lines(stream: Any) -> Iterator[dict[str, Any]]:
    for line in stream:
        yield json.loads(line)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    # a worker between jobs leaves at once when its input closes; one in a job is killed
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.wait(0.2 if sign is signal.SIGTERM else KILL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
    process.wait()
