"""SIGKILL and signals at random moments of a build."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil

from tests.faults.row import Row
from tests.faults.scene import Done, Scene
from tests.support.batch import kill_all

CHAIN = 4  # faults after each other, before the command is run to its end
ENDED = (0, 130, 143, 129)


def kill_builds(row: Row, scenes: Sequence[Scene], tries: int, random_: random.Random) -> Row:
    """Kill builds: everything, the parent alone, or the worker alone, at moments spread over a build."""
    whole = itertools.cycle([kill_all, _kill_parent, _kill_worker])
    for scene in itertools.cycle(scenes):
        for _ in range(CHAIN):
            if row.tries == tries:
                break
            _once(row, scene, next(whole), random_.uniform(0, scene.seconds))
        scene.again(row)
        if row.tries == tries:
            return row.end()
    raise AssertionError("no scene")


def _once(row: Row, scene: Scene, kill: object, moment: float) -> None:
    process = scene.start()
    started = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
        scene.reset()  # it was faster than measured: no fault
        return
    row.tried()
    if kill is _kill_worker:
        hit = _kill_worker(process)
        done = scene.wait(process, started)
        _check_end(row, done, hit=hit)
        scene.look(row)
        if done.code == 0:
            scene.reset()
        else:
            scene.settled(row, failed=True)  # it lived, and so it cleaned up
        return
    scene.dirty = True
    (kill_all if kill is kill_all else _kill_parent)(process)
    row.add("disk", scene._processes())
    scene.look(row)


def _kill_parent(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _kill_worker(process: subprocess.Popen[bytes]) -> bool:
    """Whether there was one."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "ggufpack.convert.worker" in child.cmdline():
                    child.kill()
                    return True
    return False


def _check_end(row: Row, done: Done, *, hit: bool) -> None:
    expected = (0, 4) if hit else (0,)
    if done.code not in expected:
        row.add("message", f"code {done.code}: {done.err[-1500:]}")
    elif done.code == 4:
        row.add("message", wrong_message(done, ["worker was killed"]))


def wrong_message(done: Done, words: Iterable[str] = ()) -> str | None:
    """What is wrong with how a command failed: it must say so in a sentence, and what to do."""
    problem, action = str(done.error.get("problem")), done.error.get("action")
    if done.code == 1 or not done.error:
        return f"code {done.code}: {done.err[-2500:]}{done.out[-500:]}"
    if done.error.get("exit_code") != done.code:
        return f"code {done.code}, and {done.error.get('exit_code')} in JSON"
    missing = [word for word in words if word not in problem]
    if missing or not (action or "." in problem):
        return f"{problem!r} lacks {missing}"
    return None


def interrupt_builds(row: Row, scenes: Sequence[Scene], tries: int, random_: random.Random) -> Row:
    """SIGINT, SIGTERM and SIGHUP: the build cleans up, and its exit code says what ended it."""
    signals = itertools.cycle([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    for scene in itertools.cycle(scenes):
        for _ in range(CHAIN):
            if row.tries == tries:
                break
            number = next(signals)
            process = scene.start()
            started = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(random_.uniform(0, scene.seconds))
                scene.reset()
                continue
            row.tried()
            process.send_signal(number)
            done = scene.wait(process, started)
            # before the command's first line runs, the signal does what it does to any program
            early = -number if not any(scene.temporary.iterdir()) else None
            if done.code not in (0, 128 + number, early):
                row.add("message", f"{number.name}: code {done.code}: {done.err[-1500:]}")
            scene.look(row)
            if done.code == 0:
                scene.reset()
            else:
                scene.settled(row, failed=True)
        scene.again(row)
        if row.tries == tries:
            return row.end()
    raise AssertionError("no scene")
