"""ggufpack's files beside those of llama.cpp's two steps: equal, or where they first differ."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufpack.child import usable_cpus
from ggufpack.convert.process import Converted, Worker
from ggufpack.convert.protocol import Job
from tests.support import oracle

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """What became of one checkpoint.

    Attributes:
        converted: ggufpack's own files.
        differences: file type to the first place that differs; equal files have no entry.
    """

    converted: Converted
    differences: Mapping[str, str]


def compare_with_oracle(checkpoint: Path, wanted: Sequence[str], worker: Worker, scratch: Path) -> Comparison:
    """Convert to all of ``wanted`` in one pass, and each in llama.cpp's two steps.

    Args:
        checkpoint: a Hugging Face folder.
        wanted: canonical file types.
        worker: makes ggufpack's files.
        scratch: gets ``TYPE.gguf`` (ggufpack's) and ``source.gguf``; llama-quantize's files are removed.

    Raises:
        tests.support.oracle.OracleError: llama.cpp refused.
        ggufpack.errors.GgufpackError: ggufpack refused.
    """
    precision = oracle.source_outtype(checkpoint)
    ours = {name: scratch / f"{name}.gguf" for name in wanted}
    converted = worker.convert(Job(checkpoint, tuple(ours.items()), precision, threads=usable_cpus()))
    source = oracle.convert(checkpoint, scratch / "source.gguf", precision)
    differences = {}
    for name, path in ours.items():
        theirs = oracle.quantize(source, scratch / "oracle.gguf", name)
        if not filecmp.cmp(path, theirs, shallow=False):
            differences[name] = first_difference(path, theirs)
        theirs.unlink()
    return Comparison(converted, differences)


def first_difference(ours: Path, theirs: Path) -> str:
    """Where two GGUF files that are not equal first differ: a tensor and a byte of it, or the header."""
    from gguf import GGUFReader

    sizes = f"{ours.stat().st_size:,} and {theirs.stat().st_size:,} bytes"
    position = _first_byte(ours, theirs)
    reader = GGUFReader(theirs)
    if position < reader.data_offset:
        return f"the header, at byte {position} ({sizes})"
    for tensor in reader.tensors:
        inside = position - int(tensor.data_offset)
        if 0 <= inside < tensor.n_bytes:
            return f"{tensor.name} ({tensor.tensor_type.name}), at its byte {inside} of {tensor.n_bytes}"
    return f"padding or the end, at byte {position} ({sizes})"


def _first_byte(ours: Path, theirs: Path) -> int:
    position = 0
    with ours.open("rb") as one, theirs.open("rb") as other:
        while True:
            left, right = one.read(_BLOCK), other.read(_BLOCK)
            if left != right or not left:
                pairs = enumerate(zip(left, right, strict=False))
                shorter = min(len(left), len(right))
                return position + next((index for index, (a, b) in pairs if a != b), shorter)
            position += len(left)
