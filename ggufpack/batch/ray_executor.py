"""Items as tasks of a Ray cluster. Results come back to the driver, which alone keeps a journal."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack import __version__
from ggufpack.batch.budget import memory_of
from ggufpack.batch.items import Item, ItemHandler, Outcome
from ggufpack.batch.ray_cluster import connect
from ggufpack.batch.ray_task import Errand, Relay, build_item
from ggufpack.batch.urls import absolute as absolute_path
from ggufpack.batch.urls import url_of
from ggufpack.errors import GgufpackError, UsageError, WorkerError
from ggufpack.package_folder import working_prefix
from ggufpack.spec import BuildSpec, Note
from ggufpack.target import DEFAULT_OUTPUT, target_of

DEFAULT_THREADS = 2
DEFAULT_RETRIES = 2
_POLL_SECONDS = 0.2
# a build that is interrupted removes its files, and its model from the server: longer on a busy node
_CANCEL_SECONDS = 30.0


@dataclass(frozen=True)
class _Flight:
    """A task under way. ``losses`` counts the processes that died with it."""

    errand: Errand
    memory: int
    losses: int = 0

    def remove_probe(self) -> None:
        """After the last try."""
        if self.errand.probe is not None:
            self.errand.probe.unlink(missing_ok=True)


class RayExecutor:
    """An ``Executor`` on a Ray cluster; a context manager.

    Ray places each item where its threads and its memory are free. A process keeps its conversion worker
    for the items that follow. When a process or a node dies, its item is given to another.

    Args:
        address: ``"host:port"``, ``"ray://host:port"`` or ``"auto"``; ``None`` starts a cluster of this
            machine alone, which ends with the executor.
        jobs: items at once; ``None`` leaves it to the cluster's CPUs and memory.
        threads: of an item whose spec does not say; each is a CPU to Ray.
        retries: how often an item is given to another process after its own died.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        jobs: int | None = None,
        threads: int = DEFAULT_THREADS,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        self._address = address
        self._jobs = jobs
        self._threads = threads
        self._retries = retries
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RayExecutor:
        """Connect.

        Raises:
            UsageError: Ray is not installed, or no cluster answers at the address.
        """
        if find_spec("ray") is None:
            raise UsageError(
                "The executor ray needs the package ray.",
                action="Run: pip install 'ggufpack[ray]'.",
                key="executor",
            )
        with contextlib.ExitStack() as stack:
            connect(self._address, stack)
            import ray

            here = ray.get_runtime_context().get_node_id()
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
            actor: Any = ray.remote(Relay)
            self._relay = actor.options(num_cpus=0, scheduling_strategy=strategy).remote()
            stack.callback(ray.kill, self._relay)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        """Outcomes in the order in which items end (``Executor.run``)."""
        import ray

        waiting = list(reversed(items))
        flights: dict[Any, _Flight] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(_cancel, flights)
            while waiting or flights:
                while waiting and (self._jobs is None or len(flights) < self._jobs):
                    item = waiting.pop()
                    try:
                        flight = self._prepare(item)
                        flights[self._submit(flight)] = flight
                    except GgufpackError as error:
                        yield Outcome(item.key, "error", None, error.to_json(), 0.0)
                ready, _ = ray.wait(list(flights), timeout=_POLL_SECONDS) if flights else ([], None)
                self._relay_events(on_event)
                for reference in ready:
                    flight = flights.pop(reference)
                    outcome = self._outcome(reference, flight)
                    if isinstance(outcome, Outcome):
                        flight.remove_probe()
                        self._relay_events(on_event)
                        yield outcome
                    else:
                        left = self._retries - flight.losses
                        on_event(flight.errand.item.key, Note(f"Its process was lost; {left} more tries"))
                        flights[self._submit(outcome)] = outcome

    def _prepare(self, item: Item) -> _Flight:
        spec = absolute(replace(item.spec, threads=item.spec.threads or self._threads))
        if self._address is not None:
            spec = _with_host(spec)
        memory = memory_of(spec)
        _refuse_what_no_node_has(spec.threads or 1, memory)
        # by it a new try knows what the one before it left
        spec = replace(spec, token=spec.token or secrets.token_hex(6))
        return _Flight(Errand(Item(item.key, spec), _probe(spec), __version__), memory)

    def _submit(self, flight: _Flight) -> Any:
        import ray

        if flight.errand.probe is not None:
            _leave(flight.errand.probe)
        task = ray.remote(build_item).options(
            num_cpus=flight.errand.item.spec.threads,
            memory=flight.memory,
            max_retries=0,  # the driver gives an item out again itself: a new try has to clean up first
            name=flight.errand.item.key,
        )
        return task.remote(flight.errand, self._relay)

    def _outcome(self, reference: Any, flight: _Flight) -> Outcome | _Flight:
        """How a task ended; or the next try, when its process died."""
        import ray

        key = flight.errand.item.key
        try:
            outcome: Outcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # a bug, or a node without ggufpack
            said = str(error).strip().splitlines()[-1]
            bug = WorkerError(
                f"{key} failed on its node: {said}", action="Check that ggufpack runs on all nodes."
            )
            bug.log = str(error)
            return Outcome(key, "error", None, bug.to_json(), 0.0)
        except ray.exceptions.RayError as error:
            if flight.losses >= self._retries:
                lost = WorkerError(
                    f"{key} was given up: {flight.losses + 1} processes died with it, the last of"
                    f" {type(error).__name__}.",
                    action="Most likely memory ran out: use nodes with more of it, or fewer --threads.",
                )
                lost.log = str(error)
                return Outcome(key, "error", None, lost.to_json(), 0.0)
            return _Flight(replace(flight.errand, again=True), flight.memory, flight.losses + 1)
        return outcome

    def _relay_events(self, on_event: ItemHandler) -> None:
        import ray

        for key, event in ray.get(self._relay.drain.remote()):
            on_event(key, event)


def _probe(spec: BuildSpec) -> Path | None:
    """A file by which a node can tell that it sees the driver's folder; it goes with what a build leaves."""
    folder = target_of(spec).folder
    if url_of(folder) is not None:
        return None
    return folder.with_name(f"{working_prefix(folder, spec.token)}probe")


def _leave(probe: Path) -> None:
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise UsageError(
            f"{probe.parent} cannot be written: {error.strerror or error}.",
            action="Choose another --output.",
            path=probe.parent,
        ) from error


def absolute(spec: BuildSpec) -> BuildSpec:
    """The spec with paths that do not depend on the current folder; URLs stay."""

    def there(path: Path | None) -> Path | None:
        return None if path is None else absolute_path(path)

    template = Path(spec.template)
    return replace(
        spec,
        checkpoint=there(spec.checkpoint) or spec.checkpoint,
        output=there(spec.output or DEFAULT_OUTPUT),
        base=there(spec.base),
        adapters=tuple(replace(one, folder=there(one.folder) or one.folder) for one in spec.adapters),
        imatrix=there(spec.imatrix),
        calibration=there(spec.calibration),
        template=str(template.absolute()) if template.is_file() else spec.template,
    )


def _with_host(spec: BuildSpec) -> BuildSpec:
    """On another machine nobody's default server is meant: one is named, or nothing is registered."""
    host = spec.host or os.environ.get("OLLAMA_HOST") or None
    return replace(spec, host=host, register=spec.register and host is not None)


def _nodes() -> list[dict[str, Any]]:
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def _refuse_what_no_node_has(cpus: int, memory: int) -> None:
    nodes = [node["Resources"] for node in _nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("memory", 0) >= memory for node in nodes):
        raise WorkerError(
            f"No node of the cluster has {cpus} CPUs and {memory / 1e9:.1f} GB of memory.",
            action="Use fewer --threads, or add a larger node.",
        )


def _cancel(flights: dict[Any, _Flight]) -> None:
    """End what is under way: builds are interrupted and clean up; who does not end is killed."""
    import ray

    if not flights:
        return
    for flight in flights.values():
        flight.remove_probe()
    for force in (False, True):
        left = list(flights)
        for reference in left:
            ray.cancel(reference, force=force)
        ready, _ = ray.wait(left, num_returns=len(left), timeout=_CANCEL_SECONDS)
        for reference in ready:
            del flights[reference]
        if not flights:
            return
