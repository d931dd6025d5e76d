"""Every target on its seeds, on what broke it once, and on some thousand inputs of a seeded mutator."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import campaign, targets
from tests.fuzz.mutations import changed, changed_json

MUTATIONS = 3000
SECONDS = 2.5  # of a target, after which it is enough
SECONDS_AN_INPUT = 10.0  # of processor time


@pytest.mark.parametrize("name", targets.names())
def test_seeds_and_regressions(name: str) -> None:
    target = targets.load(name)
    for data in [*target.seeds(), *(path.read_bytes() for path in campaign.regressions(name))]:
        run(target, data)


@pytest.mark.parametrize("name", targets.names())
def test_mutations(name: str) -> None:
    target = targets.load(name)
    random = Random(name)
    inputs = [*target.seeds(), *(path.read_bytes() for path in campaign.regressions(name))]
    end = time.monotonic() + SECONDS
    for done in range(MUTATIONS):
        data = random.choice(inputs)
        as_json = target.is_json and random.random() < 0.5
        run(target, changed_json(data, random) if as_json else changed(data, target.words, inputs, random))
        if time.monotonic() > end and done >= 100:
            return


def run(target: targets.Target, data: bytes) -> None:
    begun = time.thread_time()
    try:
        target.one_input(data)
    except Exception as error:
        raise AssertionError(f"{target.name} on {data!r}") from error
    assert time.thread_time() - begun < SECONDS_AN_INPUT, f"{target.name} on {data!r}"


def test_regressions_are_of_targets() -> None:
    named = {folder.name for folder in campaign.REGRESSIONS.iterdir() if folder.is_dir()}
    assert named <= set(targets.names())


def test_a_target_that_breaks_is_noticed() -> None:
    def broken(data: bytes) -> None:
        assert b"\xff" not in data

    target = targets.Target("broken", broken, lambda: [b"a" * 8], (b"\xff",), is_json=False)
    with pytest.raises(AssertionError, match="broken on"):
        for number in range(500):
            run(target, changed(b"a" * 8, target.words, [b"a" * 8], Random(number)))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_engine_runs(tmp_path: Path) -> None:
    row = campaign.run("manifest", tmp_path, executions=500, seconds=0)
    assert row.executions >= 500
    assert row.edges > 0
    assert row.found == ()
