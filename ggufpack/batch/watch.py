"""Checkpoints as they appear. Polling: it works on network disks too.

A checkpoint is taken when it is complete (``discover.incomplete``), has the files that its siblings have at
the end of a save (``trainer_state.json``), and has not changed between two looks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ggufpack.batch.discover import TRAINER_STATE, LeftOut
from ggufpack.batch.inputs import Inputs
from ggufpack.batch.planning import BatchPlan, Planned, plan_batch
from ggufpack.batch.storage import Signature
from ggufpack.errors import GgufpackError
from ggufpack.spec import BuildSpec

POLL_SECONDS = 2.0


def watch(
    arguments: Sequence[str], defaults: BuildSpec, idle: float | None, *, poll: float = POLL_SECONDS
) -> Iterator[BatchPlan]:
    """Plans of what is new, as soon as something is; of a checkpoint that was saved again, too.

    Args:
        arguments: as ``plan_batch`` takes them.
        defaults: as ``plan_batch`` takes them.
        idle: seconds without anything new after which it ends; ``None``: never.
        poll: seconds between two looks.

    Raises:
        UsageError: as ``plan_batch``.
    """
    watcher = Watcher(arguments, defaults)
    last = time.monotonic()
    while idle is None or time.monotonic() - last < idle:
        plan = watcher.look()
        if plan.items:
            yield plan
            last = time.monotonic()
        else:
            time.sleep(poll)


class Watcher:
    """Remembers what was seen, and what was given out."""

    def __init__(self, arguments: Sequence[str], defaults: BuildSpec) -> None:
        self._arguments = arguments
        self._defaults = defaults
        self._seen: dict[Path, Mapping[Path, Signature]] = {}
        self._given: dict[Path, Mapping[Path, Signature]] = {}

    def look(self) -> BatchPlan:
        """What is complete and settled since the last look, and not given out in this state."""
        plan = plan_batch(self._arguments, self._defaults, may_be_empty=True)
        ready: list[Planned] = []
        waiting: list[LeftOut] = list(plan.left_out)
        seen: dict[Path, Mapping[Path, Signature]] = {}
        for one in plan.items:
            try:
                state = Inputs.of(one.item.spec).files
            except GgufpackError:  # removed between two lines of ours
                continue
            seen[one.folder] = state
            if self._given.get(one.folder) == state:
                continue
            if (unready := _unready(one, plan.items)) is not None:
                waiting.append(LeftOut(one.item.spec.checkpoint, unready))
            elif self._seen.get(one.folder) == state:
                self._given[one.folder] = state
                ready.append(one)
        self._seen = seen
        return replace(plan, items=tuple(ready), left_out=tuple(waiting))


def _unready(one: Planned, all_items: Sequence[Planned]) -> str | None:
    """A checkpoint-N whose siblings have a trainer's state, and it has none: it is still being saved."""
    folder = one.item.spec.checkpoint
    if one.step is None or (folder / TRAINER_STATE).is_file():
        return None
    siblings = (
        other.item.spec.checkpoint
        for other in all_items
        if other.run == one.run and other.step is not None and other is not one
    )
    if any((sibling / TRAINER_STATE).is_file() for sibling in siblings):
        return f"It has no {TRAINER_STATE} yet, and others of its run have one."
    return None
