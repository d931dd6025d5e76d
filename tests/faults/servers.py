"""An Ollama that is killed, started again or stopped for a while at random moments of a build."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.kills import CHAIN, wrong_message
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.support.ollama_build import OllamaProgram
from tests.support.ollama_server import RunningOllama, free_port, wait_for_ollama

STOPPED_SECONDS = 3.0


class Breakable:
    """A server at one address and with one store, however often it is started."""

    def __init__(self, program: OllamaProgram, folder: Path) -> None:
        self._program, self._folder = program, folder
        self.host = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
        store = {"OLLAMA_HOST": self.host, "OLLAMA_MODELS": str(self.store), "HOME": str(self._folder)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program.path), "serve"],
                env={**kept, **store},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for_ollama(self._process, self.host, self.log)

    @property
    def store(self) -> Path:
        return self._folder / "models"

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def kill(self) -> None:
        """SIGKILL, for its engine processes too."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def kill_and_start(self) -> None:
        """It comes back at once."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """It answers nobody for some seconds."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS)
            os.killpg(self._process.pid, signal.SIGCONT)

    def seen(self) -> RunningOllama:
        """For a scene."""
        return RunningOllama(self.host, "", self._program, self.store, self.log)


def break_server(
    row: Row, scene: Scene, server: Breakable, tries: int, random_: random.Random, begins: float
) -> Row:
    """Break it in the middle of builds. ``begins``: the share of a build before it needs the server."""
    ways = itertools.cycle([server.kill, server.kill_and_start, server.pause])
    while row.tries < tries:
        for _ in range(CHAIN):
            way = next(ways)
            process = scene.start()
            started = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(random_.uniform(begins, 1) * scene.seconds)
                scene.reset()
                continue
            row.tried()
            way()
            done = scene.wait(process, started)
            if way == server.kill:
                server.start()
            if done.code not in (0, 6):
                row.add("message", f"{way.__name__}: code {done.code}: {done.err[-1500:]}{done.out[-500:]}")
            elif done.code == 6:
                row.add("message", wrong_message(done))
                scene.dirty = True  # what the dead server could not be asked to remove
            scene.look(row)
            if done.code == 0:
                row.add("rerun", None if scene._is_new() else "it ended well, with other bytes")
                scene.reset()
        scene.again(row)
    return row.end()
