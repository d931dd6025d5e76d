"""Packages saves of a training in the background, one after the other, each in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import os
import secrets
import shutil
import signal
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufpack.batch import existing
from ggufpack.batch.items import Outcome, OutcomeStatus
from ggufpack.checkpoint.layout import is_adapter
from ggufpack.child import KILL_SECONDS, Child, usable_cpus
from ggufpack.errors import CheckpointLayoutError, GgufpackError, UsageError, WorkerError
from ggufpack.integrations.bases import base_folder
from ggufpack.integrations.snapshots import Snapshot, has_tokenizer, take_snapshot
from ggufpack.integrations.tasks import Tasks, WhenBusy
from ggufpack.pipeline import build
from ggufpack.quantize.types import parse_file_types
from ggufpack.registry import OllamaServer
from ggufpack.registry.names import validate
from ggufpack.spec import DEFAULT_QUANTIZATION
from ggufpack.target import DEFAULT_OUTPUT

MAX_THREADS = 4
_OURS = frozenset({"checkpoint", "name", "base", "worker", "token", "on_event"})
_logger = logging.getLogger("ggufpack")


@dataclass(frozen=True)
class _Save:
    """One save to package."""

    name: str
    snapshot: Snapshot
    base: Path | None
    token: str = field(default_factory=lambda: secrets.token_hex(6))


class BackgroundPackager:
    """Packages folders while the caller goes on. Nothing is computed in the caller's process.

    What does not become a package is logged as an error, and an outcome says why; nothing is raised.
    When the interpreter ends, what still runs is stopped, and leaves nothing behind.

    Args:
        when_busy: what happens to a save that comes while another one is packaged (``tasks.Tasks``).
        max_waiting: of ``"queue"``.
        options: of ``ggufpack.build``, with other defaults: ``register`` is off, because a server would
            run the model on the GPU to verify it; ``verify`` is "prompts", because an early save may
            well not end its answers; ``threads`` is a quarter of the CPUs, at most ``MAX_THREADS``.

    Raises:
        UsageError: an option that ``build`` does not have, or a value that cannot be meant.
    """

    def __init__(
        self, options: Mapping[str, Any], *, when_busy: WhenBusy = "queue", max_waiting: int = 4
    ) -> None:
        self._options = _checked(options)
        self._cwd = Path.cwd()
        self._process = os.getpid()
        self._child: Child | None = None
        self._stopping = False
        self.outcomes: list[Outcome] = []
        self._tasks: Tasks[_Save] = Tasks(self._carry_out, when_busy, max_waiting)
        atexit.register(_stop_at_exit, weakref.ref(self))

    def package(self, folder: Path, name: str, *, base: Path | None = None, tokenizer: Any = None) -> None:
        """Package a folder under a name; takes a snapshot of it and returns.

        Args:
            folder: a checkpoint, or a PEFT adapter.
            name: of the package and the model.
            base: of an adapter; ``None`` takes the one that its configuration names.
            tokenizer: an object with ``save_pretrained``, or a folder, for a save without tokenizer files.
        """
        try:
            snapshot = take_snapshot(folder)
        except GgufpackError as error:
            self.refuse(name, error)
            return
        self.package_snapshot(snapshot, name, base=base, tokenizer=tokenizer)

    def package_snapshot(
        self, snapshot: Snapshot, name: str, *, base: Path | None = None, tokenizer: Any = None
    ) -> None:
        """As ``package``, of a snapshot; it is removed when it is done."""
        try:
            adapter = is_adapter(snapshot.folder)
            if not has_tokenizer(snapshot.folder):
                _add_tokenizer(snapshot.folder, tokenizer, needed=not adapter)
            save = _Save(name, snapshot, base_folder(snapshot.folder, base, self._cwd) if adapter else None)
        except GgufpackError as error:
            snapshot.remove()
            self.refuse(name, error)
            return
        for displaced in self._tasks.put(save):
            displaced.snapshot.remove()
            self.refuse(displaced.name, _displaced(displaced.name))

    def wait(self) -> None:
        """Return when everything that was handed in is done."""
        self._tasks.join()

    def stop(self) -> None:
        """End what runs and forget what waits. Nothing of either is left on disk."""
        if os.getpid() != self._process:
            return  # a fork: the packages are its parent's
        self._stopping = True
        for save in self._tasks.cancel():
            save.snapshot.remove()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            pid = None if self._child is None else self._child.pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, sign)
            if self._tasks.join(2 * KILL_SECONDS):
                return

    def _carry_out(self, save: _Save) -> None:
        started = time.monotonic()
        _logger.info("packaging %s", save.name)
        try:
            done = self._run(save)
        except GgufpackError as error:
            done = {"result": None, "error": error.to_json()}
        except Exception as error:
            _logger.exception("packaging %s failed", save.name)
            bug = GgufpackError(f"Unexpected {type(error).__name__}: {error}")
            done = {"result": None, "error": bug.to_json()}
        finally:
            save.snapshot.remove()
        result, error_json = done["result"], done["error"]
        status: OutcomeStatus = "error" if result is None else result["status"]
        self.outcomes.append(Outcome(save.name, status, result, error_json, time.monotonic() - started))
        if self._stopping:
            return
        if error_json is not None:
            _logger.error("%s: %s %s", save.name, error_json["problem"], error_json["action"] or "")
        else:
            seconds = self.outcomes[-1].seconds
            _logger.info("packaged %s in %.0f s: %s, %s", save.name, seconds, status, result["folder"])

    def _run(self, save: _Save) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            **self._options,
            "checkpoint": save.snapshot.folder,
            "name": save.name,
            "token": save.token,
        }
        if save.base is not None:
            arguments["base"] = save.base
        child = Child(
            "ggufpack.integrations.packager",
            (str(self._cwd),),
            what="packaging process",
            error=WorkerError,
            secrets=True,  # it may push
        )
        try:
            if self._stopping:
                raise WorkerError("The packaging was stopped.")
            child.start()
            self._child = child
            done = child.call({"arguments": arguments, "stamps": save.snapshot.stamps})
        except BaseException:
            self._remove_unfinished(save)
            raise
        finally:
            self._child = None
            child.close()
        return done

    def _remove_unfinished(self, save: _Save) -> None:
        """What a process that was killed could not remove itself."""
        output = self._cwd / (self._options.get("output") or DEFAULT_OUTPUT)
        try:
            existing.clean_up(output / save.name.rsplit("/", 1)[-1], save.token)
            if self._options["register"]:
                with contextlib.closing(OllamaServer(self._options.get("host"))) as server:
                    existing.clean_up_server(server, save.token)
        except GgufpackError as error:
            _logger.warning("what %s left could not be removed: %s", save.name, error)

    def refuse(self, name: str, error: GgufpackError) -> None:
        """Note that a save does not become a package."""
        _logger.error("%s: %s", name, error)
        self.outcomes.append(Outcome(name, "error", None, error.to_json(), 0.0))


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    known = set(inspect.signature(build).parameters) - _OURS
    for name in options:
        if name not in known:
            raise UsageError(
                f"{name!r} is no option here.", action=f"There are: {', '.join(sorted(known))}.", key=name
            )
    words = options.get("quantization", DEFAULT_QUANTIZATION)
    parse_file_types(words if isinstance(words, str) else ",".join(words))
    threads = max(1, min(MAX_THREADS, usable_cpus() // 4))
    return {"register": False, "verify": "prompts", "threads": threads, **options}


def checked_pattern(pattern: str) -> str:
    """A pattern of names, when it makes valid ones.

    Raises:
        UsageError: it has no ``{step}``, or something else in braces than ``{run}``.
        InvalidModelNameError: Ollama would refuse its names.
    """
    try:
        first, second = (pattern.format(run="run", step=step) for step in (1, 2))
    except (KeyError, IndexError, ValueError):
        first = second = ""
    if first == second:
        raise UsageError(
            f"{pattern!r} is no pattern for names.",
            action='Use {run} and {step}: "{run}-{step}".',
            key="name",
        )
    validate(first)
    return pattern


def _add_tokenizer(folder: Path, tokenizer: Any, *, needed: bool) -> None:
    if isinstance(tokenizer, (str, os.PathLike)):
        source = Path(tokenizer)
        if not has_tokenizer(source):
            raise CheckpointLayoutError(f"{source} has no tokenizer files.", path=source)
        for file in source.iterdir():
            if file.is_file() and not (folder / file.name).exists() and file.suffix != ".safetensors":
                shutil.copyfile(file, folder / file.name)
    elif tokenizer is not None:
        tokenizer.save_pretrained(folder)
    elif needed:
        raise CheckpointLayoutError(
            f"{folder.name} is not packaged: the trainer saved no tokenizer with it.",
            action="Give the Trainer processing_class=tokenizer, or the callback tokenizer=….",
            path=folder,
        )


def _displaced(name: str) -> GgufpackError:
    return GgufpackError(
        f"{name} was not packaged: newer saves came before it was its turn.",
        action="Save less often, allow more threads, or raise max_waiting.",
    )


def _stop_at_exit(reference: weakref.ref[BackgroundPackager]) -> None:
    packager = reference()
    if packager is not None:
        packager.stop()
