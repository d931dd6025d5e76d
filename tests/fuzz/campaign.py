"""All targets, each in libFuzzer in a process of its own, and the table of how it went."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufpack.packages import cache_folder
from tests.fuzz import scratch, targets
from tests.fuzz.mutations import LARGEST

REGRESSIONS = Path(__file__).parent / "regressions"
SECONDS_AN_INPUT = 20  # a chat template may take 5, and the machine may be busy
MEMORY = 2048  # MiB
_FOUND = re.compile(r"(?:crash|timeout|oom|leak)-[0-9a-f]+")
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")
_COUNTED = re.compile(r"^#(\d+)\s", re.MULTILINE)
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """How a target went. ``found`` are the files of inputs that broke it."""

    target: str
    executions: int
    speed: int
    edges: int
    features: int
    found: tuple[Path, ...]
    slowest: int
    memory: int

    def count(self, kind: str) -> int:
        """Of the inputs that broke it: ``crash``, ``timeout`` or ``oom``."""
        return sum(path.name.startswith(kind) for path in self.found)


def default_corpus() -> Path:
    """Where what was found interesting is kept from one run to the next."""
    return cache_folder() / "fuzz"


def run(name: str, corpus: Path, *, executions: int, seconds: int) -> Row:
    """Fuzz one target until the executions or the seconds (0: no bound) are over, or an input breaks it."""
    target = targets.load(name)
    folder, broken = corpus / name, corpus / "broken" / name
    for made in (folder, broken):
        made.mkdir(parents=True, exist_ok=True)
    _write(folder, [*target.seeds(), *(path.read_bytes() for path in regressions(name))])
    before = set(broken.iterdir())
    work = scratch.make()
    words = work / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    command = [
        *(sys.executable, "-m", "tests.fuzz.engine", name, str(folder)),
        *(f"-runs={executions}", f"-max_total_time={seconds}", f"-max_len={LARGEST}"),
        *(f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={broken}/"),
        "-print_final_stats=1",
    ]
    if target.words:  # an empty dictionary is an error
        command.append(f"-dict={words}")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, scratch.FOLDER_VARIABLE: str(work)},
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found = tuple(sorted(path for path in broken.iterdir() if path not in before and _FOUND.match(path.name)))
    if done.returncode and not found:
        raise RuntimeError(f"{name} did not run:\n{done.stderr[-3000:]}")
    return _row(name, done.stderr, found)


def _row(name: str, log: str, found: tuple[Path, ...]) -> Row:
    statistics = {key: int(value) for key, value in _STATISTIC.findall(log)}
    edges, features = _COVERAGE.findall(log)[-1] if _COVERAGE.search(log) else (0, 0)
    counted = [int(number) for number in _COUNTED.findall(log)]
    return Row(
        name,
        statistics.get("number_of_executed_units", max(counted, default=0)),
        statistics.get("average_exec_per_sec", 0),
        int(edges),
        int(features),
        found,
        statistics.get("slowest_unit_time_sec", 0),
        statistics.get("peak_rss_mb", 0),
    )


def regressions(name: str) -> Sequence[Path]:
    """Inputs that broke a target once."""
    folder = REGRESSIONS / name
    return sorted(folder.iterdir()) if folder.is_dir() else []


def table(rows: Iterable[Row]) -> str:
    """One line a target, in Markdown."""
    lines = [
        "| target | executions | exec/s | edges | features | crashes | hangs | out of memory | slowest, s |"
        " peak, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.target} | {row.executions:,} | {row.speed:,} | {row.edges:,} | {row.features:,}"
        f" | {row.count('crash')} | {row.count('timeout')} | {row.count('oom')} | {row.slowest}"
        f" | {row.memory} |"
        for row in rows
    ]
    return "\n".join(lines)


def _write(folder: Path, inputs: Iterable[bytes]) -> None:
    for content in inputs:
        (folder / hashlib.sha256(content).hexdigest()[:40]).write_bytes(content)


def _escaped(word: bytes) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02X}" for byte in word
    )
