"""What is said of a system that cannot hold a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggufpack.confinement import OFF_VARIABLE, Confined, Confinement, apply, confine, possible
from ggufpack.confinement.landlock import abi
from ggufpack.confinement.seccomp import available

EVERYTHING = ("files", "attributes", "network", "processes", "signals")


def test_a_system_that_can_do_everything_is_no_news() -> None:
    held = Confined(7, True, ())
    assert held.note is None
    assert Confined.from_json(held.to_json()) == held


def test_what_is_missing_is_said() -> None:
    note = Confined(0, True, ("files",)).note
    assert note is not None
    assert "does not keep it from other files. Feed it" in note
    note = Confined().note
    assert note is not None
    assert "from other files, modes and times of other files, the network, starting processes," in note


def test_switched_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFF_VARIABLE, "1")
    confined = confine(Confinement())
    assert confined == Confined(switched_off=True)
    assert confined.note is not None
    assert OFF_VARIABLE in confined.note


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_work_without(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("ggufpack.confinement.limits.limit_resources", lambda _: None)
    assert apply.confine(Confinement()).missing == EVERYTHING


# as an older kernel or another machine would answer; then what a stranger's code tries
OLDER = """
import json, os, socket, sys
from pathlib import Path
from ggufpack.confinement import Confinement, confine, landlock, seccomp
version, filtered, folder = int(sys.argv[1]), sys.argv[2] == "1", Path(sys.argv[3])
landlock.abi = lambda: version
seccomp.available = lambda: filtered
def outcome(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True
confined = confine(Confinement(write=(folder / "own",)))
reached = {
    "read": lambda: (folder / "secret").read_bytes(),
    "write": lambda: (folder / "secret").write_bytes(b""),
    "remove": lambda: (folder / "victim").unlink(),
    "cut": lambda: os.truncate(folder / "secret", 1),
    "attributes": lambda: os.utime(folder / "secret", (1, 1)),
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "processes": lambda: os.fork() or os._exit(0),
}
done = [name for name, attempt in reached.items() if outcome(attempt)]
(folder / "own" / "file").write_bytes(b"its own work")
with (folder / "own" / "file").open("r+b") as file:
    file.truncate(3)
done += ["attributes"] if (folder / "secret").stat().st_mtime == 1 and "attributes" not in done else []
print(json.dumps([confined.to_json(), done]))
"""


@pytest.mark.skipif(not (abi() >= 6 and available()), reason="needs a newer kernel than those it plays")
@pytest.mark.parametrize(
    ("version", "filtered", "missing", "reached"),
    [
        (0, True, ["files"], ["read", "write", "remove"]),
        (1, True, [], []),
        (2, True, [], []),
        (3, True, [], []),
        (1, False, EVERYTHING, ["cut", "attributes", "network", "processes"]),
        (3, False, EVERYTHING[1:], ["attributes", "network", "processes"]),
        (6, False, EVERYTHING[1:-1], ["attributes", "network", "processes"]),
    ],
)
def test_an_older_kernel_does_what_it_can_and_says_what_it_cannot(
    version: int, filtered: bool, missing: list[str], reached: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    for name in ("secret", "victim"):
        (tmp_path / name).write_text("a secret")
    command = [sys.executable, "-c", OLDER, str(version), str(int(filtered)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    confined, outcomes = json.loads(done.stdout)
    assert confined["landlock"] == version
    assert confined["system_calls"] is filtered
    assert confined["missing"] == list(missing)
    assert [name for name in outcomes if name != "attributes" or not filtered] == reached
    assert (tmp_path / "own" / "file").read_bytes() == b"its"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems hold nothing")
def test_what_the_system_can_do_is_told_without_doing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = possible()
    assert (found.landlock, found.system_calls) == (abi(), available())
    assert Path("/proc/self/status").read_text().count("Seccomp:\t0") == 1
    monkeypatch.setenv(OFF_VARIABLE, "1")
    assert possible() == Confined(switched_off=True)
