"""What a plan of the largest models costs: seconds, and the peak memory of both processes.

    python -m benchmarks.scale [NAME…]

The checkpoints are sparse files (``tests.support.large``): headers are real, weights are holes, so
a terabyte takes some megabytes of disk. Nothing is converted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.checkpoints import tiny_checkpoint
from tests.support.large import Large, deepseek_v3, llama_405b, write_large

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Planned:
    """One plan: what the command said, seconds (``cpu_seconds``: of all cores), peak RSS of both in bytes."""

    answer: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    parent_rss: int
    worker_rss: int


# name → the model, and whose tokenizer it gets
MODELS: Mapping[str, tuple[Callable[[], Large], str]] = {
    "llama-405b": (llama_405b, "llama3"),
    "deepseek-v3": (deepseek_v3, "starcoder2"),
    "most": (lambda: deepseek_v3(experts=2868, shards=400), "starcoder2"),  # nearly MAX_TENSORS
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME", help=", ".join(MODELS))
    chosen = parser.parse_args().models or list(MODELS)
    print("model         tensors  shards  source TB  plan s   CPU s  parent MiB  worker MiB  Q4_K_M GB")
    for name in chosen:
        make, tokenizer = MODELS[name]
        model = make()
        with tempfile.TemporaryDirectory(prefix="ggufpack-bench-") as folder:
            source = write_large(model, Path(folder) / name, tiny_checkpoint(tokenizer))
            made = planned(source)
        size = made.answer["disk_needed"]
        print(
            f"{name:12}{len(model.tensors):9,}{model.shards:8}{model.parameters * 2 / 1e12:11.2f}"
            f"{made.seconds:8.1f}{made.cpu_seconds:8.1f}{made.parent_rss >> 20:12}{made.worker_rss >> 20:12}"
            f"{size / 1e9:11.1f}",
            flush=True,
        )


def planned(checkpoint: Path, *options: str) -> Planned:
    """Run ``ggufpack plan`` and watch it.

    Raises:
        RuntimeError: it failed.
    """
    command = [
        sys.executable,
        "-m",
        "ggufpack",
        "plan",
        str(checkpoint),
        "--no-register",
        "--json",
        "--quiet",
    ]
    started, cpu_before = time.perf_counter(), _cpu_seconds()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=log)
        peaks: dict[int, int] = {}
        while process.poll() is None:
            for pid in _family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), _peak(pid))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        out.seek(0)
        log.seek(0)
        text = out.read().decode()
        if process.returncode:
            raise RuntimeError(text + log.read().decode())
    workers = [peak for pid, peak in peaks.items() if pid != process.pid]
    return Planned(
        json.loads(text), seconds, _cpu_seconds() - cpu_before, peaks[process.pid], max(workers, default=0)
    )


def _cpu_seconds() -> float:
    """Of all processes that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _peak(pid: int) -> int:
    """Bytes; from the kernel's own high-water mark, so that nothing between two looks is missed."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended
    return 0


if __name__ == "__main__":
    main()
