"""The side of a Ray node: one item, in a process that keeps its conversion worker for the next."""

from __future__ import annotations

import contextlib
import functools
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack import __version__
from ggufpack.batch import existing
from ggufpack.batch.errands import run_errand
from ggufpack.batch.items import Item, Outcome
from ggufpack.batch.urls import url_of
from ggufpack.convert.process import Worker
from ggufpack.errors import CheckpointLayoutError, GgufpackError, UsageError
from ggufpack.pipeline import open_worker, target_of
from ggufpack.spec import BuildSpec, EventHandler

FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Errand:
    """An item on its way to a node. It can be pickled.

    Attributes:
        item: paths in its spec are absolute, or URLs.
        probe: a file that the driver keeps beside the packages; ``None`` when they go to a URL.
        version: the driver's ggufpack.
        free: there was nothing where the package goes, before the first try.
        again: an earlier process died with this item.
    """

    item: Item
    probe: Path | None
    version: str
    free: bool
    again: bool = False


class Relay:
    """An actor that keeps events until the driver asks for them."""

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

    outcome = _carry_out(errand, tell)
    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
        ray.get(relay.flush.remote(), timeout=FLUSH_SECONDS)
    return outcome


def _carry_out(errand: Errand, on_event: EventHandler) -> Outcome:
    started = time.monotonic()
    item = errand.item
    try:
        _check(errand)
        if errand.again:
            _remove_unfinished(item.spec)
    except GgufpackError as error:
        return Outcome(item.key, "error", None, error.to_json(), time.monotonic() - started)
    return run_errand(item, _worker(), on_event)


@functools.cache
def _worker() -> Worker:
    """One for each process: its libraries are imported once. It ends with the process."""
    return open_worker()


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


def _remove_unfinished(spec: BuildSpec) -> None:
    """What a build left when its process was killed: beside the package, and on the server."""
    if spec.token is not None:
        existing.clean_up(target_of(spec).folder, spec.token)
