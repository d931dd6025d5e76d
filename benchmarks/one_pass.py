"""One pass against llama.cpp's two steps: ``python -m benchmarks.one_pass [-q TYPES] [CHECKPOINT]``.

Both ways make the same files, in turns, so that a noisy machine disturbs both alike; ratios are of
pairs, and their median is printed. The converter runs once, and its time counts for each type.
"cold" pays for the worker's start, "warm" is a second job of a worker that has started. The floor
reads the source (from the page cache, where it is) and writes and syncs as many bytes as the output.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.checkpoint import billion_checkpoint
from ggufpack import vendoring
from ggufpack.child import usable_cpus
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.quantize.types import parse_file_types
from tests.support import oracle
from tests.support.cache import say
from tests.support.checkpoints import smollm2_checkpoint
from tests.support.llama_cpp import llama_programs

TYPES = ("Q4_K_M", "Q8_0", "Q4_0", "Q6_K", "Q5_K_M", "F16")
THREE = ("Q4_K_M", "Q8_0", "F16")
_BUFFER = 1 << 24


@dataclass(frozen=True)
class Row:
    """Medians in seconds, ratios of pairs, peaks in bytes."""

    type: str
    threads: int
    cold: float
    warm: float
    two_steps: float
    cold_ratio: float
    warm_ratio: float
    floor: float
    peak_rss: int
    quantize_rss: int
    identical: bool


class Bench:
    """One checkpoint's measurements."""

    def __init__(self, checkpoint: Path, scratch: Path) -> None:
        self.checkpoint, self.scratch = checkpoint, scratch
        self.vendor = vendoring.require()
        self.precision = oracle.source_outtype(checkpoint)
        self.source = scratch / "source.gguf"
        self.converter = _seconds(lambda: oracle.convert(checkpoint, self.source, self.precision))
        self.start_up = self.cold(("F16",), usable_cpus(), plan_only=True)[0]

    def job(self, types: tuple[str, ...], threads: int, *, plan_only: bool = False) -> Job:
        """To ``TYPE.gguf`` in the scratch folder."""
        outputs = tuple((name, self.scratch / f"{name}.gguf") for name in types)
        return Job(self.checkpoint, outputs, self.precision, threads=threads, plan_only=plan_only)

    def cold(self, types: tuple[str, ...], threads: int, *, plan_only: bool = False) -> tuple[float, int]:
        """Seconds and peak RSS, with the worker's start and end."""
        started = time.perf_counter()
        with Worker(self.vendor) as worker:
            peak = worker.convert(self.job(types, threads, plan_only=plan_only)).peak_rss
        return time.perf_counter() - started, peak

    def row(self, kind: str, threads: int, runs: int, warm: Worker) -> Row:
        """One line of the table."""
        ours, theirs = self.scratch / f"{kind}.gguf", self.scratch / "theirs.gguf"
        cold, hot, two, peaks, quantizer = [], [], [], [], []
        for _ in range(runs):
            seconds, peak = self.cold((kind,), threads)
            cold.append(seconds)
            peaks.append(peak)
            seconds, peak = _quantize(self.source, theirs, kind, threads)
            two.append(self.converter + seconds)
            quantizer.append(peak)
            hot.append(_seconds(lambda: warm.convert(self.job((kind,), threads))))
        same = filecmp.cmp(ours, theirs, shallow=False)
        floor = self.floor(ours.stat().st_size)
        ours.unlink()
        theirs.unlink()
        ratio, warm_ratio = (
            statistics.median(b / a for a, b in zip(times, two, strict=True)) for times in (cold, hot)
        )
        middle = statistics.median
        return Row(
            type=kind,
            threads=threads,
            cold=middle(cold),
            warm=middle(hot),
            two_steps=middle(two),
            cold_ratio=ratio,
            warm_ratio=warm_ratio,
            floor=floor,
            peak_rss=max(peaks),
            quantize_rss=max(quantizer),
            identical=same,
        )

    def floor(self, size: int) -> float:
        """Seconds to read the shards (page cache as it is) and to write and fsync ``size`` bytes."""
        started = time.perf_counter()
        for shard in self.checkpoint.glob("*.safetensors"):
            with shard.open("rb", buffering=0) as file:
                while file.read(_BUFFER):
                    pass
        block = os.urandom(_BUFFER)
        with (self.scratch / "floor").open("wb", buffering=0) as file:
            for start in range(0, size, _BUFFER):
                file.write(block[: size - start])
            os.fsync(file.fileno())
        seconds = time.perf_counter() - started
        (self.scratch / "floor").unlink()
        return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: 1.24 billion random weights")
    parser.add_argument("-q", "--quantizations", type=parse_file_types, default=TYPES)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="SmolLM2-135M instead")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    llama_programs()
    checkpoint = chosen.checkpoint or (smollm2_checkpoint() if chosen.quick else billion_checkpoint())
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ggufpack-bench-") as folder:
        bench = Bench(checkpoint, Path(folder))
        rows = []
        with Worker(bench.vendor) as warm:
            warm.convert(bench.job(("F16",), 1, plan_only=True))
            for threads in sorted({1, usable_cpus()}):
                for kind in chosen.quantizations:
                    say(f"{kind}, {threads} threads")
                    rows.append(bench.row(kind, threads, chosen.runs, warm))
        say(f"{', '.join(THREE)} at once")
        three = bench.cold(THREE, usable_cpus())[0]
        three_floor = bench.floor(sum((bench.scratch / f"{kind}.gguf").stat().st_size for kind in THREE))
        for kind in THREE:
            (bench.scratch / f"{kind}.gguf").unlink()
        alone = max(bench.cold((kind,), usable_cpus())[0] for kind in THREE)
    if chosen.json:
        figures = {"load": load, "converter": bench.converter, "start_up": bench.start_up}
        figures |= {"three_outputs_ratio": three / alone, "three_outputs_floor": three_floor}
        json.dump({**figures, "rows": [asdict(row) for row in rows]}, sys.stdout)
        return
    _print(rows, bench.start_up)
    print(
        f"{', '.join(THREE)} at once ÷ the slowest alone: {three:.1f} s ÷ {alone:.1f} s = {three / alone:.2f}"
        f" (its own floor: {three_floor:.1f} s)"
    )
    print(f"converter {bench.converter:.1f} s, start-up {bench.start_up:.1f} s, load average {load:.1f}")


def _print(rows: list[Row], start_up: float) -> None:
    print("type    threads   cold s   warm s  two s  two÷cold two÷warm  cold÷floor ÷(floor+start)  RSS MiB")
    for row in rows:
        above = row.cold / row.floor, row.cold / (row.floor + start_up)
        print(
            f"{row.type:8}{row.threads:7}{row.cold:9.1f}{row.warm:9.1f}{row.two_steps:7.1f}"
            f"{row.cold_ratio:10.2f}{row.warm_ratio:9.2f}{above[0]:12.2f}{above[1]:15.2f}"
            f"{row.peak_rss >> 20:6}/{row.quantize_rss >> 20} {'identical' if row.identical else 'DIFFERENT'}"
        )


def _quantize(source: Path, target: Path, kind: str, threads: int) -> tuple[float, int]:
    """Seconds and peak RSS of llama-quantize."""
    command = [str(llama_programs() / "llama-quantize"), str(source), str(target), kind, str(threads)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise oracle.OracleError(f"{' '.join(command)}: exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, usage.ru_maxrss * unit


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
