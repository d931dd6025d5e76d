"""Importance matrix files as llama.cpp's ``imatrix`` tool writes them (tools/imatrix/imatrix.cpp).

The tool itself is not built for the tests. GGUF files are made with gguf-py, the legacy ones field by
field. Sums are random; they stand for any text that a model could have read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
CHUNK_SIZE = 512


@dataclass(frozen=True)
class Collected:
    """What the tool collected for a tensor: sums of squares (experts, columns), tokens per expert."""

    sums: Floats
    counts: Floats


def collect(
    sizes: Mapping[str, tuple[int, int]], *, unused: Sequence[int] = (), seed: int = 7
) -> dict[str, Collected]:
    """Random sums, as of ``sizes``: tensor name to (experts, columns).

    Args:
        sizes: of the tensors.
        unused: experts that no token reached: sums and count are zero.
        seed: of the values.
    """
    random = np.random.default_rng(seed)
    found = {}
    for name, (experts, columns) in sizes.items():
        counts = random.integers(100, 2000, experts).astype(np.float32)
        means = random.gamma(0.5, size=(experts, columns)) + 1e-6
        sums = (means * counts[:, None]).astype(np.float32)
        idle = [expert for expert in unused if experts > 1 and expert < experts]
        sums[idle], counts[idle] = 0, 0
        found[name] = Collected(sums, counts)
    return found


def write_gguf(
    path: Path,
    collected: Mapping[str, Collected],
    *,
    datasets: Sequence[str] = ("wiki.train.raw",),
    chunks: int = 100,
) -> Path:
    """``save_imatrix``. gguf-py writes no empty list of datasets."""
    writer = gguf.GGUFWriter(path, arch="")
    writer.kv_data[0].clear()  # the tool names no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", datasets)
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", CHUNK_SIZE)
    for name, found in collected.items():
        writer.add_tensor(f"{name}.in_sum2", found.sums)
        writer.add_tensor(f"{name}.counts", found.counts[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_legacy(
    path: Path, collected: Mapping[str, Collected], *, dataset: str | None = None, chunks: int | None = 100
) -> Path:
    """``save_imatrix_legacy``; without chunks, as its first versions wrote it."""
    data = struct.pack("<i", len(collected))
    for name, found in collected.items():
        calls = -(-int(found.counts.max()) // CHUNK_SIZE)
        used = found.counts[:, None] > 0
        values = np.where(used, found.sums, 1) / np.where(used, found.counts[:, None], 1) * np.float32(calls)
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
        data += values.astype("<f4").tobytes()
    if chunks is not None:
        data += struct.pack("<i", chunks)
    if dataset is not None:
        data += struct.pack("<i", len(dataset.encode())) + dataset.encode()
    path.write_bytes(data)
    return path
