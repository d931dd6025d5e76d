"""The classes of faults: their names, how many tries each has, and how one is run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import kills
from tests.faults.row import Row
from tests.faults.scene import SHAPE, Scene
from tests.support.batch import Harness, training_output
from tests.support.checkpoints import tiny_checkpoint
from tests.support.ollama_build import find_ollama
from tests.support.ollama_server import RunningOllama, running_ollama


@dataclass
class Bench:
    """What a class works with: a folder, a stack that is left at the end, and random numbers."""

    scratch: Path
    stack: ExitStack
    random: random.Random

    def server(self, name: str) -> RunningOllama:
        """A real Ollama of one scene's own."""
        return self.stack.enter_context(running_ollama(find_ollama(), self.scratch / f"ollama-{name}"))

    def scene(self, name: str, **options: Any) -> Scene:
        """A scene that knows what is right."""
        return Scene(self.scratch / name, **options).learn()


@dataclass(frozen=True)
class FaultClass:
    """A class: its default number of tries, and what runs it."""

    tries: int
    run: Callable[[Bench, int], Row]


def _kill(bench: Bench, tries: int) -> Row:
    row = Row("kill")
    scenes = [
        bench.scene("plain"),
        bench.scene("overwrite", overwrite=True, store=True),
        bench.scene("register", server=bench.server("register"), store=True),
        bench.scene("replace", server=bench.server("replace"), overwrite=True),
    ]
    return kills.kill_builds(row, scenes, tries, bench.random)


def _interrupt(bench: Bench, tries: int) -> Row:
    row = Row("interrupt")
    scenes = [bench.scene("plain", store=True), bench.scene("register", server=bench.server("register"))]
    return kills.interrupt_builds(row, scenes, tries, bench.random)


def _kill_batch(bench: Bench, tries: int) -> Row:
    row = Row("kill-batch")
    training = training_output(tiny_checkpoint(SHAPE), bench.scratch / "run", [1, 2])
    words = ["--no-register", "--jobs", "2", "--verify", "none", "-q", "Q8_0", "--template", "chatml"]
    tally = Harness(
        training, bench.scratch / "work", words, seed=bench.random.randrange(1 << 30), longest=14
    ).kill(tries)
    row.tries, row.reruns = tally.kills, tally.batches
    row.problems["wrong"] += tally.corrupted
    row.problems["disk"] += tally.leftovers
    row.problems["rerun"] += [*tally.lost, *tally.redone, *tally.failed]
    return row.end()


CLASSES: Mapping[str, FaultClass] = {
    "kill": FaultClass(200, _kill),
    "kill-batch": FaultClass(200, _kill_batch),
    "interrupt": FaultClass(60, _interrupt),
}
