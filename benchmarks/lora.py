"""Adapters merged while converting, against PEFT's merge and a build of its result.

    python -m benchmarks.lora [--pairs 5] [--quantization F16]

Trains an adapter of SmolLM2 for two steps, then measures pairs in turn (the ratio of each pair is what
counts: the machine's load moves both) and compares the BF16 values of the two ways.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ggufpack import vendoring
from ggufpack.checkpoint.adapted import open_model
from ggufpack.convert.job import intermediate_precision
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from tests.support.checkpoints import smollm2_checkpoint
from tests.support.lora import gguf_tensors, merge_with_peft, train_adapter


def convert(worker: Worker, target: Path, quantization: str, checkpoint: Path, base: Path | None) -> Path:
    """One file from one pass."""
    with open_model(checkpoint, base) as opened:
        adaptation = opened.adaptation
        merge = None if adaptation is None else adaptation.merge.to_json()
        precision = intermediate_precision(opened.tensors.dtypes)
        worker.convert(Job(opened.folder, ((quantization, target),), precision, threads=1, merge=merge))
    return target


def differences(ours: Path, theirs: Path) -> dict[str, float | int]:
    """Of two BF16 files: how many values differ, by how much, and in ulps of the value."""
    count, largest, ulps = 0, 0.0, 0.0
    for (name, kind, left), (other, _, right) in zip(gguf_tensors(ours), gguf_tensors(theirs), strict=True):
        if name != other or (kind != "BF16" and left != right):
            raise SystemExit(f"{name}: {other} differs")
        if kind != "BF16":
            continue
        one, two = ((np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4") for data in (left, right))
        distance = np.abs(one - two)
        ulp = np.exp2(np.floor(np.log2(np.maximum(np.abs(one), np.finfo(np.float32).tiny))) - 7)
        count += int(np.count_nonzero(distance))
        largest, ulps = max(largest, float(distance.max())), max(ulps, float((distance / ulp).max()))
    return {"values_that_differ": count, "largest": largest, "ulps": ulps}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quantization", default="F16")
    options = parser.parse_args()
    base = smollm2_checkpoint()
    pairs = []
    with (
        tempfile.TemporaryDirectory(prefix="ggufpack-lora-") as scratch,
        Worker(vendoring.require()) as worker,
    ):
        folder = Path(scratch)
        adapter = train_adapter(base, folder / "adapter", steps=2, r=16, target_modules="all-linear")
        convert(worker, folder / "warm.gguf", options.quantization, base, None)
        for number in range(options.pairs):
            start = time.perf_counter()
            convert(worker, folder / "ours.gguf", options.quantization, adapter, base)
            middle = time.perf_counter()
            merged = merge_with_peft(base, [(adapter, 1.0)], folder / f"merged-{number}")
            convert(worker, folder / "theirs.gguf", options.quantization, merged, None)
            pairs.append((middle - start, time.perf_counter() - middle))
        found = {}
        for arithmetic in ("float32", "bfloat16"):
            other = merge_with_peft(base, [(adapter, 1.0)], folder / arithmetic, arithmetic=arithmetic)
            one = convert(worker, folder / "ours-bf16.gguf", "BF16", adapter, base)
            found[arithmetic] = differences(one, convert(worker, folder / "bf16.gguf", "BF16", other, None))
    print(
        json.dumps(
            {
                "quantization": options.quantization,
                "seconds": [[round(value, 3) for value in pair] for pair in pairs],
                "ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
                "difference_to_peft": found,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
