"""Batches that are killed at random moments, and what is left of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file, save_file

from ggufpack.batch.existing import digest_of
from ggufpack.registry import OllamaServer, leftovers

JOURNAL = ".ggufpack-batch.sqlite"


def training_output(source: Path, folder: Path, steps: Sequence[int]) -> Path:
    """A training output whose checkpoints differ in one tensor; other files are links into ``source``."""
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix == ".safetensors":
                tensors = load_file(file)
                name = max(name for name in tensors if name.endswith("mlp.down_proj.weight"))
                tensors[name] = tensors[name] * (1 + step / 1024)
                save_file(tensors, checkpoint / file.name, {"format": "pt"})
            else:
                os.link(file, checkpoint / file.name)
    return folder


def command(*words: str | Path) -> list[str]:
    """``ggufpack WORDS…`` of this checkout."""
    return [sys.executable, "-m", "ggufpack", *map(str, words)]


def start(words: Sequence[str | Path], scratch: Path) -> subprocess.Popen[bytes]:
    """A batch in a session of its own, with TMPDIR in ``scratch``; its output goes to files there."""
    scratch.mkdir(parents=True, exist_ok=True)
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    with (scratch / "out").open("ab") as out, (scratch / "err").open("ab") as err:
        return subprocess.Popen(
            command("batch", *words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        )


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all below it, whatever group they are in."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        with suppress(psutil.NoSuchProcess):
            top.send_signal(signal.SIGSTOP)  # it starts nothing any more
        for one in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def finished(journal: Path) -> dict[str, tuple[float, dict[str, str]]]:
    """Package folder to (time of its end, outputs by digest) of the items that the journal says are done."""
    if not journal.exists():
        return {}
    with closing(sqlite3.connect(journal, timeout=30)) as connection:
        try:
            rows = connection.execute(
                "SELECT target, changed, outputs FROM items WHERE state = 'done'"
            ).fetchall()
        except sqlite3.OperationalError:  # killed before the tables were there
            return {}
    return {target: (changed, json.loads(outputs)) for target, changed, outputs in rows}


def damaged(done: Mapping[str, tuple[float, Mapping[str, str]]]) -> list[str]:
    """Files of finished items that are not there with their digests."""
    return [
        f"{target}/{name}"
        for target, (_changed, outputs) in done.items()
        for name, digest in outputs.items()
        if digest_of(Path(target) / name) != digest
    ]


@dataclass
class Tally:
    """What killing brought about."""

    kills: int = 0
    batches: int = 0
    redone: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    corrupted: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return vars(self)


class Harness:
    """Batches of one training output, killed and resumed until done, again and again.

    Args:
        training: the checkpoints.
        scratch: for outputs and logs.
        words: options of ``ggufpack batch``.
        server: whose temporary names count; ``None``: nothing is registered.
        seed: of the moments.
        longest: seconds after the start within which a kill comes.
    """

    def __init__(
        self,
        training: Path,
        scratch: Path,
        words: Sequence[str],
        *,
        server: OllamaServer | None = None,
        seed: int = 0,
        longest: float = 20.0,
    ) -> None:
        self.training, self.scratch, self.words = training, scratch, words
        self.server = server
        self.random = random.Random(seed)
        self.longest = longest
        self.tally = Tally()

    def kill(self, times: int) -> Tally:
        """Kill ``times`` times; every batch is resumed until it is done."""
        while self.tally.kills < times:
            self._one_batch(times)
        return self.tally

    def _one_batch(self, times: int) -> None:
        self.tally.batches += 1
        folder = self.scratch / f"batch-{self.tally.batches}"
        output = folder / "packages"
        words = [str(self.training), "--output", str(output), *self.words]
        done: dict[str, tuple[float, dict[str, str]]] = {}
        while True:
            process = start(words, folder)
            code = self._wait(process, last=self.tally.kills >= times)
            now = finished(output / JOURNAL)
            self.tally.redone += [
                name for name, (changed, _) in done.items() if now.get(name, (0,))[0] != changed
            ]
            self.tally.lost += [name for name in done if name not in now or not Path(name).is_dir()]
            self.tally.corrupted += damaged(now)
            done = now
            if code is not None:
                break
        if code != 0:
            self.tally.failed.append((folder / "err").read_text()[-2000:])
        self._look_for_leftovers(folder, output, process.pid)
        shutil.rmtree(folder)

    def _wait(self, process: subprocess.Popen[bytes], *, last: bool) -> int | None:
        """The exit code, or ``None`` after a kill."""
        moment = self.random.uniform(0, self.longest)
        try:
            return process.wait(None if last else moment)
        except subprocess.TimeoutExpired:
            kill_all(process)
            self.tally.kills += 1
            return None

    def _look_for_leftovers(self, folder: Path, output: Path, session: int) -> None:
        expected = {JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", "index.html"}
        found = [
            path
            for path in output.iterdir()
            if path.name not in expected and not (path / "ggufpack.json").is_file()
        ]
        found += [path for path in output.rglob(".*") if path.name not in expected]
        self.tally.leftovers += [str(path) for path in {*found, *(folder / "tmp").iterdir()}]
        if self.server is not None:
            self.tally.leftovers += leftovers(self.server)
            for name in self.server.names():
                self.server.delete(name)
        time.sleep(0.5)
        self.tally.leftovers += [
            " ".join(one.info["cmdline"] or ())
            for one in psutil.process_iter(["cmdline"])
            if str(output) in " ".join(one.info["cmdline"] or ()) and one.pid != session
        ]
