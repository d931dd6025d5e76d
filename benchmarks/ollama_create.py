"""Ollama's own way to a quantised model: ``ollama create -q`` from llama.cpp's F16 file.

    python -m benchmarks.ollama_create [-q Q4_K_M] [CHECKPOINT]

Beside it the one pass, and ``ollama create`` of what it made: both end as a model on the server.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoint import billion_checkpoint
from ggufpack import vendoring
from ggufpack.child import usable_cpus
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from tests.support import oracle
from tests.support.cache import say
from tests.support.ollama_build import find_ollama
from tests.support.ollama_server import RunningOllama, running_ollama


@dataclass(frozen=True)
class Creation:
    """Seconds of each step; ``bytes_equal`` says whether both ways stored the same model layer."""

    type: str
    version: str
    convert_f16: float
    create_quantized: float
    one_pass: float
    create: float
    bytes_equal: bool

    @property
    def ratio(self) -> float:
        """Ollama's way ÷ ours."""
        return (self.convert_f16 + self.create_quantized) / (self.one_pass + self.create)


def measure(checkpoint: Path, scratch: Path, kind: str = "Q4_K_M") -> Creation:
    """Both ways on a server of their own, in ``scratch``.

    Raises:
        BuildError: no Ollama can be had on this machine.
    """
    ours, f16 = scratch / f"{kind}.gguf", scratch / "f16.gguf"
    with running_ollama(find_ollama(), scratch) as server:
        say("ollama create -q, from F16")
        started = time.perf_counter()
        oracle.convert(checkpoint, f16, "f16")
        converted = time.perf_counter()
        quantized = _create(server, f16, "-q", kind)
        done = time.perf_counter()
        f16.unlink()
        with Worker(vendoring.require()) as worker:
            precision = oracle.source_outtype(checkpoint)
            worker.convert(Job(checkpoint, ((kind, ours),), precision, threads=usable_cpus()))
        written = time.perf_counter()
        plain = _create(server, ours)
        end = time.perf_counter()
        ours.unlink()
        return Creation(
            kind,
            server.version,
            converted - started,
            done - converted,
            written - done,
            end - written,
            quantized == plain,
        )


def _create(server: RunningOllama, gguf: Path, *options: str) -> str:
    """The digest of the model layer."""
    modelfile = gguf.with_name("Modelfile")
    modelfile.write_text(f"FROM {gguf}\n", encoding="utf-8")
    name = f"bench{len(server.manifests())}"
    subprocess.run(
        [str(server.program.path), "create", name, "-f", str(modelfile), *options],
        env={**os.environ, "OLLAMA_HOST": server.host, "HOME": str(server.store.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    shown = subprocess.run(
        [str(server.program.path), "show", "--modelfile", name],
        env={**os.environ, "OLLAMA_HOST": server.host, "HOME": str(server.store.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(line for line in shown.stdout.splitlines() if line.startswith("FROM "))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: 1.24 billion random weights")
    parser.add_argument("-q", "--quantization", default="Q4_K_M")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ggufpack-bench-") as folder:
        show(measure(chosen.checkpoint or billion_checkpoint(), Path(folder), chosen.quantization))


def show(found: Creation) -> None:
    """One line."""
    print(
        f"Ollama {found.version}, {found.type}: convert to F16 {found.convert_f16:.1f} s + ollama create -q"
        f" {found.create_quantized:.1f} s ÷ (one pass {found.one_pass:.1f} s + ollama create"
        f" {found.create:.1f} s) = {found.ratio:.2f}; model layers"
        f" {'identical' if found.bytes_equal else 'differ (Ollama quantises from F16)'}"
    )


if __name__ == "__main__":
    main()
