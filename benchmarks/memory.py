"""Peak memory of the worker, for one model and for one about four times as large.

    python -m benchmarks.memory [-q Q4_K_M]

The large checkpoint and its output take 14 GB of disk while this runs; where they do not fit, that
is said.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.checkpoint import billion_checkpoint, write_checkpoint
from ggufpack import vendoring
from ggufpack.child import usable_cpus
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from tests.support import oracle

LARGE_LAYERS = 77
_BYTES_A_LAYER = 122_000_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-q", "--quantization", default="Q4_K_M")
    chosen = parser.parse_args()
    print("weights in bytes   peak RSS MiB")
    _line(billion_checkpoint(), chosen.quantization)
    with tempfile.TemporaryDirectory(prefix="ggufpack-bench-") as folder:
        needed = LARGE_LAYERS * _BYTES_A_LAYER * 3 // 2
        if shutil.disk_usage(folder).free < needed:
            print(f"the larger model was left out: it needs {needed / 1e9:.0f} GB of disk")
            return
        large = Path(folder) / "large"
        large.mkdir()
        write_checkpoint(large, LARGE_LAYERS)
        _line(large, chosen.quantization)


def _line(checkpoint: Path, kind: str) -> None:
    size = sum(shard.stat().st_size for shard in checkpoint.glob("*.safetensors"))
    with (
        tempfile.TemporaryDirectory(prefix="ggufpack-bench-") as folder,
        Worker(vendoring.require()) as worker,
    ):
        output = Path(folder) / "out.gguf"
        precision = oracle.source_outtype(checkpoint)
        made = worker.convert(Job(checkpoint, ((kind, output),), precision, threads=usable_cpus()))
    print(f"{size:16,} {made.peak_rss >> 20:14}")


if __name__ == "__main__":
    main()
