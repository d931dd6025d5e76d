"""One pass against two steps: ``python -m benchmarks.one_pass [-q TYPE] [--runs N] [CHECKPOINT]``.

Both ways make the same file, in turns, so that a noisy machine disturbs both alike. Printed are the
times of each pair and the median of their ratios; the one pass pays for its worker's start each time.
"""

from __future__ import annotations

import argparse
import filecmp
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ggufpack import vendoring
from ggufpack.convert.process import Worker, usable_cpus
from ggufpack.convert.protocol import Job
from tests.support import oracle
from tests.support.checkpoints import smollm2_checkpoint
from tests.support.llama_cpp import llama_programs


def main() -> None:
    """Run the pairs and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("-q", "--quantization", default="Q4_K_M")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    checkpoint = chosen.checkpoint or smollm2_checkpoint()
    llama_programs()
    vendor = vendoring.require()
    precision = oracle.source_outtype(checkpoint)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="ggufpack-bench-") as scratch:
        ours, theirs = Path(scratch) / "ours.gguf", Path(scratch) / "theirs.gguf"

        def one_pass() -> None:
            outputs = ((chosen.quantization, ours),)
            with Worker(vendor) as worker:
                worker.convert(Job(checkpoint, outputs, precision, threads=usable_cpus()))

        def two_steps() -> None:
            oracle.two_steps(checkpoint, chosen.quantization, theirs)

        for run in range(1, chosen.runs + 1):
            one, two = _seconds(one_pass), _seconds(two_steps)
            ratios.append(two / one)
            print(f"run {run}: one pass {one:.1f} s, two steps {two:.1f} s, ratio {two / one:.2f}")
        same = filecmp.cmp(ours, theirs, shallow=False)
    print(f"{chosen.quantization}: two steps ÷ one pass = {statistics.median(ratios):.2f} (median of")
    print(f"{len(ratios)} pairs); the files are {'identical' if same else 'DIFFERENT'}")


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
