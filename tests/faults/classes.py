"""The classes of faults: their names, how many tries each has, and how one is run."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import kills
from tests.faults.builder import Builder
from tests.faults.commands import kill_commands
from tests.faults.injected import count_calls, fail_calls
from tests.faults.places import odd_places
from tests.faults.preload import Action, Kind, Preload, compiler
from tests.faults.row import Row
from tests.faults.scene import NAME, SHAPE, Scene
from tests.faults.servers import Breakable, break_server
from tests.support.batch import Harness, command, training_output
from tests.support.checkpoints import tiny_checkpoint
from tests.support.ollama_build import find_ollama
from tests.support.ollama_server import RunningOllama, running_ollama


@dataclass
class Bench:
    """What a class works with: a folder, a stack that is left at the end, and random numbers."""

    row: Row
    scratch: Path
    stack: ExitStack
    random: random.Random

    def server(self, name: str) -> RunningOllama:
        """A real Ollama of one scene's own."""
        return self.stack.enter_context(running_ollama(find_ollama(), self.scratch / f"ollama-{name}"))

    def scene(self, name: str, **options: Any) -> Scene:
        """A scene that knows what is right."""
        return Scene(self.scratch / name, **options).learn()

    def builder(self, scene: Scene, preload: Preload) -> None:
        """One process for all builds of a scene; its own temporary files are out of reach."""
        temporary = scene.aside / "tmp"
        temporary.mkdir()
        environment = {
            **os.environ,
            **preload.environment,
            "TMPDIR": str(temporary),
            "XDG_CACHE_HOME": str(scene.cache),
        }
        scene.builder = self.stack.enter_context(Builder(environment, scene.aside / "log"))


@dataclass(frozen=True)
class FaultClass:
    """A class: its default number of tries, and what runs it."""

    tries: int
    run: Callable[[Bench, int], Row]


def _kill(bench: Bench, tries: int) -> Row:
    row = bench.row
    scenes = [
        bench.scene("plain"),
        bench.scene("overwrite", overwrite=True, store=True),
        bench.scene("register", server=bench.server("register"), store=True),
        bench.scene("replace", server=bench.server("replace"), overwrite=True),
    ]
    return kills.kill_builds(row, scenes, tries, bench.random)


def _interrupt(bench: Bench, tries: int) -> Row:
    row = bench.row
    scenes = [bench.scene("plain", store=True), bench.scene("register", server=bench.server("register"))]
    return kills.interrupt_builds(row, scenes, tries, bench.random)


def _kill_batch(bench: Bench, tries: int) -> Row:
    row = bench.row
    training = training_output(tiny_checkpoint(SHAPE), bench.scratch / "run", [1, 2])
    words = ["--no-register", "--jobs", "2", "--verify", "none", "-q", "Q8_0", "--template", "chatml"]
    seed = bench.random.randrange(1 << 30)
    harness = Harness(training, bench.scratch / "work", words, seed=seed, longest=14)
    tally = harness.tally
    row.problems.update(wrong=tally.corrupted, disk=tally.leftovers, rerun=tally.failed)
    while row.tries < tries:  # one batch after the other, each until it is done
        harness.kill(min(tries, tally.kills + kills.CHAIN))
        tally.failed += [*tally.lost, *tally.redone]
        tally.lost, tally.redone = [], []
        for _ in range(tally.kills - row.tries):
            row.tried()
        row.reruns = tally.batches
    return row.end()


def _failing(
    kinds: Kind,
    error: int,
    *,
    action: Action = Action.FAIL_ONCE,
    where: str = "",
    options: Mapping[str, Any] | None = None,
) -> Callable[[Bench, int], Row]:
    """Calls below ``where`` of a scene fail."""

    def run(bench: Bench, tries: int) -> Row:
        row = bench.row
        if compiler() is None:
            row.note = "not run: there is no C compiler"
            return row.end()
        scene = bench.scene("scene", **(options or {}))
        preload = Preload(bench.scratch, scene.folder / where)
        if action is not Action.KILL:
            bench.builder(scene, preload)
        return fail_calls(row, scene, preload, kinds, error, tries, bench.random, action=action)

    return run


def _reading(bench: Bench, tries: int) -> Row:
    """EIO in reads of the checkpoint."""
    row = bench.row
    if compiler() is None:
        row.note = "not run: there is no C compiler"
        return row.end()
    scene = bench.scene("scene")
    preload = Preload(bench.scratch, tiny_checkpoint(SHAPE))
    bench.builder(scene, preload)
    return fail_calls(row, scene, preload, Kind.READ | Kind.OPEN, errno.EIO, tries, bench.random)


def _server(verify: str, begins: float) -> Callable[[Bench, int], Row]:
    def run(bench: Bench, tries: int) -> Row:
        server = Breakable(find_ollama(), bench.scratch / "ollama")
        bench.stack.callback(server.kill)
        words = ("--verify", verify)
        scene = bench.scene("scene", server=server.seen(), words=words)
        return break_server(bench.row, scene, server, tries, bench.random, begins)

    return run


def _places(bench: Bench, _tries: int) -> Row:
    return odd_places(bench.row, bench.scene("scene", store=True, words=("--verify", "none", "--reuse")))


def _clock(bench: Bench, tries: int) -> Row:
    """The wall clock jumps by a day, forwards and back, in the middle of builds that share a cache."""
    row, scene = bench.row, bench.scene("scene", **_STORE)
    preload = Preload(bench.scratch, scene.folder)
    calls = count_calls(scene, preload, Kind.all())
    for number in range(tries):
        row.tried()
        day = 86400 if number % 2 else -86400
        preload.arm(0, Action.COUNT, Kind.all(), clock=(bench.random.randint(1, calls), day))
        done = scene.run(environment=preload.environment)
        row.add("rerun", None if done.code == 0 and scene._is_new() else f"code {done.code}: {done.err}")
        scene.look(row)
        scene.settled(row)
        scene.reset()
    return row.end()


def _commands(bench: Bench, tries: int) -> Row:
    scene = bench.scene("scene", store=True)
    package = bench.scratch / "package" / NAME
    scene.run()
    shutil.copytree(scene.package, package)
    store = shutil.copytree(scene.models, bench.scratch / "models")
    archive = bench.scratch / "models.tar"
    export = command("store", "export", "--store", store, "--output", archive)
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    kinds: list[Callable[[Path], list[str | Path]]] = [
        lambda folder: ["store", "add", package, "--store", folder / "models"],
        lambda folder: ["store", "export", "--store", store, "--output", folder / "models.tar"],
        lambda folder: ["store", "import", archive, "--store", folder / "models"],
        lambda folder: [
            *("publish", package, "--to", "hf:me/tiny", "--dry-run", "--allow", "GP164"),
            *("--output", folder / "repository"),
        ],
    ]
    return kill_commands(bench.row, kinds, bench.scratch, tries, bench.random)


_STORE = {"store": True, "words": ("--verify", "none", "--reuse")}

CLASSES: Mapping[str, FaultClass] = {
    "kill": FaultClass(200, _kill),
    "kill-batch": FaultClass(200, _kill_batch),
    "kill-in-call": FaultClass(400, _failing(Kind.all(), 0, action=Action.KILL, options=_STORE)),
    "enospc": FaultClass(400, _failing(Kind.changing(), errno.ENOSPC, options=_STORE)),
    "full-disk": FaultClass(
        400, _failing(Kind.growing(), errno.ENOSPC, action=Action.FAIL_ON, options=_STORE)
    ),
    "eio": FaultClass(400, _failing(Kind.changing(), errno.EIO, options=_STORE)),
    "edquot": FaultClass(100, _failing(Kind.growing(), errno.EDQUOT, action=Action.FAIL_ON, where="out")),
    "eio-read": FaultClass(400, _reading),
    "commands": FaultClass(200, _commands),
    "places": FaultClass(1, _places),
    "clock": FaultClass(20, _clock),
    "server": FaultClass(50, _server("none", 0.4)),
    # a model with random weights ends no answer: the smoke test would refuse it
    "server-verify": FaultClass(20, _server("prompts", 0.4)),
    "interrupt": FaultClass(60, _interrupt),
}
