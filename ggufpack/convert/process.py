"""Parent side: starts the worker, gives it jobs, reads its events, ends it.

The worker is long-lived: one ``Worker`` converts many checkpoints and loads torch once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack.child import Child, OnProgress
from ggufpack.confinement import Confined
from ggufpack.convert.libraries import Imports
from ggufpack.convert.protocol import Job
from ggufpack.errors import WorkerError
from ggufpack.package_folder import refusals
from ggufpack.resources import sync
from ggufpack.spec import GgufFile, Reused
from ggufpack.vendoring.loading import bytecode_folder

_TYPE_NAME = re.compile(r"[A-Z0-9_]+")
# not on this file system, not for this user, or the file is gone meanwhile: then it is written anew
_NO_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.ENOENT})


def _ignore_progress(_done: int, _total: int, _item: str) -> None:
    """For those who do not watch."""


@dataclass(frozen=True)
class Converted:
    """What one job wrote, under the final names.

    Attributes:
        projector: the vision tower's file; ``None`` when there was none to write, and when the converter
            has no projector for the architecture.
        peak_rss: the worker's, in bytes, so far.
        reused: from the tensor cache; ``None`` without one.
        notes: sentences for the person who watches.
        confined: what held the process.
    """

    files: tuple[GgufFile, ...]
    peak_rss: int
    reused: Reused | None = None
    notes: tuple[str, ...] = ()
    projector: GgufFile | None = None
    confined: Confined = field(default_factory=Confined)


class Worker:
    """A conversion worker. Use as a context manager; leaving it ends the process.

    Its process starts with the first job or with ``start``, and serves many jobs. It begins with as
    little of transformers as most checkpoints need; where that fails, it starts again with all of it.

    Args:
        vendor: the verified folder of the vendored converter.
    """

    def __init__(self, vendor: Path) -> None:
        self._vendor = vendor
        self._imports = Imports.LIGHT
        self._child = self._make_child()
        self._noted = False
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

    @property
    def pid(self) -> int | None:
        """Of the process; ``None`` when there is none."""
        return self._child.pid

    def start(self) -> None:
        """Start the process; its imports take seconds in which the caller has other work."""
        with self._lock:
            self._child.start()

    def close(self) -> None:
        """End the process (asking first), and remove its folder."""
        self._child.close()

    def convert(self, job: Job, on_progress: OnProgress = _ignore_progress) -> Converted:
        """Convert one checkpoint to its files, in one read.

        Args:
            job: ``outputs`` are final paths; each is written under a temporary name beside it.
            on_progress: called with (weights done, of all, tensor name).

        Raises:
            ConversionError: or one of its subclasses, as the worker found it.
            WorkerError: the worker died; the end of its log is the error's ``log``.
            UsageError: the disk refuses the final names.
        """
        # the worker has another current folder
        final = {name: path.absolute() for name, path in job.outputs}
        temporary = {name: _temporary(path) for name, path in final.items()}
        tower = None if job.projector is None else _temporary(job.projector)
        made_before = [] if job.plan_only else [*temporary.values(), *([] if tower is None else [tower])]
        links: dict[str, Path] = {}
        try:
            for path in made_before:  # the worker may write these, and make no others
                with refusals(path):
                    path.unlink(missing_ok=True)
                    path.touch(exist_ok=False)
            links = {} if job.plan_only else _linked(job.earlier, final)
            with self._lock:
                asked = replace(
                    job, outputs=tuple(temporary.items()), projector=tower, earlier=tuple(links.items())
                )
                done = self._run(asked, on_progress)
            with _as_agreed():
                converted = _converted(done, final, job.projector)
                source = links if done["taken_whole"] else temporary
                written = [(source[file.quantization], file) for file in converted.files]
            if converted.projector is not None and tower is not None:
                written.append((tower, converted.projector))
            if not job.plan_only:
                for made, file in written:
                    with refusals(file.path):
                        _check_size(made, file)
                        made.replace(file.path)
                        sync(file.path.parent)
            return replace(converted, notes=(*converted.notes, *self._note(converted.confined)))
        except BaseException:
            self.close()  # a worker that failed or was interrupted may still be writing
            raise
        finally:
            for path in (*made_before, *links.values()):
                path.unlink(missing_ok=True)

    def _note(self, confined: Confined) -> tuple[str, ...]:
        """What does not hold the process, once."""
        note, self._noted = (None if self._noted else confined.note), True
        return () if note is None else (note,)

    def _run(self, job: Job, on_progress: OnProgress) -> dict[str, Any]:
        if job.trust_remote_code:
            self._use_all_of_transformers()  # the checkpoint's own code may ask for anything
        while True:
            for event in self._child.ask(job.to_line()):
                if event["event"] == "progress":
                    on_progress(event["done"], event["total"], event["item"])
                elif event["event"] == "done":
                    return event
                elif event["event"] == "restart":
                    break
            self._use_all_of_transformers()

    def _use_all_of_transformers(self) -> None:
        if self._imports is not Imports.ALL:
            self._child.close()
            self._imports = Imports.ALL
            self._child = self._make_child()

    def _make_child(self) -> Child:
        return Child(
            "ggufpack.convert.worker",
            (str(self._vendor), str(bytecode_folder()), self._imports.value),
            what="conversion worker",
            error=WorkerError,
        )


@contextlib.contextmanager
def _as_agreed() -> Iterator[None]:
    """The process may run code of others: what it says is read with care."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WorkerError(f"The conversion worker said what no conversion says ({error!r}).") from error


def _converted(done: Mapping[str, Any], final: Mapping[str, Path], tower: Path | None) -> Converted:
    """What a "done" event says, under the final names."""
    files = tuple(GgufFile(**{**file, "path": final[file["quantization"]]}) for file in done["files"])
    if [file.quantization for file in files] != list(final):
        raise ValueError("other files than those that were asked for")
    projector = None
    if tower is not None and done["projector"] is not None:
        path = typed_name(tower, done["projector"]["quantization"])
        projector = GgufFile(**{**done["projector"], "path": path})
    reused = None if done["reused"] is None else Reused(**done["reused"])
    confined = Confined.from_json(done["confined"])
    return Converted(files, int(done["peak_rss"]), reused, tuple(done["notes"]), projector, confined)


def _check_size(made: Path, file: GgufFile) -> None:
    if made.stat().st_size != file.size:
        raise WorkerError(f"{made} has {made.stat().st_size:,} bytes, and the worker wrote {file.size!r}.")


def _linked(earlier: Iterable[tuple[str, Path]], final: Mapping[str, Path]) -> dict[str, Path]:
    """Hard links to the earlier package's files beside the new ones; none where one cannot be made."""
    links: dict[str, Path] = {}
    try:
        for name, path in earlier:
            links[name] = _temporary(final[name].with_name(f"{final[name].name}.earlier"))
            links[name].unlink(missing_ok=True)
            links[name].hardlink_to(path)
    except OSError as error:
        for link in links.values():
            link.unlink(missing_ok=True)
        if error.errno not in _NO_LINK:
            raise
        return {}
    return links


def typed_name(path: Path, file_type: str) -> Path:
    """``NAME-mmproj.gguf`` is ``NAME-mmproj-F16.gguf``: only the converter knows the type."""
    if not _TYPE_NAME.fullmatch(file_type):
        raise ValueError(f"{file_type!r} is no type")
    return path.with_name(f"{path.stem}-{file_type}{path.suffix}")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")
