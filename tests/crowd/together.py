"""Processes that are started at once, waited for and weighed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.1
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Answer:
    """What one process said. ``code`` is negative when it did not end in time and was killed."""

    code: int
    out: str
    err: str

    @property
    def problem(self) -> str:
        """The one sentence of a failed command; its whole output where that is no single sentence."""
        said = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        return said[0] if len(said) == 1 and "Traceback" not in self.err else self.err


@dataclass(frozen=True)
class Together:
    """Answers in the order of the commands; ``peak_rss`` is the largest sum over all processes seen."""

    answers: tuple[Answer, ...]
    seconds: float
    peak_rss: int


def ggufpack(*words: str | Path) -> Command:
    """``ggufpack WORDS…``."""
    return [sys.executable, "-m", "ggufpack", *words]


def together(
    commands: Sequence[Command], folder: Path, limit: float, environment: Mapping[str, str] | None = None
) -> Together:
    """Run all commands at once; those that last longer than ``limit`` seconds are killed.

    Args:
        commands: what to run, each in ``folder``.
        folder: gets the outputs.
        limit: in seconds, for all of them.
        environment: is added to this process's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    running = [_start(command, folder, number, environment) for number, command in enumerate(commands)]
    peak = 0
    while any(process.poll() is None for process in running):
        peak = max(peak, sum(map(_resident, _families(running))))
        if time.perf_counter() - started > limit:
            for process in _families(running):
                process.kill()
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - started
    answers = [
        Answer(process.returncode, *((folder / f"{number}.{name}").read_text() for name in ("out", "err")))
        for number, process in enumerate(running)
    ]
    return Together(tuple(answers), seconds, peak)


def _start(
    command: Command, folder: Path, number: int, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    with (folder / f"{number}.out").open("wb") as out, (folder / f"{number}.err").open("wb") as err:
        return subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
        )


def _families(running: Iterable[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    found = []
    for process in running:
        try:
            parent = psutil.Process(process.pid)
            found += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
