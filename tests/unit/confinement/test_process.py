"""A confined copy of a process: what it says, what it may do, and how it is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from ggufpack.confinement.landlock import abi
from ggufpack.confinement.seccomp import available

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a copy is made on Linux only")

SCRIPT = """
import json, os, sys, time, threading, socket
from pathlib import Path
from ggufpack.confinement import Confinement, process
process._free_memory = lambda: 150 << 20
process.MOST_THREADS = 50
process.LEAVE_SECONDS = 0.3
process.LONGEST_LINE = 1 << 20
own = Path(sys.argv[1])

def work(write, confined):
{work}

lines = []
confinement = Confinement(write=(own,), longest_file=3 << 20, written=8 << 20)
ended = process.run(confinement, work, lines.append)
print(json.dumps([ended.status, ended.excess, [line.decode() for line in lines]]))
"""


def ended(work: str, folder: Path, script: str = SCRIPT) -> tuple[int, str | None, list[str]]:
    """Status, excess and lines of a copy that does ``work``."""
    script = script.format(work=textwrap.indent(textwrap.dedent(work), "    "))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    answer: Any = json.loads(done.stdout.splitlines()[-1])
    return answer[0], answer[1], answer[2]


def test_it_says_lines_and_ends(tmp_path: Path) -> None:
    work = "os.write(write, b'one' * 50000 + b'\\ntwo\\n'); (own / 'a').write_text('x')"
    assert ended(work, tmp_path) == (0, None, ["one" * 50000, "two"])
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("work", "status", "excess"),
    [
        ("os._exit(3)", 3, None),
        ("raise ValueError", 1, None),
        ("os.abort()", -6, None),
        (
            "everything = [bytearray(os.urandom(1 << 20)) for _ in range(1000)]",
            -9,
            "0.2 GB of memory, and 0.2 GB",
        ),
        (
            "[threading.Thread(target=time.sleep, args=(30,)).start() for _ in range(60)]; time.sleep(9)",
            -9,
            "more than 50 threads",
        ),
        ("(own / 'a').write_bytes(bytes(4 << 20))", 1, None),
        (
            "for n in range(1000): (own / f'{n}').write_bytes(bytes(1 << 20)); time.sleep(0.02)",
            -9,
            "and the work needs at most 8,388,608",
        ),
        ("while True: os.write(write, bytes(65536))", -9, "its answer had no end"),
        ("os.close(write); time.sleep(60)", -9, "it did not end with its work"),
    ],
    ids=["exit", "error", "abort", "memory", "threads", "one file", "files", "answer", "goes on"],
)
def test_it_is_stopped(work: str, status: int, excess: str | None, tmp_path: Path) -> None:
    found_status, found, _ = ended(work, tmp_path)
    assert found_status == status
    assert (found is None) == (excess is None)
    assert (excess or "") in (found or "")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100 << 20


@pytest.mark.skipif(not (abi() and available()), reason="needs Landlock, and a known machine")
def test_it_listens_where_it_may_and_connects_nowhere(tmp_path: Path) -> None:
    work = """
    def outcome(attempt):
        try:
            attempt()
        except OSError as error:
            return type(error).__name__
        return "done"

    def listening(path, kind=socket.SOCK_STREAM):
        made = socket.socket(socket.AF_UNIX, kind)
        made.bind(str(path))
        made.listen()

    os.write(write, json.dumps({
        "listen": outcome(lambda: listening(own / "s" / "a")),
        "listen elsewhere": outcome(lambda: listening(own / "b")),
        "connect": outcome(lambda: socket.socket(socket.AF_UNIX).connect(str(own / "s" / "a"))),
        "datagram": outcome(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
        "internet": outcome(lambda: socket.socket()),
        "write there": outcome(lambda: (own / "s" / "c").write_text("x")),
    }).encode() + b"\\n")
    """.replace("own", "(own / 'top')")
    (tmp_path / "top" / "s").mkdir(parents=True)
    script = SCRIPT.replace("write=(own,)", "listen=own / 'top' / 's'")
    status, excess, (line,) = ended(work, tmp_path, script)
    assert (status, excess) == (0, None)
    assert json.loads(line) == {
        "listen": "done",
        "listen elsewhere": "PermissionError",
        "connect": "PermissionError",
        "datagram": "PermissionError",
        "internet": "PermissionError",
        "write there": "PermissionError",
    }


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    script = SCRIPT.format(work="    (own / 'pid').write_text(str(os.getpid())); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.DEVNULL) as parent:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert parent.poll() is None
        copy = Path("/proc") / (tmp_path / "pid").read_text()
        assert copy.exists()
        parent.kill()
        parent.wait()
    for _ in range(200):
        state = (copy / "stat").read_text().split(") ")[1][0] if copy.exists() else "gone"
        if state in {"gone", "Z"}:
            return
        time.sleep(0.02)
    pytest.fail(f"the copy is still {state}")
