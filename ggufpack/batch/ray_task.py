"""The side of a Ray node: one item, in a process that keeps its conversion worker for the next."""

from __future__ import annotations

import contextlib
import functools
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufpack import __version__
from ggufpack.batch import storage
from ggufpack.batch.items import Item, Outcome, carry_out
from ggufpack.convert.process import Worker
from ggufpack.errors import CheckpointLayoutError, GgufpackError, UsageError
from ggufpack.pipeline import DEFAULT_OUTPUT, open_worker
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

    outcome = run_errand(errand, tell)
    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
        ray.get(relay.flush.remote(), timeout=FLUSH_SECONDS)
    return outcome


def run_errand(errand: Errand, on_event: EventHandler) -> Outcome:
    """Build an item whose checkpoint and output may be elsewhere. Errors of ggufpack are its outcome."""
    started = time.monotonic()
    item = errand.item
    try:
        _check(errand)
        with _local_spec(item.spec) as spec:
            if errand.again:
                _remove_unfinished(spec)
            outcome = carry_out(Item(item.key, spec), _worker(), on_event)
            if outcome.result is not None:
                outcome = replace(outcome, result=_put_back(item.spec, outcome.result))
    except GgufpackError as error:
        return Outcome(item.key, "error", None, error.to_json(), time.monotonic() - started)
    return replace(outcome, seconds=time.monotonic() - started)


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
        if path is not None and storage.url_of(path) is None and not path.exists():
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
def _local_spec(spec: BuildSpec) -> Iterator[BuildSpec]:
    """The spec with folders of this machine; what has a URL is fetched, and forgotten at the end."""
    output = storage.url_of(spec.output) if spec.output is not None else None
    with contextlib.ExitStack() as stack:

        def scratch(name: str) -> Path:
            # none is made for paths: a process that is killed would leave it
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"ggufpack-{name}-")))

        def local(path: Path) -> Path:
            url = storage.url_of(path)
            return path if url is None else storage.fetch(url, scratch("fetched"))

        if output is not None and not spec.overwrite and storage.exists(_package_url(spec, output)):
            raise UsageError(
                f"{_package_url(spec, output)} holds a package already.",
                action="Pass --overwrite to replace it, or choose another --output.",
            )
        yield replace(
            spec,
            checkpoint=local(spec.checkpoint),
            base=None if spec.base is None else local(spec.base),
            adapters=tuple(replace(one, folder=local(one.folder)) for one in spec.adapters),
            output=spec.output if output is None else scratch("packages"),
        )


def _put_back(spec: BuildSpec, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bring the package to where it was asked for; the result with the paths that it has there."""
    output = None if spec.output is None else storage.url_of(spec.output)
    if output is None:
        return result
    folder = Path(result["folder"])
    url = storage.joined(output, folder.name)
    storage.put(folder, url, overwrite=spec.overwrite)

    def there(path: str) -> str:
        return storage.joined(url, Path(path).name)

    return {
        **result,
        "folder": url,
        "files": [{**file, "path": there(file["path"])} for file in result["files"]],
        "modelfiles": {name: there(path) for name, path in result["modelfiles"].items()},
        "record": there(result["record"]),
    }


def _package_url(spec: BuildSpec, output: str) -> str:
    return storage.joined(output, package_name(spec))


def package_name(spec: BuildSpec) -> str:
    """Name of the package folder."""
    from ggufpack.registry.names import suggested

    return (spec.name or suggested(spec.checkpoint.name)).rsplit("/", 1)[-1]


def _remove_unfinished(spec: BuildSpec) -> None:
    """What a build left beside the package when its process was killed."""
    for folder in (spec.output or DEFAULT_OUTPUT).glob(f".{package_name(spec)}.tmp-*"):
        shutil.rmtree(folder, ignore_errors=True)
