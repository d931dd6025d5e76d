"""``python -m tests.unit.batch.dying TRAINING JOURNAL STEP``: a batch that kills itself in its first item.

Steps: ``claimed``, ``half`` (files in the folder in the making), ``published``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufpack.batch.items import Item, ItemHandler, Outcome
from ggufpack.batch.journal import Journal
from ggufpack.batch.planning import plan_batch
from ggufpack.batch.run import BatchRun
from ggufpack.package_folder import package_folder
from ggufpack.spec import Stage, StageStarted
from ggufpack.target import target_of
from tests.unit.batch.builders import small_package, small_spec


class DyingExecutor:
    """Ends the process with SIGKILL."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.batch: BatchRun

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        item = items[0]
        if self.step == "claimed":
            self.die()
        on_event(item.key, StageStarted(Stage.CONVERSION, "Converting"))
        self.batch._digests[item.key].result()
        if self.step == "half":
            with package_folder(target_of(item.spec).folder, item.spec.token) as folder:
                (folder.working / "x").write_text("half")
                self.die()
        small_package(item)
        self.die()
        yield Outcome(item.key, "error", None, None, 0.0)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main(training: Path, journal: Path, step: str) -> None:
    executor = DyingExecutor(step)
    executor.batch = BatchRun(Journal(journal), executor, on_event=lambda _key, _event: None)
    plan = plan_batch([str(training)], small_spec(training.parent / "packages"))
    list(executor.batch.run(plan.items))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
