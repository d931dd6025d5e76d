"""The side of a Ray node: one item, in a process that keeps its conversion worker for the next."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufpack import __version__
from ggufpack.batch import existing
from ggufpack.batch.builder_lock import LocksMissingError, only_builder
from ggufpack.batch.errands import Check, run_errand
from ggufpack.batch.items import Item, Outcome
from ggufpack.batch.scratch import own_scratch
from ggufpack.batch.urls import url_of
from ggufpack.convert.process import Worker
from ggufpack.engine.choose import find_server
from ggufpack.errors import CheckpointLayoutError, GgufpackError, UsageError, WorkerError
from ggufpack.pipeline import open_worker
from ggufpack.spec import BuildSpec, EventHandler, Note
from ggufpack.target import target_of

FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Errand:
    """An item on its way to a node. It can be pickled.

    Attributes:
        item: paths in its spec are absolute, or stand for URLs; it has a token.
        probe: a file that the driver has put beside the package; ``None`` when that goes to a URL.
        version: the driver's ggufpack.
        again: an earlier process died with this item.
    """

    item: Item
    probe: Path | None
    version: str
    again: bool = False


class Relay:
    """An actor that keeps events until the driver asks for them. It ends with the driver."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    def tell(self, key: str, event: Any) -> None:
        """From a node."""
        self._events.append((key, event))

    def flush(self) -> None:
        """From a node: calls of one process come in their order, so all that it told is there now."""

    def drain(self) -> list[tuple[str, Any]]:
        """For the driver: everything since the last time."""
        events, self._events = self._events, []
        return events


def build_item(errand: Errand, relay: Any) -> Outcome:
    """The Ray task."""
    import ray

    key = errand.item.key

    def tell(event: Any) -> None:
        relay.tell.remote(key, event)

    def still_wanted() -> None:
        try:
            ray.get(relay.flush.remote())
        except ray.exceptions.RayError as error:
            raise WorkerError(f"The batch that wanted {key} has ended.") from error

    outcome = carry_out_errand(errand, tell, still_wanted)
    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
        ray.get(relay.flush.remote(), timeout=FLUSH_SECONDS)
    return outcome


def carry_out_errand(errand: Errand, on_event: EventHandler, still_wanted: Check) -> Outcome:
    """Build an item on this node. Errors of ggufpack are its outcome.

    Args:
        errand: from the driver.
        on_event: gets events.
        still_wanted: raises when the driver has gone: nothing is published any more.
    """
    started = time.monotonic()
    item = errand.item
    try:
        _check(errand)
        _use_own_scratch()
        with _alone(item.spec, on_event, still_wanted):
            still_wanted()  # it may have waited long, for Ray or for the lock
            spec = _after_the_dead(errand)
            outcome = run_errand(Item(item.key, spec), _worker(), on_event, still_wanted)
    except GgufpackError as error:
        outcome = Outcome(item.key, "error", None, error.to_json(), 0.0)
    return replace(outcome, seconds=time.monotonic() - started)


@functools.cache
def _worker() -> Worker:
    """One for each process: its libraries are imported once. It ends with the process."""
    return open_worker()


@functools.cache
def _use_own_scratch() -> None:
    """Temporary files of this process and its children are found if they are killed."""
    held = own_scratch()
    tempfile.tempdir = os.environ["TMPDIR"] = str(held.scratch)
    atexit.register(held.close)


def _check(errand: Errand) -> None:
    spec = errand.item.spec
    if errand.version != __version__:
        raise UsageError(
            f"Node {platform.node()} has ggufpack {__version__}, and the batch runs in {errand.version}.",
            action="Install the same version on all nodes.",
        )
    inputs = (
        spec.checkpoint,
        spec.base,
        spec.imatrix,
        spec.calibration,
        *(one.folder for one in spec.adapters),
    )
    for path in inputs:
        if path is not None and url_of(path) is None and not path.exists():
            raise CheckpointLayoutError(
                f"{path} is not there on node {platform.node()}.",
                action="Put it on storage that all nodes see under this path, or give a URL (s3://…).",
                path=path,
            )
    if errand.probe is not None and not errand.probe.exists():
        raise UsageError(
            f"{errand.probe.parent} on node {platform.node()} is not the folder that the batch writes to.",
            action="Choose an --output that all nodes share, or a URL (s3://…).",
            path=errand.probe.parent,
        )


@contextlib.contextmanager
def _alone(spec: BuildSpec, on_event: EventHandler, still_wanted: Check) -> Iterator[None]:
    """As the only builder of this item, where packages go to a folder; a store by URL has no locks."""
    folder = target_of(spec).folder
    told: list[Note] = []

    def wait() -> None:
        still_wanted()
        if not told:
            told.append(Note("Waiting for its builder of a batch that was killed"))
            on_event(told[0])

    with contextlib.ExitStack() as stack:
        if url_of(folder) is None and spec.token is not None:
            try:
                stack.enter_context(only_builder(folder, spec.token, wait))
            except LocksMissingError:
                on_event(Note(f"{folder.parent} has no file locks: let one batch at a time write there"))
        yield


def _after_the_dead(errand: Errand) -> BuildSpec:
    """Remove what killed builders of the item left; the spec, which may replace a package of theirs."""
    spec = errand.item.spec
    if spec.token is None:
        return spec
    folder = target_of(spec).folder
    existing.clean_up(folder, spec.token)
    own = existing.read_own_record(folder, spec.token) is not None
    server = find_server(spec) if errand.again else None
    if server is not None:
        with contextlib.closing(server):
            existing.clean_up_server(server, spec.token)
    return replace(spec, overwrite=spec.overwrite or own)
