"""What the tensor cache saves: ``python -m benchmarks.reuse [--runs N] [--small | --large] [--folder DIR]``.

A checkpoint is converted without the cache, with an empty one, and, after a tenth of its weights was
changed, with the full one, all in one worker that has started; then the whole build (verify none) the
same way, and once more with another parameter in the Modelfile. Ratios are medians over the runs, each
run's own. SmolLM2-135M's rows are no multiples of 256, so most of its tensors get types that are faster to
encode than to keep; the random Llama (1.24 billion weights, made on the spot) has K-quants throughout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import ggufpack
from benchmarks.checkpoint import write_checkpoint
from ggufpack.child import usable_cpus
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.spec import Reused
from tests.support.cache import say
from tests.support.checkpoints import smollm2_checkpoint

LAYERS = 16
CHANGED = 0.1

# seconds, and what was reused, of one conversion or build with this cache (or none)
Run = Callable[[Path | None], tuple[float, Reused | None]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="of checkpoint, cache and output (a disk, or memory)")
    parser.add_argument("-q", "--quantization", default="Q4_K_M")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="SmolLM2 alone")
    size.add_argument("--large", action="store_true", help="the random Llama alone")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}, {chosen.quantization}")
    print("model            what        without  empty cache  90 % unchanged  empty÷without  second÷first")
    with (
        tempfile.TemporaryDirectory(prefix="ggufpack-bench-", dir=chosen.folder) as folder,
        ggufpack.open_worker() as worker,
    ):
        if not chosen.large:
            model = Path(folder) / "smollm2"
            shutil.copytree(smollm2_checkpoint(), model)
            _measure("SmolLM2-135M", model, worker, chosen.quantization, chosen.runs)
            shutil.rmtree(model)
        if not chosen.small:
            model = Path(folder) / "llama"
            model.mkdir()
            write_checkpoint(model, LAYERS)
            _measure("Llama 1.24 B", model, worker, chosen.quantization, chosen.runs)


def _measure(title: str, model: Path, worker: Worker, quantization: str, runs: int) -> None:
    scratch = model.parent / "scratch"

    def convert(cache: Path | None) -> tuple[float, Reused | None]:
        scratch.mkdir()
        job = Job(model, ((quantization, scratch / "out.gguf"),), "bf16", threads=usable_cpus(), cache=cache)
        started = time.perf_counter()
        reused = worker.convert(job).reused
        seconds = time.perf_counter() - started
        shutil.rmtree(scratch)
        return seconds, reused

    def build(cache: Path | None) -> tuple[float, Reused | None]:
        shutil.rmtree(scratch, ignore_errors=True)
        return build_again(cache)

    def build_again(cache: Path | None) -> tuple[float, Reused | None]:
        started = time.perf_counter()
        result = ggufpack.build(
            model,
            name="bench",
            quantization=quantization,
            output=scratch,
            template="chatml",
            parameters={"seed": time.time_ns() % 1000},
            overwrite=True,
            register=False,
            verify="none",
            reuse=cache is not None,
            cache=cache,
            worker=worker,
        )
        return time.perf_counter() - started, result.reused

    convert(None)  # the source is in the page cache, and the worker has started
    for what, run, again in (("conversion", convert, None), ("build", build, build_again)):
        say(f"{title}: {what}")
        _line(title, what, model, run, again, runs)
    shutil.rmtree(scratch)


def _line(title: str, what: str, model: Path, run: Run, run_again: Run | None, runs: int) -> None:
    without, empty, second, again, share = [], [], [], [], 0.0
    for _ in range(runs):
        cache = model.parent / "cache"
        without.append(run(None)[0])
        empty.append(run(cache)[0])
        change(model, CHANGED)
        seconds, reused = run(cache)
        second.append(seconds)
        if run_again is not None:
            again.append(run_again(cache)[0])
        share = 0.0 if reused is None else reused.bytes / (reused.bytes + reused.stored)
        shutil.rmtree(cache)
    middle = statistics.median
    cost = middle(b / a for a, b in zip(without, empty, strict=True))
    saved = middle(b / a for a, b in zip(without, second, strict=True))
    print(
        f"{title:16} {what:11}{middle(without):7.2f} s {middle(empty):9.2f} s {middle(second):12.2f} s"
        f" {cost:14.2f} {saved:13.2f}   ({share:.0%} of the kept bytes reused)",
        flush=True,
    )
    if again:
        ratio = middle(b / a for a, b in zip(without, again, strict=True))
        print(f"{title:16} other parameters: {middle(again):.2f} s, {ratio:.2f} of the first", flush=True)


def change(checkpoint: Path, share: float) -> None:
    """Flip the lowest bit of every weight of whole matrices, ``share`` of all weights, spread evenly."""
    seen = changed = 0
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        words = np.memmap(shard, dtype="<u2", mode="r+", offset=8 + length)
        for name, entry in header.items():
            if name == "__metadata__" or len(entry["shape"]) < 2 or "embed" in name:
                continue
            start, end = (offset // 2 for offset in entry["data_offsets"])
            seen += end - start
            if changed < share * seen - (end - start) / 2:
                words[start:end] ^= 1
                changed += end - start
        words.flush()


if __name__ == "__main__":
    main()
