"""Speed of the kernels beside ggml's own, in millions of weights a second.

    python -m benchmarks.kernels

The weights are BF16, as checkpoints are; ggml's side is given them as F32, which it needs. All kernels
take turns in every repetition, so that a busy machine slows them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from threading import Thread

import numpy as np

from ggufpack.quantize.kernels import Encoded, Kernels, available_kernels, load_kernels
from ggufpack.quantize.types import TensorType

COLUMNS = 4096
ROWS = 256
REPETITIONS = 7
THREADS = (1, 2)


@dataclass(frozen=True)
class Row:
    """One type's speed with one number of threads, in million weights a second.

    Attributes:
        tensor_type: what was written.
        threads: how many encoded at once, each its own weights.
        best: by kernel name, of the fastest repetition; ``reference`` is ggml.
        typical: by kernel name, of the median repetition.
    """

    tensor_type: TensorType
    threads: int
    best: dict[str, float]
    typical: dict[str, float]


def measure(types: tuple[TensorType, ...] = tuple(TensorType), repetitions: int = REPETITIONS) -> list[Row]:
    """Time every available kernel on normally distributed weights."""
    wide = np.random.default_rng(1).standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(0.02)
    brain = np.empty((ROWS, COLUMNS), np.uint16)
    load_kernels().encode(wide, TensorType.F32, COLUMNS, [(TensorType.BF16, brain.view(np.uint8).ravel())])
    found = []
    for tensor_type in types:
        outputs = [np.zeros(tensor_type.size(wide.size), np.uint8) for _ in range(max(THREADS))]
        for threads in THREADS:
            seconds: dict[str, list[float]] = {name: [] for name in available_kernels()}
            for _ in range(repetitions):
                for name, taken in seconds.items():
                    encode = _job(load_kernels(name), wide, brain, tensor_type)
                    taken.append(_timed(encode, outputs[:threads]))
            millions = wide.size * threads / 1e6
            best = {name: millions / min(taken) for name, taken in seconds.items()}
            typical = {name: millions / median(taken) for name, taken in seconds.items()}
            found.append(Row(tensor_type, threads, best, typical))
    return found


def _job(
    kernels: Kernels,
    wide: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    brain: np.ndarray[tuple[int, int], np.dtype[np.uint16]],
    tensor_type: TensorType,
) -> Callable[[Encoded], object]:
    if kernels.name == "reference":
        return lambda out: kernels.encode(wide, TensorType.F32, COLUMNS, [(tensor_type, out)])
    return lambda out: kernels.encode(brain, TensorType.BF16, COLUMNS, [(tensor_type, out)])


def _timed(encode: Callable[[Encoded], object], outputs: list[Encoded]) -> float:
    workers = [Thread(target=encode, args=(out,)) for out in outputs]
    start = time.perf_counter()
    if len(workers) == 1:
        encode(outputs[0])
    else:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return time.perf_counter() - start


def main() -> None:
    """Print the table: best (median) of the repetitions, and the ratio of the best."""
    names = [name for name in available_kernels() if name != "reference"]
    print(f"{'type':7} {'threads':>7} {'ggml':>16}" + "".join(f" {name:>24}" for name in names))
    for tensor_type in TensorType:
        for row in measure((tensor_type,)):
            ggml = row.best["reference"]
            line = f"{tensor_type.name:7} {row.threads:7} {ggml:7.0f} ({row.typical['reference']:6.0f})"
            for name in names:
                best, typical = row.best[name], row.typical[name]
                line += f" {best:8.0f} ({typical:6.0f}) {best / ggml:5.1f}x"
            print(line, flush=True)


if __name__ == "__main__":
    main()
