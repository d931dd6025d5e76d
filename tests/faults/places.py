"""Folders that cannot be written, or go away: builds end with a sentence, or do without."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.kills import wrong_message
from tests.faults.row import Row
from tests.faults.scene import Done, Scene

_SHARES = [number / 20 for number in range(4, 20)]  # of a build, after which its output folder is gone
SMALL_DISKS = ("64k", "256k", "1m", "2m", "2200k", "2300k")


@contextmanager
def mounted(path: Path, *options: str, again: str | None = None) -> Iterator[None]:
    """A mount at ``path``, for as long as the block lasts.

    Raises:
        CalledProcessError: this machine does not let us.
    """
    path.mkdir(exist_ok=True)
    _system("mount", *options, path)
    try:
        if again is not None:
            _system("mount", "-o", again, path)
        yield
    finally:
        _system("umount", "--lazy", path)


def _system(program: str, *words: str | Path) -> None:
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(program)
    subprocess.run([found, *words], check=True, capture_output=True)


def can_mount(scratch: Path) -> bool:
    """Whether this user may mount."""
    try:
        with mounted(scratch / "probe", "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def read_only(path: Path) -> tuple[str, ...]:
    """Words of ``mount`` that bind a folder to itself; remount it with ``remount,bind,ro``."""
    return ("--bind", str(path))


def odd_places(row: Row, scene: Scene) -> Row:
    """Each place once."""
    _output_goes_away(row, scene)
    if not can_mount(scene.aside):
        row.note = "mounts were not run: not allowed here"
        return row.end()
    remount = "remount,bind,ro"
    with mounted(scene.output, *read_only(scene.output), again=remount):
        _try(row, scene, "read-only output", lambda done: done.code == 2)
    with mounted(scene.cache, *read_only(scene.cache), again=remount):
        _try(row, scene, "read-only cache", lambda done: done.code in (0, 2))
    with mounted(scene.temporary, *read_only(scene.temporary), again=remount):
        _try(row, scene, "read-only TMPDIR", lambda done: done.code in (0, 2, 4))
    with mounted(scene.output, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        _try(row, scene, "output on another file system", lambda done: done.code == 0)
    for size in SMALL_DISKS:
        with mounted(scene.output, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
            _try(row, scene, f"a disk of {size}", lambda done: done.code in (0, 4))  # the last has room
    with mounted(scene.temporary, "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        _try(row, scene, "a full TMPDIR", lambda done: done.code in (0, 2, 4))
    return row.end()


def _try(row: Row, scene: Scene, what: str, expected: Callable[[Done], bool]) -> None:
    row.tried()
    done = scene.run()
    if not expected(done):
        row.add("message", f"{what}: code {done.code}: {done.err[-1500:]}{done.out[-500:]}")
    elif done.code == 0:
        row.add("rerun", None if scene._is_new() else f"{what}: other bytes")
    else:
        row.add("message", None if (said := wrong_message(done)) is None else f"{what}: {said}")
    scene.look(row)
    scene.settled(row, failed=done.code != 0)
    scene.dirty = False
    shutil.rmtree(scene.models, ignore_errors=True)
    shutil.rmtree(scene.package, ignore_errors=True)


def _output_goes_away(row: Row, scene: Scene) -> None:
    for share in _SHARES:
        row.tried()
        process = scene.start()
        started = time.monotonic()
        time.sleep(share * scene.seconds)
        if process.poll() is None:
            shutil.rmtree(scene.output, ignore_errors=True)
        done = scene.wait(process, started)
        if done.code != 0:
            row.add("message", wrong_message(done))
        scene.output.mkdir(exist_ok=True)
        scene.look(row)
        scene.settled(row, failed=done.code != 0)
        scene.reset()
    scene.again(row)
