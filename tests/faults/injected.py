"""Every call of a build that touches the disk fails once, or the process is killed in it."""

from __future__ import annotations

import random

from tests.faults.kills import wrong_message
from tests.faults.preload import Action, Kind, Preload
from tests.faults.row import Row
from tests.faults.scene import Scene

RERUN_EVERY = 4


def count_calls(scene: Scene, preload: Preload, kinds: Kind) -> int:
    """How many calls of these kinds a build makes."""
    preload.arm(0, Action.COUNT, kinds)
    done = scene.run(environment=preload.environment)
    if done.code != 0:
        raise RuntimeError(f"A build with the library, and no fault, failed: {done.err}{done.out}")
    scene.reset()
    return preload.seen().calls


def choose(calls: int, tries: int, random_: random.Random) -> list[int]:
    """All calls, or half of ``tries`` from the first on and a sample of the others."""
    if calls <= tries:
        return list(range(1, calls + 1))
    first = tries // 2
    return [*range(1, first + 1), *sorted(random_.sample(range(first + 1, calls + 1), tries - first))]


def fail_calls(
    row: Row,
    scene: Scene,
    preload: Preload,
    kinds: Kind,
    error: int,
    tries: int,
    random_: random.Random,
    *,
    action: Action = Action.FAIL_ONCE,
) -> Row:
    """Let each call fail: what the command says then, and what is left."""
    calls = count_calls(scene, preload, kinds)
    chosen = choose(calls, tries, random_)
    row.note = "; ".join(filter(None, [row.note, f"{len(chosen)} of {calls} calls"]))
    for number, call in enumerate(chosen, 1):
        preload.arm(call, action, kinds, error)
        done = scene.run(environment=preload.environment)
        seen = preload.seen()
        if not seen.hits:  # there were fewer calls this time
            continue
        row.tried()
        said = f"call {call}, {seen.call} of {seen.path.replace(str(scene.folder), '')}"
        before = {kind: len(found) for kind, found in row.problems.items()}
        scene.look(row)
        if action is Action.KILL:
            scene.dirty = True
            row.add("disk", scene._processes())
        else:
            if done.code == 0:
                row.add("rerun", None if scene._is_new() else "it ended well, with other bytes")
                scene.reset()
            else:
                row.add("message", wrong_message(done))
            scene.settled(row, failed=done.code != 0)
        preload.arm(0, Action.COUNT, kinds)
        if number % RERUN_EVERY == 0 or number == len(chosen):
            scene.again(row)
        for kind, found in row.problems.items():
            found[before[kind] :] = [f"{said}: {problem}" for problem in found[before[kind] :]]
    return row.end()
