"""One batch against single builds: ``python -m benchmarks.batch [--items 12] [--smollm2] [--reuse]``.

Checkpoints of one base that differ in one tensor. Prints seconds of a single ``ggufpack build`` for each, of
one ``ggufpack batch``, and their ratio; both as commands, with everything that a start costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.batch import command, training_output
from tests.support.checkpoints import smollm2_checkpoint, tiny_checkpoint


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M instead of a tiny model")
    parser.add_argument("--arch", default="qwen2")
    parser.add_argument("--reuse", action="store_true", help="with the tensor cache, empty at the start")
    parser.add_argument("--verify", default="none")
    parser.add_argument("-q", "--quantization", default="Q4_K_M")
    options = parser.parse_args()
    source = smollm2_checkpoint() if options.smollm2 else tiny_checkpoint(options.arch)
    with tempfile.TemporaryDirectory(prefix="ggufpack-batch-") as folder:
        scratch = Path(folder)
        training = training_output(source, scratch / "run", range(1, options.items + 1))
        words = ["--no-register", "--verify", options.verify, "-q", options.quantization]
        cache = ["--reuse", "--cache", str(scratch / "cache")] if options.reuse else ["--no-reuse"]
        single = [
            seconds(command("build", one, "--name", one.name, "--output", scratch / "single", *words))
            for one in sorted(training.iterdir())
        ]
        batch = seconds(command("batch", training, "--output", scratch / "batch", *words, *cache))
        again = seconds(command("batch", training, "--output", scratch / "batch", *words, *cache))
    figures = {
        "items": options.items,
        "single_builds": round(sum(single), 1),
        "batch": round(batch, 1),
        "ratio": round(batch / sum(single), 3),
        "batch_again": round(again, 1),
        "reuse": options.reuse,
    }
    print(json.dumps(figures, indent=2))


def seconds(words: list[str]) -> float:
    """Wall time of a command."""
    started = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
