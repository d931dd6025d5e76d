"""Commands that write files, killed in every call: run again, they leave the tree of an undisturbed run."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.injected import choose
from tests.faults.preload import Action, Kind, Preload
from tests.faults.row import Row
from tests.support.batch import command

Tree = dict[str, str]


def kill_commands(
    row: Row,
    commands: Sequence[Callable[[Path], list[str | Path]]],
    scratch: Path,
    tries: int,
    random_: random.Random,
) -> Row:
    """Each of ``commands`` gives the words for a folder that it writes to; ``tries`` are shared by them."""
    notes = []
    for words in commands:
        folder = scratch / "target"
        preload = Preload(scratch, folder)
        folder.mkdir()
        preload.arm(0, Action.COUNT, Kind.all())
        done = _run(words(folder), scratch, preload)
        if done.returncode != 0:
            raise RuntimeError(f"{words(folder)} failed undisturbed: {done.stderr}")
        calls, wanted = preload.seen().calls, tree_of(folder)
        shutil.rmtree(folder)
        chosen = choose(calls, max(2, tries // len(commands)), random_)
        notes.append(f"{' '.join(map(str, words(folder)[:2]))}: {len(chosen)} of {calls} calls")
        for call in chosen:
            folder.mkdir()
            row.tried()
            preload.arm(call, Action.KILL, Kind.all())
            _run(words(folder), scratch, preload)
            whole = {
                name: digest
                for name, digest in tree_of(folder).items()
                if digest and not _is_unfinished(name)
            }
            wrong = [name for name, digest in whole.items() if wanted.get(name) != digest]
            row.add("wrong", f"call {call}: {wrong}" if wrong else None)
            again = _run(words(folder), scratch, None)
            row.reruns += 1
            found = tree_of(folder)
            there = again.returncode == 2 and "exists" in again.stderr + again.stdout
            if again.returncode != 0 and not (there and found == wanted):
                row.add("rerun", f"call {call}: code {again.returncode}: {again.stderr[-800:]}")
            elif found != wanted:
                left = found.keys() ^ wanted.keys()
                row.add("disk" if left else "wrong", f"call {call}: {sorted(left) or 'other contents'}")
            shutil.rmtree(folder)
    row.note = "; ".join(notes)
    return row.end()


def tree_of(folder: Path) -> Tree:
    """Every file, and every folder that is empty."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def _is_unfinished(name: str) -> bool:
    """A temporary name."""
    return any(part.startswith(".") for part in Path(name).parts) or name.endswith("-partial")


def _run(
    words: Sequence[str | Path], scratch: Path, preload: Preload | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=scratch,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(scratch / "cache"),
            **({} if preload is None else preload.environment),
        },
        timeout=300,
    )
