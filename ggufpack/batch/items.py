"""One checkpoint of a batch, what became of it, and who carries items out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ggufpack.convert.process import Worker
from ggufpack.errors import GgufpackError, VerificationError
from ggufpack.pipeline import run
from ggufpack.spec import BuildSpec, Event, EventHandler, ignore_event

OutcomeStatus = Literal["verified", "unverified", "failed", "error"]
# an item's key, and what happens to it
ItemHandler: TypeAlias = Callable[[str, Event], None]


@dataclass(frozen=True)
class Item:
    """One build of a batch. It can be pickled: executors send it to other processes.

    Attributes:
        key: its name in the batch; no two have the same.
        spec: everything that the build depends on.
    """

    key: str
    spec: BuildSpec


@dataclass(frozen=True)
class Outcome:
    """How an item ended. It can be pickled.

    Attributes:
        key: of the item.
        status: of the build; "failed" when its verification failed (the package exists), "error" when
            it stopped before there was a package.
        result: ``BuildResult.to_json()``; ``None`` after an error.
        error: ``GgufpackError.to_json()``, after "failed" and "error".
        seconds: wall time.
    """

    key: str
    status: OutcomeStatus
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    seconds: float


class Executor(Protocol):
    """Carries items out, on this machine or others."""

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        """Outcomes in the order in which items end; one for each item, whatever happens to it.

        Raises:
            GgufpackError: nothing can be carried out at all.
        """
        ...


def carry_out(
    item: Item,
    worker: Worker | None = None,
    on_event: EventHandler = ignore_event,
    before_publish: Callable[[Path], None] | None = None,
) -> Outcome:
    """Build one item of this machine. Errors of ggufpack are its outcome; others (a bug) are raised."""
    started = time.monotonic()
    try:
        result = run(item.spec, on_event, worker, before_publish)
    except GgufpackError as error:
        made = error.result if isinstance(error, VerificationError) else None
        return Outcome(
            item.key,
            "error" if made is None else "failed",
            None if made is None else made.to_json(),
            error.to_json(),
            time.monotonic() - started,
        )
    return Outcome(item.key, result.status, result.to_json(), None, time.monotonic() - started)
